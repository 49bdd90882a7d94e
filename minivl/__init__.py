"""BLIP-2 and BridgeTower, written so that a person can read every line, run every line on a laptop without PyTorch, and
replace any of them by a kernel of their own.

    from minivl import Blip2ForConditionalGeneration, Blip2Processor

A public name is imported when it is first used, so a caption loads what a caption needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker and an editor see; HOMES below says the same to Python
    from . import errors, ops
    from .api.blip2 import Blip2ForConditionalGeneration
    from .api.bridgetower import (
        BridgeTowerForContrastiveLearning,
        BridgeTowerForImageAndTextRetrieval,
        BridgeTowerForMaskedLM,
        BridgeTowerForMatchingAndContrast,
        BridgeTowerModel,
    )
    from .config.blip2 import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig
    from .config.bridgetower import BridgeTowerConfig, BridgeTowerTextConfig, BridgeTowerVisionConfig
    from .processors.blip2 import Blip2Processor
    from .processors.bridgetower import BridgeTowerProcessor
    from .tools.parity.difference import diff
    from .tracing import trace

__version__ = "0.1.0"

HOMES = {  # module: the public names that it defines
    "api.blip2": ("Blip2ForConditionalGeneration",),
    "api.bridgetower": (
        "BridgeTowerForContrastiveLearning",
        "BridgeTowerForImageAndTextRetrieval",
        "BridgeTowerForMaskedLM",
        "BridgeTowerForMatchingAndContrast",
        "BridgeTowerModel",
    ),
    "config.blip2": ("Blip2Config", "Blip2QFormerConfig", "Blip2VisionConfig"),
    "config.bridgetower": ("BridgeTowerConfig", "BridgeTowerTextConfig", "BridgeTowerVisionConfig"),
    "processors.blip2": ("Blip2Processor",),
    "processors.bridgetower": ("BridgeTowerProcessor",),
    "tools.parity.difference": ("diff",),
    "tracing": ("trace",),
}
MODULES = ("errors", "ops")
__all__ = [
    "Blip2Config",
    "Blip2ForConditionalGeneration",
    "Blip2Processor",
    "Blip2QFormerConfig",
    "Blip2VisionConfig",
    "BridgeTowerConfig",
    "BridgeTowerForContrastiveLearning",
    "BridgeTowerForImageAndTextRetrieval",
    "BridgeTowerForMaskedLM",
    "BridgeTowerForMatchingAndContrast",
    "BridgeTowerModel",
    "BridgeTowerProcessor",
    "BridgeTowerTextConfig",
    "BridgeTowerVisionConfig",
    "diff",
    "errors",
    "ops",
    "trace",
]


def __getattr__(name: str) -> Any:
    """Import a public name, or one of the two public modules, at its first use."""
    if name in MODULES:
        return import_module(f".{name}", __name__)
    for module, names in HOMES.items():
        if name in names:
            globals()[name] = found = getattr(import_module(f".{module}", __name__), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
