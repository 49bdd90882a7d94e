"""Every shape that a comment or a docstring of the models and the ops names is the shape that is really there."""

import types

import numpy as np
import pytest
import shapes

import minivl
from minivl import Blip2Config, Blip2ForConditionalGeneration, BridgeTowerConfig
from minivl.models import blip2, blocks, bridge, bridgetower, clip_vit, opt, qformer, roberta, t5, vit
from minivl.ops import numpy as numpy_ops
from minivl.ops import numpy_products, plain

MODULES = [blip2, blocks, bridge, bridgetower, clip_vit, opt, qformer, roberta, t5, vit]
MODULES += [plain, numpy_ops, numpy_products]


T5 = dict(model_type="t5", d_model=28, d_kv=9, d_ff=37, num_layers=2, num_decoder_layers=2, num_heads=7, vocab_size=41,
          relative_attention_num_buckets=16, decoder_start_token_id=0, bos_token_id=1, eos_token_id=40)  # fmt: skip


def small(relative=False, qkv_bias=True, text=None):
    """No two sizes are alike, so that no letter can stand for another by accident."""
    return Blip2Config(
        vision_config=dict(hidden_size=24, intermediate_size=29, num_hidden_layers=2, num_attention_heads=3,
                           image_size=12, patch_size=4, qkv_bias=qkv_bias),
        qformer_config=dict(hidden_size=20, intermediate_size=31, num_hidden_layers=2, num_attention_heads=4,
                            position_embedding_type="relative_key_query" if relative else "absolute"),
        text_config=text or dict(
            model_type="opt", hidden_size=28, ffn_dim=37, num_hidden_layers=2, num_attention_heads=7, vocab_size=41,
            max_position_embeddings=43, eos_token_id=40, do_layer_norm_before=not relative),
        num_query_tokens=6,
    )  # fmt: skip


def run_everything():
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 3, 12, 12)).astype(np.float32)
    ids = rng.integers(3, 40, (2, 8))
    for relative in (False, True):
        model = Blip2ForConditionalGeneration(small(relative))
        model(pixels, ids, labels=ids, output_attentions=True, output_hidden_states=True)
        model.generate(pixels, ids, max_new_tokens=3, num_beams=2)
    for gate in ("", "gated-"):
        model = Blip2ForConditionalGeneration(small(text=T5 | {"feed_forward_proj": f"{gate}gelu"}))
        model(pixels, ids, labels=ids[:, :5], decoder_attention_mask=np.eye(2, 5, dtype=int), output_attentions=True)
        model.generate(pixels, ids, max_new_tokens=3, num_beams=3)
    for tied in (False, True):
        run_bridgetower(small_bridgetower(tied), rng)
    for run in (run_the_demo_on_plain, run_bytes):
        run(rng)
    x = rng.normal(size=(2, 5, 24))
    for op in (numpy_ops.gelu, numpy_ops.gelu_tanh, numpy_ops.quick_gelu, numpy_ops.silu, numpy_ops.relu):
        op(x), op(x.astype(np.float32))
    numpy_ops.rms_norm(x, x[0, 0], 1e-6)


def run_the_demo_on_plain(rng):
    """Every op of a model on the plain record, T5's among them."""
    pixels, ids = rng.normal(size=(2, 3, 12, 12)).astype(np.float32), rng.integers(3, 30, (2, 7))
    for text in ({}, T5 | {"feed_forward_proj": "gated-gelu"}):
        model = Blip2ForConditionalGeneration(small(text=text), ops=minivl.ops.get("plain"))
        model(pixels, ids, labels=ids, output_attentions=True)


def run_bytes(rng):
    """Products with 8-bit weights, on both records of NumPy."""
    rows, scale = plain.quantise_rows(rng.normal(size=(7, 24)).astype(np.float32))
    x = rng.normal(size=(2, 5, 24)).astype(np.float32)
    x[:, :, 3] *= 20
    for ops in (plain, numpy_ops):
        ops.int8_linear(x, rows, scale, scale)
        ops.weight_only_linear(x, rows, scale, scale)
    numpy_ops.linear(x[0, :4], rows.astype(np.float32))


def small_bridgetower(tied):
    return BridgeTowerConfig(
        hidden_size=20, num_hidden_layers=2, contrastive_hidden_size=13, tie_word_embeddings=tied,
        link_tower_type="scaled_add" if tied else "interpolate", share_cross_modal_transformer_layers=tied,
        text_config=dict(hidden_size=20, intermediate_size=31, num_hidden_layers=2, num_attention_heads=4,
                         vocab_size=41, max_position_embeddings=17),
        vision_config=dict(hidden_size=128, num_hidden_layers=2, image_size=12, patch_size=4),
    )  # fmt: skip


def run_bridgetower(config, rng):
    """All heads, for three pairs of eight words and ten image tokens."""
    pixels = rng.normal(size=(3, 3, 12, 12)).astype(np.float32)
    ids = rng.integers(3, 40, (3, 8))
    minivl.BridgeTowerForMaskedLM(config)(ids, pixel_values=pixels, labels=ids, output_attentions=True)
    both = minivl.BridgeTowerForMatchingAndContrast(config)
    both(ids, pixel_values=pixels, labels=[0, 1, 1], return_loss=True, output_hidden_states=True)
    contrast = minivl.BridgeTowerForContrastiveLearning(config)
    contrast.get_text_features(ids), contrast.get_image_features(pixels)


def test_every_shape_comment_is_true_and_every_one_is_reached(monkeypatch):
    monkeypatch.setattr(numpy_products, "PART", 64)  # so that small matrices are taken in parts too
    with shapes.watching(*MODULES) as kept:
        run_everything()
    promised = {
        promise
        for module in MODULES
        for function in shapes.promises(module).values()
        for promise in (*function.arguments, *function.results, *sum(function.lines.values(), []))
    }
    assert len(promised) > 120
    assert {(p.file, p.line, p.name) for p in promised - kept} == set()


@pytest.mark.parametrize(
    "body",
    [
        "def f(x):\n    '''x (B, T) -> (B, T)'''\n    return x.T",
        "def f(x):\n    '''x (B, T)'''\n    y = x[:, :1]  # (B, T)\n    return y",
        "def f(x):\n    '''x (B, T, C)'''\n    return x",
        "def f(x):\n    '''x (B, T)'''\n    y = x  # (B, T + 1)\n    return y",
        "def f(x):\n    return x.T  # (3, 5)",
        "def f(x):\n    '''x (B, 2·T)'''\n    return x",
        "def f(x):\n    '''x (B, T)   ->   list of (B, T)'''\n    return [x, x[:1]]",
        "def f(x):\n    '''Yield x, (3, T) each.'''\n    yield x\n    yield x[:1]",
        "def f(x):\n    '''Yield a pair (B, T), (B, B) for each x.'''\n    yield x, x",
    ],
)
def test_a_false_comment_is_caught(tmp_path, body):
    path = tmp_path / "wrong.py"
    path.write_text(body)
    module = types.ModuleType("wrong")
    module.__file__ = str(path)
    exec(compile(body, str(path), "exec"), module.__dict__)
    import linecache

    linecache.checkcache()
    import sys

    sys.modules["wrong"] = module
    with pytest.raises(AssertionError, match="wrong.py"), shapes.watching(module):
        list(module.f(np.zeros((3, 5))))
