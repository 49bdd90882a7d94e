"""The sides of a comparison, made from words:

    KIND             numpy, plain, torch, triton, float64, int8 (LLM.int8()), weight-only (8 bits), bfloat16 (NumPy's),
                     torch-bfloat16, torch-float16, triton-bfloat16, triton-float16, transformers,
                     transformers-bfloat16, transformers-float16
    FOLDER_OR_ID     numpy on another checkpoint
    KIND@FOLDER      that kind on another checkpoint

Every side runs the model on the same inputs and emits its activations (minivl/tracing.py's Item) one by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...api.pretrained import Pretrained
from . import theirs
from .float64 import FLOAT64
from .ours import Ours
from .settings import ChangedConfig
from .theirs import Theirs

KINDS: dict[str, dict[str, Any]] = {  # how from_pretrained makes each
    "numpy": {},
    "plain": {"backend": "plain"},
    "float64": {},
    "torch": {"backend": "torch"},
    "triton": {"backend": "triton"},
    "int8": {"load_in_8bit": True},
    "weight-only": {"load_in_8bit": "weight-only"},
    "bfloat16": {"dtype": "bfloat16"},
    **{
        f"{backend}-{dtype}": {"backend": backend, "dtype": dtype}
        for backend in ("torch", "triton")
        for dtype in ("bfloat16", "float16")
    },
}
THEIRS = {"transformers": "float32", "transformers-bfloat16": "bfloat16", "transformers-float16": "float16"}
Side = Ours | Theirs


def is_kind(word: Any) -> bool:
    return isinstance(word, str) and (word in KINDS or word in THEIRS)


def split(word: str) -> tuple[str, str | None]:
    """ "torch@folder" is ("torch", "folder"), "torch" ("torch", None), "folder" ("numpy", "folder")."""
    kind, at, folder = word.partition("@")
    if at and is_kind(kind):
        return kind, folder
    return (word, None) if is_kind(word) else ("numpy", word)


def make(word: str, folder: Any, family: type[Pretrained], settings: Mapping[str, Any]) -> Ours | Theirs:
    """The side of this kind: a checkpoint's folder read as `family`, some settings of its configuration changed."""
    label = " ".join([word, *(f"{name}={json.dumps(value)}" for name, value in settings.items())])
    if word in THEIRS:
        return Theirs(theirs.load(folder, family, settings, THEIRS[word]), label)
    if settings:
        family = type(family.__name__, (family,), {"config_class": ChangedConfig(family.config_class, settings)})
    model = family.from_pretrained(folder, **KINDS[word])
    return Ours(model, label, ops=FLOAT64 if word == "float64" else None)
