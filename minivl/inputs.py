"""Taking in what a caller brings: arrays and tensors of every make, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import InputError


def to_floats(x: Any, name: str, ndim: int) -> Any:
    """A float32 array from a list, an array or a tensor, with the number of axes that it must have, all of it finite.

    A tensor that requires a gradient stays a tensor, so that the gradient finds its way back to it.
    """
    array = to_array(x)
    if array.ndim != ndim or array.dtype.kind not in "fiu":
        raise InputError(f"{name} must hold numbers on {ndim} axes, not {array.dtype} of shape {array.shape}")
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32, copy=False)
    if not np.isfinite(narrow).all():
        raise InputError(f"{name} must hold finite numbers, not NaN or infinity (or what float32 takes for it)")
    return x.float() if getattr(x, "requires_grad", False) else narrow


def to_ids(x: Any, name: str) -> np.ndarray:
    """An int64 array (rows, tokens) from a list, an array or a tensor."""
    try:
        array = to_array(x)
    except ValueError as ragged:
        raise InputError(f"{name} has rows of different lengths: give padding=True to the processor") from ragged
    if array.ndim != 2 or array.dtype.kind not in "iub" or not array.shape[1]:
        raise InputError(
            f"{name} must hold whole numbers of shape (rows, tokens), not {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64, copy=False)


def to_prompt(input_ids: Any, attention_mask: Any, whose: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, (rows, tokens) each; without a mask every token counts. `whose` begins both names in messages."""
    ids = to_ids(input_ids, f"{whose}input_ids")
    mask = np.ones_like(ids) if attention_mask is None else to_ids(attention_mask, f"{whose}attention_mask")
    if mask.shape != ids.shape:
        found = f"{whose}attention_mask has shape {mask.shape}, {whose}input_ids {ids.shape}"
        raise InputError(f"{found}: they must be equal")
    if not np.isin(mask, (0, 1)).all():
        raise InputError(
            f"{whose}attention_mask holds {mask[~np.isin(mask, (0, 1))].flat[0]}: wanted 1 to read a token, 0 not to"
        )
    return ids, mask


def without_placeholders(
    ids: np.ndarray, mask: np.ndarray, token: int | None, places: int
) -> tuple[np.ndarray, np.ndarray]:
    """The prompt alone, where ids begin with a placeholder for each soft prompt token, as transformers 5 writes them.

    ids, mask (B, T)   token   config.image_token_index   places   config.num_query_tokens
    ->  (B, T), or (B, T - places) without the placeholders: the models themselves put the picture in front
    """
    found = ids == token  # (B, T), all False without a token
    if token is None or not (found[:, :1].any() or (found.sum(1) >= max(places, 2)).any()):
        return ids, mask  # a single one further on is a word, as it was before transformers 5
    if not (found[:, :places].all() and (found.sum(1) == places).all() and mask[:, :places].all()):
        counts = ", ".join(map(str, sorted(set(found.sum(1).tolist()))))
        wanted = f"none, or one for each of the {places} soft prompt tokens at the beginning of every row, with mask 1"
        raise InputError(
            f"input_ids: placeholders of the picture (token {token}): wanted {wanted}; found {counts} in a row"
        )
    return ids[:, places:], mask[:, places:]


def same_rows(pictures: int, texts: int) -> None:
    """Every picture has its text."""
    if pictures != texts:
        raise InputError(f"{pictures} pictures and {texts} texts: give one text for each picture")


def to_array(x: Any) -> np.ndarray:
    """An array from a list, an array or a tensor."""
    if hasattr(x, "detach"):  # a torch tensor: NumPy has no bfloat16, so floats come over as float32
        x = x.detach().cpu()
        return (x.float() if x.is_floating_point() else x).numpy()
    return np.asarray(x)
