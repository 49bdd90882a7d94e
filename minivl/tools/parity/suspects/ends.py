"""What comes after the last layer: logits, the length of vectors, the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ....tracing import Item
from ..float64 import FLOAT64, double
from ..flow import Parting
from .around import Try, as_double, rounded_results
from .linear import linear
from .sums import scaled


def ends(parting: Parting) -> Iterator[Try]:
    """Logits and loss, which no single op of ours makes."""
    if parting.item.name == "loss":  # one number: a factor would explain whatever it is
        yield from _contrastive_loss(parting)
        return
    yield from scaled(parting)
    decoder = _lately(parting, "mlm.decoder")
    if decoder is not None and decoder.call is not None:  # a module of transformers without a bias, added behind it
        yield from linear(parting, as_double(decoder.call))
    yield from rounded_results(parting)


def _contrastive_loss(parting: Parting) -> Iterator[Try]:
    """The loss of text with picture, text with both and picture with both, at B's temperature."""
    mine, theirs = (double(side.weight("itc.scale")) for side in (parting.judge, parting.side_b))
    vectors = _lately(parting, "logits")  # (B, 3, K)
    if mine is None or theirs is None or vectors is None or mine == theirs:
        return
    text, image, cross = np.moveaxis(double(vectors.array), 1, 0)
    pairs, order = ((text, image), (text, cross), (image, cross)), np.arange(len(text))
    losses = [FLOAT64.cross_entropy(a @ b.T * math.exp(theirs), order) for a, b in pairs]
    yield f"logit scale {float(theirs):.4g} for {float(mine):.4g}", sum(losses) / 3


def _lately(parting: Parting, path: str) -> Item | None:
    return next((item for item in reversed(parting.past) if item.key[0] == path), None)
