"""BLIP-2 and BridgeTower, written so that a person can read every line, run every line on a laptop without PyTorch, and
replace any of them by a kernel of their own.

    from minivl import Blip2ForConditionalGeneration, Blip2Processor
"""

from . import errors, ops
from .config import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig
from .config_bridgetower import BridgeTowerConfig, BridgeTowerTextConfig, BridgeTowerVisionConfig
from .faces.blip2 import Blip2ForConditionalGeneration
from .faces.bridgetower import (
    BridgeTowerForContrastiveLearning,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerForMaskedLM,
    BridgeTowerForMatchingAndContrast,
    BridgeTowerModel,
)
from .processors.blip2 import Blip2Processor
from .processors.bridgetower import BridgeTowerProcessor
from .trace import trace

__version__ = "0.1.0"

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


def diff(a, b, inputs=None, **how):
    """Where two runs of a model part, and why; the arguments are those of minivl/parity/difference.py."""
    from .parity.difference import diff

    return diff(a, b, inputs, **how)
