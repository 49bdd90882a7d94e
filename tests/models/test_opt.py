"""OPT against transformers, after every layer; padding and the cache against the same words without them."""

import numpy as np
import oracle
import pytest

import minivl.ops
from minivl.errors import InputError
from minivl.models import opt
from minivl.weights import tree

ODD = {
    "plain": {},
    "head of its own": dict(tie_word_embeddings=False),
    "norm after": dict(do_layer_norm_before=False),
    "norm after, head of its own": dict(do_layer_norm_before=False, tie_word_embeddings=False),
    "no last norm": dict(_remove_final_layer_norm=True),
    "norm after, no last norm": dict(do_layer_norm_before=False, _remove_final_layer_norm=True),
    "no biases": dict(enable_bias=False),
    "norms without weights": dict(layer_norm_elementwise_affine=False),
    "norms without weights, norm after": dict(layer_norm_elementwise_affine=False, do_layer_norm_before=False),
    "one head": dict(num_attention_heads=1),
    "one layer": dict(num_hidden_layers=1),
    "narrow mlp": dict(ffn_dim=1),
} | {f"activation_function {name}": dict(activation_function=name) for name in oracle.ACTIVATIONS}

FULL = np.ones((2, 7), np.int64)
# Padding stands after the picture's soft words, so no row is without anything to see.
GAPS = np.array([[1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1]])
RIGHT = np.array([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])


def embeds_for(config, mask, dtype, seed=1):
    return np.random.default_rng(seed).normal(size=(*mask.shape, config.hidden_size)).astype(dtype)


def check(config, folder, ops, dtype, mask=FULL, seed=0):
    model = oracle.text_model(oracle.TEXT | config, seed).to(getattr(oracle.torch, dtype))
    mine, params = oracle.ours(model, folder, dtype)
    embeds = embeds_for(mine, mask, dtype, seed)
    got, want = oracle.our_text_trace(ops, mine, params, embeds, mask), oracle.text_trace(model, embeds, mask)
    oracle.compare(got, want, oracle.TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", oracle.TOLERANCE)
@pytest.mark.parametrize("odd", ODD)
def test_every_layer(odd, dtype, np_ops, tmp_path):
    check(ODD[odd], tmp_path, np_ops, dtype)


@pytest.mark.parametrize("mask", [FULL, GAPS, RIGHT, FULL[:, :1]], ids=["full", "gaps", "right", "one token"])
@pytest.mark.parametrize("before", [True, False])
def test_every_layer_with_padding(mask, before, np_ops, tmp_path):
    check(dict(do_layer_norm_before=before), tmp_path, np_ops, "float64", mask)


@pytest.mark.parametrize("seed", range(20))
def test_every_layer_of_random_configurations(seed, np_ops, tmp_path):
    mask = [FULL, GAPS, RIGHT][seed % 3]
    check(oracle.draw_text(seed), tmp_path, np_ops, ["float32", "float64"][seed % 2], mask, seed)


def test_torch_record(tmp_path):
    """The same model source on the torch record."""
    ops = minivl.ops.get("torch")
    model = oracle.text_model(oracle.TEXT)
    config, params = oracle.ours(model, tmp_path)
    embeds = embeds_for(config, GAPS, "float32")
    params = tree.map_leaves(ops.from_numpy, params)
    trace = oracle.our_text_trace(ops, config, params, ops.from_numpy(embeds), ops.from_numpy(GAPS))
    theirs = oracle.text_trace(model, embeds, GAPS)
    oracle.compare({name: ops.to_numpy(x) for name, x in trace.items()}, theirs, oracle.TOLERANCE["float32"])


def hidden(ops, params, embeds, mask, config, cache=None):
    *_, last = opt.states(ops, params, embeds, mask, config, cache)
    return last


@pytest.mark.parametrize("kept", ["left", "right", "scattered"])
@pytest.mark.parametrize("before", [True, False])
def test_padding_changes_nothing(kept, before, np_ops, tmp_path):
    """Rows of 7, 4 and 2 tokens in one batch, against each row by itself."""
    config, params = oracle.ours(oracle.text_model(oracle.TEXT | dict(do_layer_norm_before=before)), tmp_path)
    places = {
        "left": [[*range(7)], [3, 4, 5, 6], [5, 6]],
        "right": [[*range(7)], [0, 1, 2, 3], [0, 1]],
        "scattered": [[*range(7)], [0, 2, 3, 6], [1, 5]],
    }[kept]
    mask = np.zeros((3, 7), np.int64)
    for row, columns in enumerate(places):
        mask[row, columns] = 1
    embeds = embeds_for(config, mask, "float32")
    together = hidden(np_ops, params, embeds, mask, config)
    for row, columns in enumerate(places):
        alone = hidden(np_ops, params, embeds[row : row + 1, columns], np.ones((1, len(columns)), np.int64), config)
        np.testing.assert_allclose(together[row, columns], alone[0], atol=1e-5)


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("steps", [[1] * 12, [5] + [1] * 7, [7, 3, 2], [2, 1, 8, 1], [12]], ids=str)
def test_cached_reading_equals_reading_at_once(steps, before, gap, np_ops, tmp_path):
    model = oracle.text_model(oracle.TEXT | dict(do_layer_norm_before=before))
    config, params = oracle.ours(model, tmp_path, "float64")
    mask = np.ones((2, 12), np.int64)
    mask[0, 2 : 2 + gap] = 0
    embeds = embeds_for(config, mask, "float64")
    cache, read, parts = opt.new_cache(params), 0, []
    for step in steps:
        part = slice(read, read + step)
        parts.append(hidden(np_ops, params, embeds[:, part], mask[:, : part.stop], config, cache))
        read += step
    np.testing.assert_allclose(np.concatenate(parts, 1), hidden(np_ops, params, embeds, mask, config), atol=1e-12)


def test_two_caches_do_not_meet(np_ops, tmp_path):
    config, params = oracle.ours(oracle.text_model(oracle.TEXT), tmp_path)
    ones = np.ones((1, 4), np.int64)
    a, b = (embeds_for(config, ones, "float32", seed) for seed in (1, 2))
    caches = opt.new_cache(params), opt.new_cache(params)
    for embeds, cache in zip((a, b), caches, strict=True):
        hidden(np_ops, params, embeds[:, :3], ones[:, :3], config, cache)
    for embeds, cache in zip((a, b), caches, strict=True):
        last = hidden(np_ops, params, embeds[:, 3:], ones, config, cache)
        np.testing.assert_allclose(last, hidden(np_ops, params, embeds, ones, config)[:, 3:], atol=1e-5)


def test_more_tokens_than_positions_are_refused(np_ops, tmp_path):
    config, params = oracle.ours(oracle.text_model(oracle.TEXT), tmp_path)
    most = config.max_position_embeddings
    hidden(np_ops, params, np.zeros((1, most, 16), np.float32), np.ones((1, most), np.int64), config)
    with pytest.raises(InputError, match=rf"{most + 1} tokens .*\b{most}\b"):
        hidden(np_ops, params, np.zeros((1, most + 1, 16), np.float32), np.ones((1, most + 1), np.int64), config)
