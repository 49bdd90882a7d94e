"""The sizes of the models that are timed, as keywords that our configurations and those of transformers both take.

`layers` is how many layers every stack has, None for as many as the real model.
"""

from __future__ import annotations

from typing import Any

Size = dict[str, Any]
PROMPT = 40  # tokens of a picture and a short question


def vit(layers: int | None) -> Size:
    """EVA's ViT-g: the other numbers are the defaults."""
    return {"num_hidden_layers": layers or 39}


def qformer(layers: int | None) -> Size:
    return {"num_hidden_layers": layers or 12}


def opt(layers: int | None) -> Size:
    """OPT-2.7b's."""
    width = {"hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240, "num_attention_heads": 32}
    return {**width, "num_hidden_layers": layers or 32}


def opt_of_4_gb(layers: int | None) -> Size:
    """An OPT that makes a BLIP-2 of 4 GB in float32, together with eyes of few layers."""
    width = {"hidden_size": 2048, "word_embed_proj_dim": 2048, "ffn_dim": 8192, "num_attention_heads": 32}
    return {**width, "num_hidden_layers": layers or 16}


def t5(layers: int | None) -> Size:
    """Flan-T5-XL's."""
    width = {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_heads": 32, "feed_forward_proj": "gated-gelu"}
    depth = {"num_layers": layers or 24, "num_decoder_layers": layers or 24}
    return {**width, **depth, "tie_word_embeddings": False, "decoder_start_token_id": 0}


def bridgetower(layers: int | None) -> Size:
    """BridgeTower base's."""
    towers = {name: {"num_hidden_layers": layers or 12} for name in ("text_config", "vision_config")}
    heads = {"contrastive_hidden_size": 512, "logit_scale_init_value": 2.6592}
    return {**towers, **heads, "num_hidden_layers": min(6, layers or 6)}
