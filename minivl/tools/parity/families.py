"""Which of our models a checkpoint, or a model of transformers, is."""

from __future__ import annotations

from typing import Any

from ...api import bridgetower as bridges
from ...api.blip2 import Blip2ForConditionalGeneration
from ...api.pretrained import Pretrained
from ...config.base import FILE
from ...config.bridgetower import BridgeTowerConfig
from ...disk import read_json
from ...errors import ConfigError, InputError
from ...weights import files

HEADS: dict[str, type[bridges.BridgeTower]] = {
    "itm": bridges.BridgeTowerForImageAndTextRetrieval,
    "mlm": bridges.BridgeTowerForMaskedLM,
    "contrastive": bridges.BridgeTowerForContrastiveLearning,
    "model": bridges.BridgeTowerModel,
}
BEGINNINGS = {"itm": "itm_score.", "mlm": "mlm_score.", "contrastive": "itc_"}


def by_name(name: str) -> type[Pretrained]:
    """Our class of transformers' name. Raises InputError for one that we have not."""
    classes: list[type[Pretrained]] = [Blip2ForConditionalGeneration, *HEADS.values()]
    found = {cls.__name__: cls for cls in classes}
    if name not in found:
        raise InputError(f"a model of transformers of class {name}: wanted one of {', '.join(found)}")
    return found[name]


def held(path: Any) -> list[type[Pretrained]]:
    """The classes of the models that a folder's files hold weights for: one for each head."""
    if read_json(path / FILE, ConfigError).get("model_type") != BridgeTowerConfig.model_type:
        return [Blip2ForConditionalGeneration]
    names = list(files.read(path))
    found: list[type[Pretrained]] = [
        HEADS[head] for head, begin in BEGINNINGS.items() if any(name.startswith(begin) for name in names)
    ]
    return found or [bridges.BridgeTowerModel]
