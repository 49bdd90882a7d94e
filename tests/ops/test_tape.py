"""Gradients of arithmetic, of every op and of whole models on the tape, against torch's autograd in float64."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from gradients import cases
from tape_models import BLIP2, BRIDGETOWER, blip2_loss, weights

import minivl.ops
from minivl.api.blip2 import Blip2ForConditionalGeneration
from minivl.api.bridgetower import HEADS, BridgeTowerForMaskedLM, BridgeTowerForMatchingAndContrast
from minivl.errors import InputError
from minivl.ops import tape
from minivl.weights import tree

TORCH = minivl.ops.get("torch", torch.float64)
ARITHMETIC = {
    "x + y": lambda x, y: x + y,
    "x - y": lambda x, y: x - y,
    "1 - x": lambda x, y: 1 - x,
    "-x": lambda x, y: -x,
    "x · y": lambda x, y: 2 * x * y,
    "x / y": lambda x, y: x / (y * y + 1),
    "x broadcast": lambda x, y: x[:, :1] + y[0] * x[1, 2],
    "x · x": lambda x, y: x * x * x,
    "x²": lambda x, y: (x * x + 1) ** 0.5 + x**2,
    "aˣ": lambda x, y: math.e**x + 2.5**y,
    "x yᵀ": lambda x, y: x @ y.swapaxes(0, 1),
    "x yᵀ, one x for many y": lambda x, y: x @ (y[:, None] * y).swapaxes(1, 2),
    "clip": lambda x, y: x.clip(min=0.25),
    "reshape": lambda x, y: x.reshape(2, 6) @ y.reshape((6, 2)),
    "sum": lambda x, y: x.sum() * y,
    "sum over an axis": lambda x, y: x.sum(-1)[:, None] * y + x.sum(0),
    "mean": lambda x, y: x.mean() * y + y.mean(-1)[:, None],
    "slices": lambda x, y: x[1:, ::2] * y[None, :2, 1:3] + x[..., 1:, -1:],
    "rows, some twice": lambda x, y: x[np.array([0, 2, 0, 0])] * 3,
    "places, some twice": lambda x, y: x[np.array([0, 2, 0]), np.array([1, 1, 1])],
    "a mask": lambda x, y: x[np.array([True, False, True])] * 2,
    "used again and again": lambda x, y: sum((x * i + y for i in range(3)), x),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name, rng):
    numbers = rng.normal(size=(2, 3, 4))
    ours = [tape.Array(x) for x in numbers]
    theirs = [torch.tensor(x, requires_grad=True) for x in numbers]
    (mine, wanted) = (ARITHMETIC[name](*both) for both in (ours, theirs))
    np.testing.assert_allclose(mine.value, wanted.detach().numpy(), rtol=1e-12)
    weight = rng.normal(size=mine.shape)  # so that the gradients of the output differ from place to place
    (mine * weight).sum().backward()
    (wanted * torch.tensor(weight)).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if b.grad is not None:
            np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-12, atol=1e-13)


def test_plain_arrays_stay_plain_and_meet_others_on_either_side(rng):
    x, y = rng.normal(size=(2, 3, 4))
    assert type(tape.OPS.linear(x, y)) is np.ndarray
    assert type(tape.OPS.concat([x, y], 0)) is np.ndarray
    for other in (y, np.float64(2), 2):
        for both in (other + tape.Array(x), other - tape.Array(x), other * tape.Array(x)):
            assert type(both) is tape.Array and both.dtype == np.float64
    assert type(y @ tape.Array(x.T)) is tape.Array
    assert tape.OPS.to_numpy(tape.Array(x)) is x and tape.OPS.to_numpy(x) is x
    leaf = tape.Array(x)
    assert tape.OPS.from_numpy(leaf) is leaf


@pytest.mark.parametrize("case", cases(np.random.default_rng(3)), ids=lambda case: case.name)
def test_every_op(case, rng):
    """Whatever may have a gradient has it, given by place or by name, and is left alone where it is an array."""
    out = np.asarray(case.run(minivl.ops.get("numpy")))
    dout = rng.normal(size=out.shape)
    leaves = {name: tape.Array(x) for name, x in case.floats().items()}
    traced = case.replaced(leaves).run(tape.OPS)
    np.testing.assert_array_equal(traced.value, out)
    (traced * dout).sum().backward()
    for name, grad in case.backward(dout).items():
        np.testing.assert_allclose(leaves[name].grad, grad, rtol=1e-12)


def test_concat_and_broadcast(rng):
    x, y = (tape.Array(rng.normal(size=(2, n))) for n in (3, 1))
    joined = tape.OPS.concat([x, tape.OPS.broadcast_to(y, (2, 4)), np.ones((2, 1))], 1)
    weight = rng.normal(size=(2, 8))
    (joined * weight).sum().backward()
    np.testing.assert_array_equal(x.grad, weight[:, :3])
    np.testing.assert_allclose(y.grad, weight[:, 3:7].sum(1, keepdims=True), rtol=1e-12)


def test_gradients_add_up_until_they_are_taken(rng):
    x = tape.Array(rng.normal(size=3))
    for times in (1, 2, 3):
        (2 * x).sum().backward()
        np.testing.assert_array_equal(x.grad, np.full(3, 2.0 * times))


def test_a_loss_is_one_number(rng):
    with pytest.raises(InputError, match=r"backward starts from one number, a loss, and this array has shape \(3,\)"):
        (2 * tape.Array(rng.normal(size=3))).backward()


def test_a_deep_computation_needs_no_deep_stack():
    x = start = tape.Array(np.float64(0.5))
    for _ in range(5000):
        x = x * 1.0
    x.backward()
    assert start.grad == 1


def test_the_memory_of_a_step_goes_with_its_loss(rng):
    """Nothing keeps hold of a computation whose result has been dropped."""
    x = tape.Array(rng.normal(size=3))
    middle = x * 2
    gone = weakref.ref(middle)
    loss = middle.sum()
    loss.backward()
    gc.disable()
    try:
        del middle, loss
        assert gone() is None
    finally:
        gc.enable()


# ---- whole models ----------------------------------------------------------------------------------------------------


def alike(kinds, config, params, loss):
    """The loss of models (one class or several, on one tree) and the gradient of every weight: the tape's and torch's.

    A weight that no loss reaches has no gradient in either.   -> how many weights have one, and how many there are
    """
    ours = tree.map_leaves(tape.Array, params)
    theirs = tree.map_leaves(lambda w: torch.tensor(w, requires_grad=True), params)
    mine, wanted = (
        loss(*(kind(config, ops=ops, params=p) for kind in kinds)) for ops, p in ((tape.OPS, ours), (TORCH, theirs))
    )
    np.testing.assert_allclose(mine.value, wanted.item(), rtol=1e-10)
    mine.backward()
    wanted.backward()
    table = [entry for kind in kinds for entry in kind.table(config)]
    found, truth = (tree.flatten(table, p) for p in (ours, theirs))
    largest = max(np.abs(w.grad.numpy()).max() for w in truth.values() if w.grad is not None)
    for name, w in truth.items():
        assert (w.grad is None) == (found[name].grad is None), name
        if w.grad is not None:
            grad = found[name].grad
            assert grad.shape == found[name].shape
            np.testing.assert_allclose(grad, w.grad.numpy(), rtol=1e-8, atol=1e-11 * largest, err_msg=name)
    return sum(w.grad is not None for w in truth.values()), len(truth)


def bridgetower_loss(fill, compare):
    rng, config = np.random.default_rng(1), fill.config
    size = config.vision_config.image_size
    pixels = rng.normal(size=(3, 3, size, size)).astype(np.float32)
    ids = rng.integers(3, config.text_config.vocab_size, (3, 5))
    ids[0, 3:] = 1
    given = dict(input_ids=ids, attention_mask=(ids != 1).astype(int), pixel_values=pixels)
    filled = fill(**given, labels=np.where(rng.random(ids.shape) < 0.6, ids, -100)).loss
    return filled + compare(**given, labels=[1, 0, 1], return_loss=True).loss


HEADED = BridgeTowerForMaskedLM, BridgeTowerForMatchingAndContrast
BLIP2_KINDS = (Blip2ForConditionalGeneration,)


@pytest.mark.parametrize("name", BLIP2)
def test_every_weight_of_a_small_blip2(name):
    config = BLIP2[name]
    reached, there = alike(BLIP2_KINDS, config, weights(BLIP2_KINDS[0].table(config)), blip2_loss)
    assert reached == there


@pytest.mark.parametrize("name", BRIDGETOWER)
def test_every_weight_of_a_small_bridgetower(name):
    config = BRIDGETOWER[name]
    params = {**weights(HEADED[1].table(config)), **weights(HEADED[0].table(config))}
    reached, there = alike(HEADED, config, params, bridgetower_loss)
    assert there - reached == 2  # the text tower's own pooler is never read
    assert {head for kind in HEADED for head in kind.heads} == set(HEADS)


def test_every_weight_of_the_demo_blip2():
    model = Blip2ForConditionalGeneration.from_pretrained("demo")
    params = tree.map_leaves(lambda w: w.astype(np.float64), model.params)
    reached, there = alike(BLIP2_KINDS, model.config, params, blip2_loss)
    assert reached == there > 150


def test_every_weight_of_the_demo_bridgetower():
    fill, compare = (kind.from_pretrained("demo-bridgetower") for kind in HEADED)
    params = tree.map_leaves(lambda w: w.astype(np.float64), {**compare.params, **fill.params})
    reached, there = alike(HEADED, fill.config, params, bridgetower_loss)
    assert there - reached == 2 and there > 150
