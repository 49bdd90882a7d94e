"""Attention maps made small enough for a page: a byte for each weight, and fewer maps where there are too many.

Each row of a map is kept in 255 steps of its own largest weight, so that a row whose weights are all small loses
nothing: the error is at most 1/510 of the row's largest weight.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import numpy as np

BUDGET = 3 << 20  # bytes for one set of maps


def packed(name: str, maps: np.ndarray, notes: list[str]) -> dict[str, Any] | None:
    """(L, H, T, S) maps for a page, or (T, S) for one; what had to be left out is told in `notes`.

    None where not even one map of every layer's heads together would fit.
    """
    maps = maps.reshape((1,) * (4 - maps.ndim) + maps.shape)  # (L, H, T, S)
    layers = np.arange(len(maps))
    size = f"all {' x '.join(map(str, maps.shape))} weights would take {maps.size / 1e6:.0f} MB"
    if maps.size > BUDGET and maps.shape[1] > 1:
        notes.append(f"{name}: the heads of each layer are averaged here ({size}).")
        maps = maps.mean(1, keepdims=True)
    if maps.size > BUDGET and len(maps) > 1:
        layers = layers[:: -(-maps.size // BUDGET)]
        notes.append(f"{name}: layers {', '.join(str(i + 1) for i in layers)} are shown, not those between ({size}).")
        maps = maps[layers]
    if maps.size > BUDGET:
        notes.append(f"{name}: left out ({size}).")
        return None
    top = maps.max(-1, keepdims=True)
    steps = np.rint(maps / np.where(top > 0, top, 1) * 255).astype(np.uint8)
    return {
        "shape": maps.shape,
        "layers": (layers + 1).tolist(),
        "steps": b64encode(steps.tobytes()).decode(),
        "tops": b64encode(top.astype("<f4").tobytes()).decode(),
    }


def unpacked(one: dict[str, Any]) -> np.ndarray:
    """What the page makes of it again.   ->   (L, H, T, S) float32"""
    steps = np.frombuffer(b64decode(one["steps"]), np.uint8).reshape(one["shape"])
    return steps / np.float32(255) * np.frombuffer(b64decode(one["tops"]), "<f4").reshape(*one["shape"][:3], 1)
