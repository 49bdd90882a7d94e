"""What the heads gather, with one thing changed: masks, scale, order of q, k and v, heads, position bias."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np

from ....models import blocks
from ....tracing import Call
from ..float64 import FLOAT64
from ..flow import Parting
from ..weights import rounded
from . import fitted
from .around import HALVES, Try

Given = dict[str, Any]
Run = Callable[..., Any]


def gathered(**given: Any) -> Any:
    """The result of all heads side by side.   (B, T, H·D)"""
    return blocks.merge_heads(FLOAT64.attention(**given))


def attention(parting: Parting, call: Call) -> Iterator[Try]:
    """The attention with one thing changed, and the scale that would make B's numbers."""
    yield from wiring(parting, call)
    run = partial(gathered, **call.given)
    fit = fitted.scale(run, parting.b, _usual_scale(call.given))
    if fit is not None:
        yield f"attention scale: {fit:.4g}", run(scale=fit)


def wiring(parting: Parting, call: Call) -> Iterator[Try]:
    """The attention with one thing changed; it need not be the activation that differs, but one before it."""
    given = call.given
    run = partial(gathered, **given)
    yield from _masks(parting, given, run)
    yield from _scales(given, run)
    yield from _parts_exchanged(given, run)
    if given.get("bias") is not None:
        yield from _position_bias(given["bias"], run)
    yield from _heads(given, run)
    for name in HALVES:
        yield f"dtype: computed in {name}", rounded(run(**{part: rounded(given[part], name) for part in "qkv"}), name)


def _masks(parting: Parting, given: Given, run: Run) -> Iterator[Try]:
    mask, causal, queries, keys = given.get("mask"), bool(given.get("causal")), *_lengths(given)
    if mask is not None:
        yield "mask ignored", run(mask=None)
        yield "mask inverted", run(mask=~mask)
        yield "mask shifted by one", run(mask=np.roll(mask, 1, -1))
        yield "mask reversed", run(mask=mask[..., ::-1])
    elif queries == keys and (text := _mask_of_text(parting, keys)) is not None:
        yield "mask that should not be", run(mask=text)
    if queries > 1:
        if causal and mask is not None:
            yield "mask and causal ignored", run(mask=None, causal=False)
        yield ("causal ignored" if causal else "causal that should not be"), run(causal=not causal)


def _lengths(given: Given) -> tuple[int, int]:
    return given["q"].shape[2], given["k"].shape[2]


def _mask_of_text(parting: Parting, keys: int) -> np.ndarray | None:
    """The text's mask, if it is as wide as the keys: a self-attention that takes none might have been given it."""
    mask = parting.inputs.get("attention_mask")
    return None if mask is None or np.shape(mask)[1] != keys else (np.asarray(mask) != 0)[:, None, None]


def _usual_scale(given: Given) -> float:
    return given.get("scale") or given["q"].shape[-1] ** -0.5


def _scales(given: Given, run: Run) -> Iterator[Try]:
    _, H, _, D = given["q"].shape
    known = {"missing (1)": 1.0, "1/√D": D**-0.5, "1/D": 1 / D, "1/√(H·D)": (H * D) ** -0.5, "√D": D**0.5}
    for name, scale in known.items():
        if abs(scale - _usual_scale(given)) > 1e-12:
            yield f"attention scale: {name}", run(scale=scale)


def _parts_exchanged(given: Given, run: Run) -> Iterator[Try]:
    orders = list(permutations("qkv"))[1:]
    if given["q"].shape != given["k"].shape:  # a cross-attention: only k and v are of one length
        orders = [("q", "v", "k")]
    for order in orders:
        y = run(**{name: given[other] for name, other in zip("qkv", order, strict=True)})
        yield f"q/k/v order: {''.join(order)}", y


def _position_bias(bias: Any, run: Run) -> Iterator[Try]:
    yield "position bias missing", run(bias=None)
    yield "position bias of the other direction", run(bias=bias.swapaxes(-1, -2))
    yield "position offset: bias one place on", run(bias=np.roll(bias, 1, -1))
    yield "position offset: bias one place back", run(bias=np.roll(bias, -1, -1))
    yield "position bias of the heads in reverse", run(bias=bias[:, ::-1])


def _heads(given: Given, run: Run) -> Iterator[Try]:
    """Another number of heads, or rows given to the heads in turn and not one head after the other."""
    B, H, T, D = given["q"].shape
    C, usual = H * D, _usual_scale(given)
    yield "heads not merged back in order", FLOAT64.attention(**given).reshape(B, T, C)
    merged = {part: blocks.merge_heads(given[part]) for part in "qkv"}
    others = [n for n in range(1, C + 1) if C % n == 0 and n != H] if given.get("bias") is None else []
    for heads in others:
        parts = {part: blocks.split_heads(x, heads) for part, x in merged.items()}
        scale = given.get("scale") or (C // heads) ** -0.5
        yield f"{heads} heads for {H}", run(**parts, scale=scale)
        if abs(scale - usual) > 1e-12:
            yield f"{heads} heads for {H}, scale as before", run(**parts, scale=usual)
    in_turn = {part: x.reshape(*x.shape[:2], D, H).swapaxes(-1, -2).swapaxes(1, 2) for part, x in merged.items()}
    yield "heads split in another order", run(**in_turn)
