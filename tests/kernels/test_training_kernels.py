"""One step of training through our own kernels, forwards and backwards, in Triton's interpreter.

Every weight's gradient is compared with torch's in float64. It may be three times as far off as that of torch's ops in
the same dtype, and a little more.
"""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from tape_models import BLIP2, BRIDGETOWER, blip2_loss, weights

import minivl.ops
from minivl.api.blip2 import Blip2ForConditionalGeneration
from minivl.api.bridgetower import HEADS, BridgeTowerForMatchingAndContrast
from minivl.demo import bridgetower_losses, losses, pool, statement_pool, train, train_bridgetower, vocabulary
from minivl.demo.learning import seated
from minivl.demo.statement_pool import StatementPool
from minivl.models import bridgetower
from minivl.weights import tree

FLOOR = {torch.float32: 4.0, torch.bfloat16: 0.5}  # rounding steps of the dtype at the largest gradient of the model


def small(config):
    """One layer of each kind; the widths stay, because the toy world's right answers have them."""

    def one(part, **values):
        return dataclasses.replace(part, num_hidden_layers=1, **values)

    if hasattr(config, "qformer_config"):
        parts = {name: one(getattr(config, name)) for name in ("vision_config", "qformer_config", "text_config")}
        return dataclasses.replace(config, **parts)
    return one(config, vision_config=one(config.vision_config), text_config=one(config.text_config))


def no_worse(ours, exact, reference, least=50):
    """{name: gradient or None} three times: the rule above, for each; the same ones are missing in all three."""
    dtype = next(grad.dtype for grad in reference.values() if grad is not None)
    largest = max(float(grad.abs().max()) for grad in exact.values() if grad is not None)
    floor = FLOOR[dtype] * torch.finfo(dtype).eps * largest
    assert sum(grad is not None for grad in exact.values()) >= least
    for name, truth in exact.items():
        assert (ours[name] is None) == (truth is None) == (reference[name] is None), name
        if truth is None:
            continue
        error, allowed = (float((grad.double() - truth.double()).abs().max()) for grad in (ours[name], reference[name]))
        assert error <= 3 * allowed + floor, f"{name}: off by {error:.2g}, torch by {allowed:.2g}; floor {floor:.2g}"
        if float(truth.abs().max()) > 1e-3 * largest:  # and it points where it should
            angle = torch.nn.functional.cosine_similarity(ours[name].double().flatten(), truth.double().flatten(), 0)
            assert angle > (0.99 if dtype == torch.bfloat16 else 0.999999), f"{name}: cosine {angle:.6f}"


class EveryHead(BridgeTowerForMatchingAndContrast):
    """All heads in one pass."""

    heads = tuple(HEADS)

    def output(self, flow, labels, words):
        found = super().output(flow, labels, return_loss=True)
        filled = self.ops.cross_entropy(bridgetower.fill(self.ops, self.params, flow.text, self.config), words)
        found.loss = found.loss + filled
        return found


def bridgetower_loss(model):
    rng, size = np.random.default_rng(1), model.config.vision_config.image_size
    ids = rng.integers(3, model.config.text_config.vocab_size, (2, 5))
    ids[0, 3:] = 1
    given = dict(input_ids=ids, attention_mask=(ids != 1).astype(int), pixel_values=rng.normal(size=(2, 3, size, size)))
    return model(**given, labels=[1, 0], words=model.ops.from_numpy(ids)).loss


@pytest.mark.parametrize(
    "kind, config, loss",
    [
        (Blip2ForConditionalGeneration, BLIP2["opt"], blip2_loss),
        (EveryHead, BRIDGETOWER["add"], bridgetower_loss),
    ],
    ids=["blip2", "bridgetower"],
)
def test_float32_step_of_the_classes(kind, config, loss):
    table = list(kind.table(small(config)))
    params = weights(table)

    def gradients(backend, dtype):
        ops = minivl.ops.get(backend, dtype)
        leaves = tree.map_leaves(lambda w: torch.tensor(w, dtype=dtype, requires_grad=True), params)
        loss(kind(small(config), ops=ops, params=leaves)).backward()
        return {name: w.grad for name, w in tree.flatten(table, leaves).items()}

    exact, reference = gradients("torch", torch.float64), gradients("torch", torch.float32)
    no_worse(gradients("triton", torch.float32), exact, reference)


@pytest.fixture(scope="module")
def toys():
    tokenizer = vocabulary.learn(["a large red ring above a small blue star\n", "Question: what is red? Answer: ring"])
    texts = [[("", " a ring"), ("Question: what is red? Answer:", " ring")], [("", " a star")] * 2]
    kinds = np.full((2, 8, 3), -100, np.int16)
    kinds[:, :, 0], kinds[:, ::4] = pool.NOTHING, [[[5, 5, 1]], [[3, 1, 0]]]
    places = np.zeros((2, 8, 3), np.float32)
    places[:, ::4] = [[[30, 20, 10]], [[40, 44, 6]]]
    pictures = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    return tokenizer, pool.Pool(pictures, kinds, places, *pool.tokenize(tokenizer, texts))


def steps(monkeypatch, student_of, lesson, lessons_of, table):
    """{name: gradient} of one lesson, in bfloat16 on our kernels, in float64 and in bfloat16 on torch."""
    found = []
    for backend, double in (("triton", False), ("torch", True), ("torch", False)):
        with monkeypatch.context() as patch:
            if double:
                for module in (losses, train_bridgetower):
                    patch.setattr(module, "half", partial(tree.map_leaves, torch.Tensor.double))
            student = seated(student_of(), backend)
            torch.manual_seed(3)
            lesson(student, lessons_of(), 1).backward()
            found.append({name: w.grad for name, w in tree.flatten(table, student.weights).items()})
    return found


def test_a_lesson_of_blip2(toys, monkeypatch):
    tokenizer, everything = toys
    config = small(train.configuration(tokenizer.get_vocab_size(), 5))
    table = list(train.names.blip2(config))
    found = steps(
        monkeypatch, lambda: train.newborn(config, 1), train.together, lambda: train.Lessons(everything, 0, 1), table
    )
    no_worse(*bfloat16(found))


def bfloat16(found):
    """Weights are kept in float32, so their gradients come in it; they were computed in bfloat16."""
    ours, exact, reference = found
    return ours, exact, {name: None if grad is None else grad.bfloat16() for name, grad in reference.items()}


def test_a_lesson_of_bridgetower(toys, monkeypatch):
    for name, only in (("DEPTHS", {1: 1.0}), ("BLURS", {1: 0.1})):  # the small tower has one layer
        monkeypatch.setattr(bridgetower_losses, name, only)
    tokenizer, made = statement_pool.learn_words(), toys[1]
    everything = StatementPool(made.pictures, made.kinds, made.places, *4 * [np.zeros((2, 6, 3), int)])
    config = small(train_bridgetower.configuration(tokenizer.get_vocab_size()))
    found = steps(
        monkeypatch,
        lambda: train_bridgetower.newborn(config, 1),
        train_bridgetower.eyes,
        lambda: train_bridgetower.Lessons(everything, tokenizer, 1),
        list(train_bridgetower.AllHeads.table(config)),
    )
    no_worse(*bfloat16(found), least=15)
