"""The Q-Former against transformers, after every layer; its relative positions against sums written out."""

import numpy as np
import oracle
import pytest

import minivl.ops
from minivl.errors import InputError
from minivl.models import blocks, qformer
from minivl.weights import tree

ODD = {
    "plain": {},
    "looks at the picture in every layer": dict(cross_attention_frequency=1),
    "looks in every third layer": dict(cross_attention_frequency=3),
    "looks once": dict(cross_attention_frequency=9),
    "one head": dict(num_attention_heads=1),
    "eps that matters": dict(layer_norm_eps=0.3),
    "picture of another width": dict(encoder_hidden_size=7),
    "narrow mlp": dict(intermediate_size=1),
    "one layer": dict(num_hidden_layers=1),
} | {f"hidden_act {name}": dict(hidden_act=name) for name in oracle.ACTIVATIONS}


def inputs_for(config, batch, patches, queries, dtype, seed=1):
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(1, queries, config.hidden_size))
    return tokens.astype(dtype), rng.normal(size=(batch, patches, config.encoder_hidden_size)).astype(dtype)


def check(config, folder, ops, dtype, batch=2, patches=7, queries=5, seed=0):
    model = oracle.qformer_model(oracle.QFORMER | config, seed).to(getattr(oracle.torch, dtype))
    mine, params = oracle.ours(model, folder, dtype)
    inputs = inputs_for(mine, batch, patches, queries, dtype, seed)
    got, want = oracle.our_qformer_trace(ops, mine, params, *inputs), oracle.qformer_trace(model, *inputs)
    oracle.compare(got, want, oracle.TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", oracle.TOLERANCE)
@pytest.mark.parametrize("odd", ODD)
def test_every_layer(odd, dtype, np_ops, tmp_path):
    check(ODD[odd], tmp_path, np_ops, dtype)


@pytest.mark.parametrize("seed", range(20))
def test_every_layer_of_random_configurations(seed, np_ops, tmp_path):
    check(oracle.draw_qformer(seed), tmp_path, np_ops, ["float32", "float64"][seed % 2], batch=seed % 3 + 1,
          patches=seed % 11 + 1, queries=seed % 4 + 1, seed=seed)  # fmt: skip


def test_torch_record(tmp_path):
    """The same model source on the torch record."""
    ops = minivl.ops.get("torch")
    model = oracle.qformer_model(oracle.QFORMER)
    config, params = oracle.ours(model, tmp_path)
    inputs = inputs_for(config, 2, 7, 5, "float32")
    params = tree.map_leaves(ops.from_numpy, params)
    trace = oracle.our_qformer_trace(ops, config, params, *map(ops.from_numpy, inputs))
    theirs = oracle.qformer_trace(model, *inputs)
    oracle.compare({name: ops.to_numpy(x) for name, x in trace.items()}, theirs, oracle.TOLERANCE["float32"])


def test_pictures_of_a_batch_do_not_see_each_other(np_ops, tmp_path):
    config, params = oracle.ours(oracle.qformer_model(oracle.QFORMER), tmp_path)
    queries, image = inputs_for(config, 3, 7, 5, "float32")
    together = qformer.encode(np_ops, params, queries, image, config)
    for row in range(3):
        alone = qformer.encode(np_ops, params, queries, image[row : row + 1], config)
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-5)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("T, S", [(1, 1), (5, 5), (3, 8), (8, 3)])
def test_distance_bias(T, S, both, ops, rng):
    """Each score gains (q[t]·e[t-s] + k[s]·e[t-s]) / √D. With more keys than queries 4.37 fails: it stops at T."""
    B, H, D, most = 2, 3, 4, 9
    q, k, e = rng.normal(size=(B, H, T, D)), rng.normal(size=(B, H, S, D)), rng.normal(size=(2 * most - 1, D))
    want = np.zeros((B, H, T, S))
    for t in range(T):
        for s in range(S):
            row = e[most - 1 + t - s]
            want[:, :, t, s] = q[:, :, t] @ row
            if both:
                want[:, :, t, s] += k[:, :, s] @ row
    got = blocks.distance_bias(ops, ops.from_numpy(q), ops.from_numpy(k), ops.from_numpy(e), both)
    np.testing.assert_allclose(ops.to_numpy(got), want / 2, atol=1e-12)


def test_distances_beyond_the_table_are_refused(np_ops, rng):
    q, k, e = rng.normal(size=(1, 1, 3, 2)), rng.normal(size=(1, 1, 9, 2)), rng.normal(size=(2 * 5 - 1, 2))
    with pytest.raises(InputError):
        blocks.distance_bias(np_ops, q, k, e, False)
