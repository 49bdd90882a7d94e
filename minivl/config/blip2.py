"""The configurations of BLIP-2, field by field as transformers 4.37 names them, with its defaults.

A config.json leaves out every value that equals the default, so a reader has to know them all: they stand here.
Fields about training (dropouts, initialisation) are kept so that a file survives reading and writing, and used by
nothing.  How a field is checked is written in config_base.py.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .base import MOST_TOKENS, Config, choice, flag, number, part, token, whole

# transformers' name for an activation -> the name of the function in an ops record
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
POSITIONS = ("absolute", "relative_key", "relative_key_query")
WIDTH, DEPTH, LENGTH, PIXELS = 2**20, 2**10, 2**20, 2**14  # far beyond any model, short of nonsense


def check_heads(config: Any) -> None:
    """Every head takes the same share of the width."""
    if config.hidden_size % config.num_attention_heads:
        raise config.refusal("hidden_size", f"a multiple of num_attention_heads ({config.num_attention_heads})")


def check_tokens(config: Any, *keys: str) -> None:
    """A token that is fed to the model has a row in its table."""
    for key in keys:
        if (getattr(config, key) or 0) >= config.vocab_size:
            raise config.refusal(key, f"an id below vocab_size ({config.vocab_size})")


@dataclass(frozen=True)
class Blip2VisionConfig(Config):
    """The image encoder, EVA's ViT-g."""

    model_type: ClassVar[str] = "blip_2_vision_model"
    inside: ClassVar[str] = "vision_config"
    hidden_size: int = whole(1408, WIDTH)
    intermediate_size: int = whole(6144, WIDTH)
    num_hidden_layers: int = whole(39, DEPTH)
    num_attention_heads: int = whole(16, WIDTH)
    image_size: int = whole(224, PIXELS)
    patch_size: int = whole(14, PIXELS)
    hidden_act: str = choice("gelu", ACTIVATIONS)
    layer_norm_eps: float = number(1e-6, zero=False)
    attention_dropout: float = number(0.0)
    initializer_range: float = number(1e-10)
    qkv_bias: bool = flag(True)

    def check(self) -> None:
        check_heads(self)
        if self.image_size < self.patch_size:
            raise self.refusal("image_size", f"at least one patch ({self.patch_size})")


@dataclass(frozen=True)
class Blip2QFormerConfig(Config):
    """The querying transformer between the image and the language model."""

    model_type: ClassVar[str] = "blip_2_qformer"
    inside: ClassVar[str] = "qformer_config"
    vocab_size: int = whole(30522, MOST_TOKENS)
    hidden_size: int = whole(768, WIDTH)
    num_hidden_layers: int = whole(12, DEPTH)
    num_attention_heads: int = whole(12, WIDTH)
    intermediate_size: int = whole(3072, WIDTH)
    hidden_act: str = choice("gelu", ACTIVATIONS)
    hidden_dropout_prob: float = number(0.1)
    attention_probs_dropout_prob: float = number(0.1)
    max_position_embeddings: int = whole(512, LENGTH)
    initializer_range: float = number(0.02)
    layer_norm_eps: float = number(1e-12, zero=False)
    pad_token_id: int | None = token(0)
    position_embedding_type: str = choice("absolute", POSITIONS)
    cross_attention_frequency: int = whole(2, DEPTH)
    encoder_hidden_size: int = whole(1408, WIDTH)

    def check(self) -> None:
        check_heads(self)


@dataclass(frozen=True)
class OPTConfig(Config):
    """The decoder-only language model."""

    model_type: ClassVar[str] = "opt"
    inside: ClassVar[str] = "text_config"
    also_written: ClassVar[tuple[str, ...]] = ("is_encoder_decoder",)
    is_encoder_decoder: ClassVar[bool] = False
    vocab_size: int = whole(50272, MOST_TOKENS)
    hidden_size: int = whole(768, WIDTH)
    num_hidden_layers: int = whole(12, DEPTH)
    ffn_dim: int = whole(3072, WIDTH)
    max_position_embeddings: int = whole(2048, LENGTH)
    do_layer_norm_before: bool = flag(True)
    _remove_final_layer_norm: bool = flag(False)
    word_embed_proj_dim: int = whole(None, WIDTH)  # hidden_size unless given
    dropout: float = number(0.1)
    attention_dropout: float = number(0.0)
    num_attention_heads: int = whole(12, WIDTH)
    activation_function: str = choice("relu", ACTIVATIONS)
    layerdrop: float = number(0.0)
    init_std: float = number(0.02)
    use_cache: bool = flag(True)
    pad_token_id: int | None = token(1)
    bos_token_id: int | None = token(2)
    eos_token_id: int | tuple[int, ...] | None = token(2, several=True)
    enable_bias: bool = flag(True)
    layer_norm_elementwise_affine: bool = flag(True)
    tie_word_embeddings: bool = flag(True)

    def check(self) -> None:
        check_heads(self)
        check_tokens(self, "pad_token_id", "bos_token_id")
        if self.word_embed_proj_dim is None:
            self.settle("word_embed_proj_dim", self.hidden_size)


@dataclass(frozen=True)
class T5Config(Config):
    """The encoder-decoder language model."""

    model_type: ClassVar[str] = "t5"
    inside: ClassVar[str] = "text_config"
    also_written: ClassVar[tuple[str, ...]] = ("is_encoder_decoder",)
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }
    is_encoder_decoder: ClassVar[bool] = True
    vocab_size: int = whole(32128, MOST_TOKENS)
    d_model: int = whole(512, WIDTH)
    d_kv: int = whole(64, WIDTH)
    d_ff: int = whole(2048, WIDTH)
    num_layers: int = whole(6, DEPTH)
    num_decoder_layers: int = whole(None, DEPTH)  # num_layers unless given
    num_heads: int = whole(8, WIDTH)
    relative_attention_num_buckets: int = whole(32, LENGTH, least=4)
    relative_attention_max_distance: int = whole(128, LENGTH)
    dropout_rate: float = number(0.1)
    layer_norm_epsilon: float = number(1e-6, zero=False)
    initializer_factor: float = number(1.0, most=1e6)
    feed_forward_proj: str = choice("relu", [*ACTIVATIONS, *(f"gated-{name}" for name in ACTIVATIONS)])
    use_cache: bool = flag(True)
    pad_token_id: int | None = token(0)
    eos_token_id: int | tuple[int, ...] | None = token(1, several=True)
    classifier_dropout: float = number(0.0)
    bos_token_id: int | None = token(None)
    decoder_start_token_id: int | None = token(None)
    dense_act_fn: str = choice(None, ACTIVATIONS)  # what feed_forward_proj says unless given
    is_gated_act: bool = flag(None)  # likewise
    tie_word_embeddings: bool = flag(True)
    scale_decoder_outputs: bool = flag(None)  # tie_word_embeddings unless given, as in files of transformers 5

    def check(self) -> None:
        check_tokens(self, "pad_token_id", "bos_token_id", "decoder_start_token_id")
        if 2 * self.relative_attention_max_distance <= self.relative_attention_num_buckets:
            wanted = f"more than half of relative_attention_num_buckets ({self.relative_attention_num_buckets})"
            raise self.refusal("relative_attention_max_distance", wanted)
        if self.num_decoder_layers is None:
            self.settle("num_decoder_layers", self.num_layers)
        if self.scale_decoder_outputs is None:
            self.settle("scale_decoder_outputs", self.tie_word_embeddings)
        gate, _, name = self.feed_forward_proj.rpartition("-")
        if self.is_gated_act is None:
            self.settle("is_gated_act", gate == "gated")
        if self.dense_act_fn is None:
            # "gated-gelu" has meant the tanh form since T5 1.1; BLIP-2 files with Flan-T5 name the exact one outright.
            self.settle("dense_act_fn", "gelu_new" if self.feed_forward_proj == "gated-gelu" else name)

    @property
    def hidden_size(self) -> int:
        return self.d_model

    @property
    def num_attention_heads(self) -> int:
        return self.num_heads

    @property
    def num_hidden_layers(self) -> int:
        return self.num_layers


@dataclass(frozen=True)
class Blip2Config(Config):
    """The three parts of a BLIP-2, each given as an object, a dict, or None for its defaults."""

    model_type: ClassVar[str] = "blip-2"
    also_written: ClassVar[tuple[str, ...]] = (
        "tie_word_embeddings",
        "is_encoder_decoder",
        "use_decoder_only_language_model",
    )
    vision_config: Blip2VisionConfig = part(Blip2VisionConfig)
    qformer_config: Blip2QFormerConfig = part(Blip2QFormerConfig)
    text_config: OPTConfig | T5Config = part(OPTConfig, T5Config)
    num_query_tokens: int = whole(32, LENGTH)
    initializer_factor: float = number(1.0, most=1e6)
    initializer_range: float = number(0.02)
    image_token_index: int | None = token(None)

    def check(self) -> None:
        # The queries look at the image whatever the file says.
        width = self.vision_config.hidden_size
        self.settle("qformer_config", dataclasses.replace(self.qformer_config, encoder_hidden_size=width))
        text = self.text_config
        if isinstance(text, OPTConfig) and text.word_embed_proj_dim != text.hidden_size:
            raise text.refusal("word_embed_proj_dim", f"hidden_size ({text.hidden_size}), the width of image features")

    @classmethod
    def from_vision_qformer_text_configs(
        cls,
        vision_config: Blip2VisionConfig,
        qformer_config: Blip2QFormerConfig,
        text_config: OPTConfig | T5Config,
        **others: Any,
    ) -> "Blip2Config":
        """The same as calling the class, under the name that transformers 4.37 has for it."""
        return cls(vision_config, qformer_config, text_config, **others)

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the output head is the input embedding: the language model decides."""
        return self.text_config.tie_word_embeddings

    @property
    def is_encoder_decoder(self) -> bool:
        return self.text_config.is_encoder_decoder

    @property
    def use_decoder_only_language_model(self) -> bool:
        return not self.text_config.is_encoder_decoder
