"""The configurations of BridgeTower, field by field as transformers 4.37 names them, with its defaults.

How a field is checked is written in config_base.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .base import MOST_TOKENS, Config, choice, flag, number, part, token, whole
from .blip2 import ACTIVATIONS, DEPTH, LENGTH, PIXELS, POSITIONS, WIDTH, check_heads, check_tokens

LINKS = ("add", "scaled_add", "interpolate")
HEAD_WIDTH = 64  # CLIP has one head for each whole 64 of the width


@dataclass(frozen=True)
class BridgeTowerVisionConfig(Config):
    """The image tower, CLIP's ViT."""

    model_type: ClassVar[str] = "bridgetower_vision_model"
    inside: ClassVar[str] = "vision_config"
    hidden_size: int = whole(768, WIDTH)
    num_hidden_layers: int = whole(12, DEPTH)
    num_channels: int = whole(3, WIDTH)
    patch_size: int = whole(16, PIXELS)
    image_size: int = whole(288, PIXELS)
    initializer_factor: float = number(1.0, most=1e6)
    layer_norm_eps: float = number(1e-5, zero=False)
    stop_gradient: bool = flag(False)
    share_layernorm: bool = flag(True)
    remove_last_layer: bool = flag(False)

    def check(self) -> None:
        heads = self.hidden_size // HEAD_WIDTH
        if not heads or self.hidden_size % heads:
            raise self.refusal("hidden_size", f"a width that hidden_size // {HEAD_WIDTH} heads share evenly")
        if self.image_size < self.patch_size:
            raise self.refusal("image_size", f"at least one patch ({self.patch_size})")

    @property
    def depth(self) -> int:
        """How many layers there really are."""
        return self.num_hidden_layers - self.remove_last_layer


@dataclass(frozen=True)
class BridgeTowerTextConfig(Config):
    """The text tower, RoBERTa; the cross-modal layers take their shape from it too."""

    model_type: ClassVar[str] = "bridgetower_text_model"
    inside: ClassVar[str] = "text_config"
    vocab_size: int = whole(50265, MOST_TOKENS)
    hidden_size: int = whole(768, WIDTH)
    num_hidden_layers: int = whole(12, DEPTH)
    num_attention_heads: int = whole(12, WIDTH)
    initializer_factor: float = number(1.0, most=1e6)
    intermediate_size: int = whole(3072, WIDTH)
    hidden_act: str = choice("gelu", ACTIVATIONS)
    hidden_dropout_prob: float = number(0.1)
    attention_probs_dropout_prob: float = number(0.1)
    max_position_embeddings: int = whole(514, LENGTH)
    type_vocab_size: int = whole(1, LENGTH)
    layer_norm_eps: float = number(1e-5, zero=False)
    pad_token_id: int | None = token(1)
    bos_token_id: int | None = token(0)
    eos_token_id: int | tuple[int, ...] | None = token(2, several=True)
    position_embedding_type: str = choice("absolute", POSITIONS)
    is_decoder: bool = flag(False)
    use_cache: bool = flag(True)

    def check(self) -> None:
        check_heads(self)
        check_tokens(self, "pad_token_id")
        if self.is_decoder:
            raise self.refusal("is_decoder", "false: a picture has no order in which it could look at half of a text")
        if self.pad_token_id is None:
            raise self.refusal("pad_token_id", "a token id: positions are counted around it")


@dataclass(frozen=True)
class BridgeTowerConfig(Config):
    """Two towers, and the cross-modal layers that their upper layers are bridged to."""

    model_type: ClassVar[str] = "bridgetower"
    share_cross_modal_transformer_layers: bool = flag(True)
    hidden_act: str = choice("gelu", ACTIVATIONS)
    hidden_size: int = whole(768, WIDTH)
    initializer_factor: float = number(1.0, most=1e6)
    layer_norm_eps: float = number(1e-5, zero=False)
    share_link_tower_layers: bool = flag(False)
    link_tower_type: str = choice("add", LINKS)
    num_attention_heads: int = whole(12, WIDTH)
    num_hidden_layers: int = whole(6, DEPTH)
    tie_word_embeddings: bool = flag(False)
    init_layernorm_from_vision_encoder: bool = flag(False)
    text_config: BridgeTowerTextConfig = part(BridgeTowerTextConfig)
    vision_config: BridgeTowerVisionConfig = part(BridgeTowerVisionConfig)
    contrastive_hidden_size: int = whole(512, WIDTH)  # transformers has no default for these two: the Hub's values
    logit_scale_init_value: float = number(2.6592, most=100.0)

    def check(self) -> None:
        text, vision, layers = self.text_config, self.vision_config, self.num_hidden_layers
        if text.hidden_size != self.hidden_size:
            wanted = f"hidden_size ({self.hidden_size}): the cross-modal layers are as wide as the text tower"
            raise text.refusal("hidden_size", wanted)
        if layers > text.num_hidden_layers + 1:
            wanted = f"at most one more than the text tower has layers ({text.num_hidden_layers})"
            raise self.refusal("num_hidden_layers", wanted)
        if layers > vision.depth + 1:
            wanted = f"at most one more than the image tower has layers ({vision.depth})"
            raise self.refusal("num_hidden_layers", wanted)

    @classmethod
    def from_text_vision_configs(
        cls, text_config: BridgeTowerTextConfig, vision_config: BridgeTowerVisionConfig, **others: Any
    ) -> BridgeTowerConfig:
        """The same as calling the class, under the name that transformers 4.37 has for it."""
        return cls(text_config=text_config, vision_config=vision_config, **others)
