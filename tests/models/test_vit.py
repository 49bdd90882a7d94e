"""BLIP-2's ViT against transformers, after every layer."""

import numpy as np
import oracle
import pytest

import minivl.ops
from minivl.errors import InputError
from minivl.models import vit
from minivl.weights import tree

# One oddity each, so that a red test says which line is wrong; the seeds below mix them.
ODD = {
    "plain": {},
    "no qkv bias": dict(qkv_bias=False),
    "one head": dict(num_attention_heads=1),
    "eps that matters": dict(layer_norm_eps=0.3),
    "border that fits no patch": dict(image_size=15),
    "one patch": dict(image_size=5),
    "patch of one pixel": dict(image_size=3, patch_size=1),
    "narrow mlp": dict(intermediate_size=1),
    "one layer": dict(num_hidden_layers=1),
} | {f"hidden_act {name}": dict(hidden_act=name) for name in oracle.ACTIVATIONS}


def pixels_for(config, batch, dtype, seed=1):
    size = config.image_size
    return np.random.default_rng(seed).normal(size=(batch, 3, size, size)).astype(dtype)


def check(config, folder, ops, dtype, batch=2, seed=0):
    model = oracle.vision_model(oracle.VISION | config, seed).to(getattr(oracle.torch, dtype))
    mine, params = oracle.ours(model, folder, dtype)
    pixels = pixels_for(mine, batch, dtype, seed)
    got, want = oracle.our_vision_trace(ops, mine, params, pixels), oracle.vision_trace(model, pixels)
    oracle.compare(got, want, oracle.TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", oracle.TOLERANCE)
@pytest.mark.parametrize("odd", ODD)
def test_every_layer(odd, dtype, np_ops, tmp_path):
    check(ODD[odd], tmp_path, np_ops, dtype)


@pytest.mark.parametrize("seed", range(20))
def test_every_layer_of_random_configurations(seed, np_ops, tmp_path):
    check(oracle.draw_vision(seed), tmp_path, np_ops, ["float32", "float64"][seed % 2], batch=seed % 3 + 1, seed=seed)


def test_torch_record(tmp_path):
    """The same model source on the torch record."""
    ops = minivl.ops.get("torch")
    model = oracle.vision_model(oracle.VISION)
    config, params = oracle.ours(model, tmp_path)
    pixels = pixels_for(config, 2, "float32")
    trace = oracle.our_vision_trace(ops, config, tree.map_leaves(ops.from_numpy, params), ops.from_numpy(pixels))
    theirs = oracle.vision_trace(model, pixels)
    oracle.compare({name: ops.to_numpy(x) for name, x in trace.items()}, theirs, oracle.TOLERANCE["float32"])


def test_pictures_of_a_batch_do_not_see_each_other(np_ops, tmp_path):
    config, params = oracle.ours(oracle.vision_model(oracle.VISION), tmp_path)
    pixels = pixels_for(config, 3, "float32")
    together = vit.encode(np_ops, params, pixels, config)
    for row in range(3):
        np.testing.assert_allclose(
            together[row : row + 1], vit.encode(np_ops, params, pixels[row : row + 1], config), atol=1e-5
        )


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 3, 12, 16), (1, 3, 13, 12), (1, 1, 12, 12), (1, 4, 12, 12)])
def test_other_sizes_are_refused(shape, np_ops, tmp_path):
    """A smaller picture would run in transformers, with the position of another place added to each patch."""
    config, params = oracle.ours(oracle.vision_model(oracle.VISION), tmp_path)
    with pytest.raises(InputError, match=r"pixel_values have shape .*12, 12"):
        vit.encode(np_ops, params, np.zeros(shape, np.float32), config)
