"""What may be asked of a tokenizer: its arguments checked, and how much of a text that is too long stays."""

from __future__ import annotations

from typing import Any

from ..disk import show
from ..errors import InputError, TokenizerError


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


def ids(ids: Any) -> list[int]:
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
