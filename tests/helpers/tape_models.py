"""Tiny models whose gradients are checked, on the tape and in training."""

import dataclasses

import numpy as np

from minivl.config.blip2 import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig, T5Config
from minivl.config.bridgetower import BridgeTowerConfig, BridgeTowerTextConfig, BridgeTowerVisionConfig
from minivl.weights import tree

SEEN = Blip2VisionConfig(
    hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
)


ASKED = Blip2QFormerConfig(
    hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2, cross_attention_frequency=2
)


OPT = OPTConfig(
    hidden_size=8, ffn_dim=12, num_hidden_layers=2, num_attention_heads=2, vocab_size=20, max_position_embeddings=16
)


T5 = T5Config(
    d_model=8, d_kv=3, d_ff=12, num_layers=2, num_heads=2, vocab_size=20, relative_attention_num_buckets=8,
    relative_attention_max_distance=5, decoder_start_token_id=0, feed_forward_proj="gated-gelu", bos_token_id=0,
)  # fmt: skip


BLIP2 = {
    "opt": Blip2Config(SEEN, ASKED, OPT, num_query_tokens=3),
    "opt, post-LN, own head": Blip2Config(
        SEEN,
        dataclasses.replace(ASKED, position_embedding_type="relative_key_query"),
        dataclasses.replace(OPT, do_layer_norm_before=False, tie_word_embeddings=False, activation_function="gelu_new"),
        num_query_tokens=3,
    ),
    "t5": Blip2Config(SEEN, ASKED, T5, num_query_tokens=3),
    "t5, no gate, tied": Blip2Config(SEEN, ASKED, dataclasses.replace(T5, feed_forward_proj="relu", is_gated_act=None,
                                     dense_act_fn=None), num_query_tokens=3),
}  # fmt: skip


TOWERS = dict(
    hidden_size=8, num_hidden_layers=2, num_attention_heads=2, contrastive_hidden_size=5,
    text_config=BridgeTowerTextConfig(vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=3,
                                      num_attention_heads=2, max_position_embeddings=16),
    vision_config=BridgeTowerVisionConfig(hidden_size=64, num_hidden_layers=2, patch_size=4, image_size=8),
)  # fmt: skip


BRIDGETOWER = {
    "add": BridgeTowerConfig(**TOWERS),
    "scaled_add": BridgeTowerConfig(**TOWERS, link_tower_type="scaled_add", share_link_tower_layers=True),
    "interpolate": BridgeTowerConfig(**TOWERS, link_tower_type="interpolate",
                                     share_cross_modal_transformer_layers=False),
}  # fmt: skip


def weights(table, seed=0):
    """Random float64 weights, none of them 0 or 1 throughout."""
    rng = np.random.default_rng(seed)
    fresh = tree.random(table, rng, std=0.3)
    return tree.map_leaves(lambda w: w + 0.1 * rng.normal(size=w.shape), fresh)


def blip2_loss(model):
    rng, text = np.random.default_rng(1), model.config.text_config
    size = model.config.vision_config.image_size
    pixels = rng.normal(size=(2, 3, size, size)).astype(np.float32)
    ids = rng.integers(3, text.vocab_size, (2, 5))
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    return model(pixels, ids, mask, labels=np.where(mask, ids, -100)).loss
