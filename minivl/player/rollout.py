"""Several layers of attention in one map.

What a token holds after a layer is half itself and half what it gathered, so the shares of the inputs in it mix the
same way, layer after layer:

    R_0 = I          R_l = ½ (R_{l-1} + A_l R_{l-1})          A_l the mean of the layer's heads

It is a rule of thumb: it takes every head for equally important and the values behind the weights for equally large.

Source: Abnar and Zuidema 2020, section 3.
Letters: L layers, H heads, T query tokens, S key tokens, N patches + 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rollout(maps: np.ndarray) -> np.ndarray:
    """Self-attention alone.   maps (L, H, T, T)   ->   (T, T), rows sum to 1"""
    shares = np.eye(maps.shape[-1], dtype=np.float32)
    for layer in maps:
        shares = gathered(shares, layer, shares)
    return shares


def cross_rollout(own: Sequence[np.ndarray], cross: Sequence[np.ndarray | None]) -> np.ndarray:
    """Layers that look at each other and then, where there is a map for it, at a memory.

    own L of (H, T, T)   cross L of (H, T, S) or None   ->   (T, T + S), the shares of the tokens, then of the memory
    """
    T, S = own[0].shape[-1], next(layer.shape[-1] for layer in cross if layer is not None)
    shares, memory = np.split(np.eye(T + S, dtype=np.float32), [T])
    for among, towards in zip(own, cross, strict=True):
        shares = gathered(shares, among, shares)
        if towards is not None:
            shares = gathered(shares, towards, memory)
    return shares


def pair_rollout(text, to_image, image, to_text) -> tuple[np.ndarray, np.ndarray]:
    """BridgeTower's cross-modal layers, of which each reads the other's inputs. The bridges, which bring every token's
    own tower state in again, are left out.

    text (L, H, T, T)   to_image (L, H, T, N)   image (L, H, N, N)   to_text (L, H, N, T)   ->   (T, T + N), (N, T + N)
    """
    T, N = to_image.shape[-2:]
    words, patches = np.split(np.eye(T + N, dtype=np.float32), [T])
    for a, b, c, d in zip(text, to_image, image, to_text, strict=True):
        words, patches = (
            gathered(gathered(words, a, words), b, patches),
            gathered(gathered(patches, c, patches), d, words),
        )
    return words, patches


def gathered(shares: np.ndarray, maps: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Half of what was held, half of what was gathered.

    shares (T, X)   maps (H, T, S)   source (S, X)   ->   (T, X)
    """
    return 0.5 * (shares + maps.mean(0) @ source)
