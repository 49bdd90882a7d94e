"""What a processor returns: a dict of arrays that can also be read by attribute, moved and cast."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..disk import show
from ..errors import InputError, TokenizerError

FLOATS = ("float16", "float32", "float64", "bfloat16")


class BatchFeature(dict[str, Any]):
    """`batch["pixel_values"]` and `batch.pixel_values` are the same array; `**batch` hands all of them to a model."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this batch holds no {name!r}; it holds {', '.join(self) or 'nothing'}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def to(self, device: Any = None, dtype: Any = None) -> BatchFeature:
        """Move every tensor to `device` and cast the floating ones to `dtype`; ids and masks keep their integers.

        Either argument may be left out, and a lone dtype may come first, as in torch.  A dtype is a name ("float16"),
        NumPy's or torch's.  New arrays take the old ones' places in this batch, and the batch itself is returned,
        so both `batch.to(d)` and `batch = batch.to(d)` work.  InputError for NumPy arrays and any device but the CPU.
        """
        if dtype is None and _float_name(device) is not None:
            device, dtype = None, device
        kind = _float_name(dtype)
        if dtype is not None and kind is None:
            raise InputError(f"dtype: wanted one of {', '.join(FLOATS)}, found {show(dtype)}")
        self.update({name: _move(value, device, kind, name) for name, value in self.items()})
        return self


def tensors(rows: Any, kind: str | None, dtype: str) -> Any:
    """Rows of equal shape as one array: `kind` "np" gives NumPy's, "pt" torch's, None leaves the rows as they are."""
    if kind is None:
        return rows
    array = np.asarray(rows, dtype)
    if kind == "np":
        return array
    try:
        import torch
    except ImportError:
        raise InputError('return_tensors="pt" needs torch, which is not here: pip install "minivl[torch]"') from None
    return torch.from_numpy(array)


def check_kind(kind: str | None) -> None:
    """InputError unless `kind` is one that `tensors` knows."""
    if kind not in (None, "np", "pt"):
        raise InputError(f'return_tensors: wanted "np", "pt" or None, found {show(kind)}')


def _float_name(dtype: Any) -> str | None:
    """'float16' for "float16", np.float16, np.dtype("float16") and torch.float16; None for what is no floating type."""
    name = dtype.__name__ if isinstance(dtype, type) else str(dtype).removeprefix("torch.")
    return name if name in FLOATS else None


def _move(value: Any, device: Any, dtype: str | None, name: str) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_move(item, device, dtype, name) for item in value)
    if isinstance(value, np.ndarray):
        if device is not None and str(device).partition(":")[0] != "cpu":
            raise InputError(
                f"{name} is a NumPy array, and those live on the CPU: it cannot go to device {str(device)!r}; "
                'ask the processor for return_tensors="pt" to have tensors that can'
            )
        if dtype is None or value.dtype.kind != "f":
            return value
        if dtype == "bfloat16":
            raise InputError(
                f"{name} is a NumPy array, and NumPy has no bfloat16: keep float32, or ask the processor for "
                'return_tensors="pt"'
            )
        return value.astype(dtype, copy=False)
    if hasattr(value, "is_floating_point"):
        import torch

        return value.to(device=device, dtype=getattr(torch, dtype) if dtype and value.is_floating_point() else None)
    return value


# ---- what may be asked ---------------------------------------------------------------------------
def rows(text: Any, text_pair: Any = None) -> list[tuple[str, ...]]:
    """One text or several, each alone or with the second one that belongs to it."""
    firsts = texts(text, "text")
    if text_pair is None:
        return [(first,) for first in firsts]
    seconds = texts(text_pair, "text_pair")
    if len(firsts) != len(seconds) or isinstance(text, str) != isinstance(text_pair, str):
        wanted = "a string, as text is" if isinstance(text, str) else f"{len(firsts)}, as many as text holds"
        raise InputError(f"text_pair: wanted {wanted}, found {show(text_pair)}")
    return list(zip(firsts, seconds, strict=True))


def shares(lengths: list[int], room: int, truncation: Any, name: str) -> list[int]:
    """How many tokens of a text, or of each of a pair, are kept so that together they fit into `room`."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    first, second = lengths
    if truncation in ("only_first", "only_second"):
        kept = room - (second if truncation == "only_first" else first)
        if kept < 1:
            raise InputError(f"{name}: truncation={truncation!r} would leave nothing of that text: raise max_length")
        return [kept, second] if truncation == "only_first" else [first, kept]
    shorter = min(first, second, room // 2)
    return [shorter, room - shorter] if first <= second else [room - shorter, shorter]


def texts(text: Any, name: str) -> list[str]:
    """One text or several -> a list; anything else is refused by its place."""
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, (list, tuple)) or not texts:
        raise InputError(f"{name}: wanted a string or a list of strings, found {show(text)}")
    for i, item in enumerate(texts):
        if not isinstance(item, str):
            raise InputError(f"{name}[{i}]: wanted a string, found {show(item)}")
        try:
            item.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"{name}[{i}]: wanted characters, found the lone surrogate {item[error.start]!r} at {error.start}"
            ) from None
    return list(texts)


def choice(name: str, value: Any, yes: tuple[str, ...], no: str) -> bool:
    """True or False for the words and booleans that transformers takes."""
    if value is True or value in yes:
        return True
    if value is False or value == no:
        return False
    raise InputError(f"{name}: wanted True, False or one of {', '.join((*yes, no))}, found {show(value)}")


def one_row(ids: Any) -> list[int]:
    """The ids that decode() is given, from a list, an array or a tensor."""
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    values = [values] if isinstance(values, int) else values
    if not isinstance(values, (list, tuple)):
        raise TokenizerError(f"decode: wanted one row of ids, found {show(ids)}")
    for value in values:
        if isinstance(value, (list, tuple)):
            raise TokenizerError("decode: wanted one row of ids, found several: use batch_decode")
        if isinstance(value, bool) or not hasattr(value, "__index__") or not 0 <= int(value) < 2**32:
            raise TokenizerError(f"decode: wanted ids, whole numbers from 0 up, found {show(value)}")
    return [int(value) for value in values]
