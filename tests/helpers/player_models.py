"""Models for the tests of the player."""

import numpy as np

from minivl import (
    Blip2Config,
    Blip2ForConditionalGeneration,
)


def small_t5():
    small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    text = dict(model_type="t5", d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=3, num_heads=2)
    text |= dict(vocab_size=40, decoder_start_token_id=0, bos_token_id=1, eos_token_id=1)
    vision = small | dict(image_size=16, patch_size=8, initializer_range=0.3)
    qformer = small | dict(encoder_hidden_size=16, initializer_range=0.3)
    return Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=3)


def of_real_shape():
    """39 layers, 257 patches, 16 heads; 32 queries in 12 layers; 32 layers of 32 heads that write 20 words."""
    small = dict(intermediate_size=16)
    vision = small | dict(hidden_size=32, num_hidden_layers=39, num_attention_heads=16, image_size=224, patch_size=14)
    qformer = small | dict(hidden_size=24, num_hidden_layers=12, num_attention_heads=12, encoder_hidden_size=32)
    text = dict(hidden_size=64, num_hidden_layers=32, num_attention_heads=32, ffn_dim=16, vocab_size=60)
    config = Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=32)
    pixels = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    model = Blip2ForConditionalGeneration(config)
    return model.trace(pixels, np.arange(3, 19)[None], max_new_tokens=20, min_new_tokens=20)
