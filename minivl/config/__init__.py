"""Configurations of both families: every setting of the Hub's config.json with its default."""

from .blip2 import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig, T5Config
from .bridgetower import BridgeTowerConfig, BridgeTowerTextConfig, BridgeTowerVisionConfig

__all__ = [
    "Blip2Config",
    "Blip2QFormerConfig",
    "Blip2VisionConfig",
    "BridgeTowerConfig",
    "BridgeTowerTextConfig",
    "BridgeTowerVisionConfig",
    "OPTConfig",
    "T5Config",
]
