"""Weights drawn from a seed and from each tensor's own name: the same on every machine and in every NumPy.

The golden files of BridgeTower hold no weights, because its picture tower is at least 64 wide; both sides draw them.
"""

import zlib

import numpy as np


def weights(shapes, seed):
    """{name: float32 array}: numbers spread evenly, standard deviation 0.2, and 1 more for the scale of a norm."""
    return {name: tensor(name, shape, seed) for name, shape in shapes.items()}


def tensor(name, shape, seed):
    trunk = name.removeprefix("bridgetower.")  # a tensor of the trunk is the same under every head
    whole = np.random.RandomState([zlib.crc32(trunk.encode()), seed]).randint(-(2**16), 2**16 + 1, shape, np.int32)
    scale = trunk.endswith("weight") and ("LayerNorm" in trunk or "layernorm" in trunk or ".ln_" in trunk)
    return np.asarray(scale + whole * (0.35 / 2**16), np.float32)
