"""transformers as the oracle of the parity tests: tiny random models, watched layer by layer.

A trace is an ordered dict {name of a step: array}. `compare` walks along two traces and stops at the first step at
which they part. The sub-models are run one after the other, as transformers 4.37 wires them: today's composite model no
longer shows their inner states.
"""

import json
import random
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.blip_2 import modeling_blip_2
from transformers.models.opt import modeling_opt
from transformers.models.t5 import modeling_t5

import minivl.config.blip2
from minivl.models import opt, qformer, t5, vit
from minivl.tracing import Watch, watch_attention
from minivl.weights import files, names, tree

torch.set_num_threads(1)

STD = 0.2  # transformers' own 0.02 makes outputs nearly constant, and bugs invisible
TOLERANCE = {"float32": 2e-5, "float64": 1e-9}  # for every hidden state and attention map

VISION = dict(hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=3)
VISION |= dict(image_size=12, patch_size=4)
QFORMER = dict(hidden_size=20, intermediate_size=28, num_hidden_layers=4, num_attention_heads=2)
QFORMER |= dict(vocab_size=8, encoder_hidden_size=24)
TEXT = dict(hidden_size=16, word_embed_proj_dim=16, ffn_dim=40, num_hidden_layers=3, num_attention_heads=4)
TEXT |= dict(vocab_size=50, max_position_embeddings=40, pad_token_id=1, bos_token_id=2, eos_token_id=49)
T5 = dict(d_model=16, d_kv=5, d_ff=24, num_layers=3, num_decoder_layers=2, num_heads=3, vocab_size=50)
T5 |= dict(relative_attention_num_buckets=8, relative_attention_max_distance=12, feed_forward_proj="gated-gelu")
T5 |= dict(tie_word_embeddings=False, pad_token_id=0, eos_token_id=1, bos_token_id=1, decoder_start_token_id=0)
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish")


# ---- odd configurations, drawn from a seed -------------------------------------------------------
def draw_vision(seed):
    pick = random.Random(seed)
    heads, patch = pick.choice([1, 2, 3, 5]), pick.choice([2, 3, 4, 7])
    return dict(
        hidden_size=heads * pick.choice([3, 4, 8]),
        intermediate_size=pick.randint(1, 40),
        num_hidden_layers=pick.randint(1, 4),
        num_attention_heads=heads,
        image_size=patch * pick.randint(1, 4) + pick.randrange(patch),
        patch_size=patch,
        hidden_act=pick.choice(ACTIVATIONS),
        layer_norm_eps=pick.choice([1e-12, 1e-6, 1e-5, 1e-2]),
        qkv_bias=pick.random() < 0.5,
    )


def draw_qformer(seed):
    pick = random.Random(seed)
    heads = pick.choice([1, 2, 3, 5])
    return dict(
        vocab_size=8,
        hidden_size=heads * pick.choice([3, 4, 8]),
        intermediate_size=pick.randint(1, 40),
        num_hidden_layers=pick.randint(1, 5),
        num_attention_heads=heads,
        hidden_act=pick.choice(ACTIVATIONS),
        layer_norm_eps=pick.choice([1e-12, 1e-6, 1e-5, 1e-2]),
        cross_attention_frequency=pick.randint(1, 3),
        encoder_hidden_size=pick.choice([5, 12, 24]),
    )


def draw_text(seed):
    pick = random.Random(seed)
    heads = pick.choice([1, 2, 3, 5])
    width = heads * pick.choice([3, 4, 8])
    return TEXT | dict(
        vocab_size=pick.randint(50, 70),
        hidden_size=width,
        word_embed_proj_dim=width,
        ffn_dim=pick.randint(1, 40),
        num_hidden_layers=pick.randint(1, 4),
        num_attention_heads=heads,
        activation_function=pick.choice(ACTIVATIONS),
        do_layer_norm_before=pick.random() < 0.6,
        _remove_final_layer_norm=pick.random() < 0.3,
        tie_word_embeddings=pick.random() < 0.5,
        enable_bias=pick.random() < 0.7,
        layer_norm_elementwise_affine=pick.random() < 0.7,
    )


def draw_t5(seed):
    pick = random.Random(seed)
    buckets = pick.randint(4, 33)
    named = pick.choice(ACTIVATIONS)
    return T5 | dict(
        vocab_size=pick.randint(50, 70),
        d_model=pick.randint(1, 30),
        d_kv=pick.randint(1, 9),
        d_ff=pick.randint(1, 40),
        num_layers=pick.randint(1, 4),
        num_decoder_layers=pick.randint(1, 4),
        num_heads=pick.randint(1, 5),
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=buckets // 2 + pick.choice([1, 3, 100]),
        layer_norm_epsilon=pick.choice([1e-6, 1e-2]),
        feed_forward_proj=pick.choice(["relu", "gated-gelu", "gated-silu", f"gated-{named}", named]),
        tie_word_embeddings=pick.random() < 0.5,
        **pick.choice([{}, {"dense_act_fn": pick.choice(ACTIVATIONS)}]),
    )


def draw_blip2(seed, family="opt"):
    vision, text = draw_vision(seed), (draw_text if family == "opt" else draw_t5)(seed + 1)
    return blip2_model(vision, draw_qformer(seed + 2), text, queries=seed % 4 + 1, seed=seed)


def example(model, batch=3, length=6, seed=0):
    """Pictures, and prompts padded on the left; the first row has no padding."""
    rng, size = np.random.default_rng(seed), model.config.vision_config.image_size
    pixels = rng.normal(size=(batch, 3, size, size)).astype(np.float32)
    ids = rng.integers(3, 40, (batch, length))
    mask = (np.arange(length) >= rng.integers(1, length, batch)[:, None]).astype(np.int64)
    mask[0] = 1
    return pixels, np.where(mask == 1, ids, 1), mask


# ---- the answers of 4.37.2 that make_goldens.py wrote down ---------------------------------------
GOLDEN = Path(__file__).parents[1] / "golden"
T5_MODELS = sorted(path.parent.name for path in GOLDEN.glob("t5_*/forward.npz"))
MODELS = sorted({path.parent.name for path in GOLDEN.glob("*/forward.npz")} - {*T5_MODELS})


def golden_inputs(folder, rows=(0, 1, 2), prompt=True, masked=True):
    """Rows of a golden model's pictures and prompts; the prompts have 6, 4 and 2 tokens, padded on the left."""
    names = ["pixel_values", "input_ids", "attention_mask"][: 1 if not prompt else 2 if not masked else 3]
    with np.load(folder / "forward.npz") as arrays:
        return {name: arrays[name][list(rows)] for name in names}


# ---- models, theirs and ours ---------------------------------------------------------------------
def randomize(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.normal_(0, STD)
            if "norm" in key.lower() and key.endswith("weight"):
                weight += 1
    return model.eval()


def vision_model(config, seed=0):
    return randomize(Blip2VisionModel._from_config(Blip2VisionConfig(**config), attn_implementation="eager"), seed)


def qformer_model(config, seed=0):
    return randomize(Blip2QFormerModel._from_config(Blip2QFormerConfig(**config), attn_implementation="eager"), seed)


def text_model(config, seed=0):
    return randomize(OPTForCausalLM._from_config(OPTConfig(**config), attn_implementation="eager"), seed)


def t5_model(config, seed=0):
    model = T5ForConditionalGeneration._from_config(T5Config(**config), attn_implementation="eager")
    return randomize(untied(model, config), seed)


def untied(model, config):
    """Newer versions tie the head of every new T5, and of every new BLIP-2, whatever the configuration says."""
    if config.get("tie_word_embeddings") is False:
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    return model


def blip2_model(vision=None, qformer=None, text=None, queries=5, seed=0):
    text = text or {}
    text = (T5 | {"model_type": "t5"} if "d_model" in text else TEXT | {"model_type": "opt"}) | text
    vision, qformer = VISION | (vision or {}), QFORMER | (qformer or {})
    qformer["encoder_hidden_size"] = vision["hidden_size"]
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=queries,
        image_token_index=text["vocab_size"] - 2,
    )
    model = Blip2ForConditionalGeneration._from_config(config, attn_implementation="eager")
    untied(model.language_model, text)
    return randomize(model, seed)


PARTS = {
    "Blip2VisionModel": (minivl.config.blip2.Blip2VisionConfig, names.vit),
    "Blip2QFormerModel": (minivl.config.blip2.Blip2QFormerConfig, names.qformer),
    "OPTForCausalLM": (minivl.config.blip2.OPTConfig, names.opt),
    "T5ForConditionalGeneration": (minivl.config.blip2.T5Config, names.t5),
}


def ours(model, folder, dtype="float32"):
    """Their sub-model as (config, params) of ours, by way of the disk."""
    model.save_pretrained(folder)
    kind, table = PARTS[type(model).__name__]
    config = kind.from_dict(json.loads((folder / "config.json").read_text()))
    params = tree.build(table(config), files.read(folder), "the oracle's folder")
    return config, tree.map_leaves(lambda leaf: leaf.astype(dtype), params)


# ---- traces --------------------------------------------------------------------------------------
class Hooks:
    """Writes the output of chosen modules into a trace while a model runs. `index` picks from a tuple."""

    def __init__(self):
        self.trace, self.handles = {}, []

    def watch(self, module, name, index=None):
        def keep(_module, _inputs, output):
            self.trace[name] = (output if index is None else output[index]).detach().numpy()

        self.handles.append(module.register_forward_hook(keep))

    def watch_input(self, module, name):
        def keep(_module, inputs):
            self.trace[name] = inputs[0].detach().numpy()

        self.handles.append(module.register_forward_pre_hook(keep))

    def run(self, model, **inputs):
        with torch.no_grad():
            output = model(**inputs)
        for handle in self.handles:
            handle.remove()
        return output, self.trace


def vision_trace(model, pixels):
    hooks = Hooks()
    hooks.watch(model.embeddings, "vision embeddings")
    for i, layer in enumerate(model.encoder.layers):
        hooks.watch(layer.self_attn, f"vision layer {i} attention", 1)
        hooks.watch(layer, f"vision layer {i}")
    output, trace = hooks.run(model, pixel_values=torch.tensor(pixels))
    return trace | {"vision last norm": output.last_hidden_state.numpy(), "vision pooler": output.pooler_output.numpy()}


def qformer_trace(model, queries, image):
    hooks = Hooks()
    hooks.watch(model.layernorm, "qformer norm")
    for i, layer in enumerate(model.encoder.layer):
        hooks.watch(layer.attention.attention, f"qformer layer {i} attention", 1)
        if layer.has_cross_attention:
            hooks.watch(layer.crossattention.attention, f"qformer layer {i} cross-attention", 1)
        hooks.watch(layer, f"qformer layer {i}")
    image = torch.tensor(image)
    queries = torch.tensor(queries).expand(len(image), -1, -1)
    output, trace = hooks.run(model, query_embeds=queries, encoder_hidden_states=image)
    return trace | {"qformer pooler": output.pooler_output.numpy()}


def text_trace(model, embeds, mask):
    decoder, hooks = model.model.decoder, Hooks()
    hooks.watch_input(decoder.layers[0], "language embeddings")
    for i, layer in enumerate(decoder.layers):
        hooks.watch(layer.self_attn, f"language layer {i} attention", 1)
        if i + 1 < len(decoder.layers):  # the last layer's state is only shown after the last norm
            hooks.watch(layer, f"language layer {i}")
    inputs = dict(inputs_embeds=torch.tensor(embeds), attention_mask=torch.tensor(mask))
    # OPT's own attention function rounds its softmax to float32 even in float64; its neighbour's does not.
    with mock.patch.object(modeling_opt, "eager_attention_forward", modeling_blip_2.eager_attention_forward):
        output, trace = hooks.run(model, **inputs, use_cache=False, output_hidden_states=True)
    return trace | {"language last norm": output.hidden_states[-1].numpy(), "logits": output.logits.numpy()}


def rms_norm(self, x):
    """T5's own norm rounds its variance to float32 even in float64."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def t5_trace(model, embeds, mask, words, word_mask=None, labels=None):
    """T5 that is given embeddings to read, and words to the decoder."""
    hooks = Hooks()
    for name, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        hooks.watch_input(stack.block[0], f"{name} embeddings")
        for i, block in enumerate(stack.block):
            hooks.watch(block.layer[0].SelfAttention, f"{name} layer {i} attention", 2)
            if name == "decoder":
                hooks.watch(block.layer[1].EncDecAttention, f"{name} layer {i} cross-attention", 2)
            if i + 1 < len(stack.block):  # the last state is only shown after the last norm
                hooks.watch(block, f"{name} layer {i}", 0)
        hooks.watch(stack.final_layer_norm, f"{name} last norm")
    given = dict(inputs_embeds=embeds, attention_mask=mask, decoder_input_ids=words, decoder_attention_mask=word_mask)
    given = {name: torch.tensor(x) for name, x in (given | {"labels": labels}).items() if x is not None}
    with mock.patch.object(modeling_t5.T5LayerNorm, "forward", rms_norm):
        output, trace = hooks.run(model, **given, use_cache=False)
    loss = {} if labels is None else {"loss": output.loss.numpy()}
    return trace | {"logits": output.logits.numpy()} | loss


def blip2_trace(model, pixels, ids, mask):
    """The three models one after the other, picture first, as 4.37 wires them."""
    trace = sight_trace(model, pixels)
    return trace | text_trace(model.language_model, *prompt(model, trace, ids, mask))


def sight_trace(model, pixels):
    """From the picture to the queries' answers."""
    trace = vision_trace(model.vision_model, pixels)
    return trace | qformer_trace(model.qformer, model.query_tokens.detach().numpy(), trace["vision last norm"])


def prompt(model, trace, ids, mask):
    """The picture's soft words in front of the prompt's, and the mask over both."""
    answers = torch.tensor(trace[f"qformer layer {len(model.qformer.encoder.layer) - 1}"])
    with torch.no_grad():
        soft = model.language_projection(answers).numpy()
        words = model.language_model.get_input_embeddings()(torch.tensor(ids)).numpy()
    return np.concatenate([soft, words], 1), np.concatenate([np.ones(soft.shape[:2], np.int64), mask], 1)


def our_vision_trace(ops, config, params, pixels):
    maps = []
    states = list(vit.states(watch_attention(ops, maps), params, pixels, config))
    trace = {"vision embeddings": states[0]}
    for i, (weights, x) in enumerate(zip(maps, states[1:], strict=True)):
        trace |= {f"vision layer {i} attention": weights, f"vision layer {i}": x}
    last = vit.encode(ops, params, pixels, config)
    return trace | {"vision last norm": last, "vision pooler": vit.pool(ops, params, last)}


def our_qformer_trace(ops, config, params, queries, image):
    maps = []
    states = list(qformer.states(watch_attention(ops, maps), params, queries, image, config))
    trace, maps = {"qformer norm": states[0]}, iter(maps)
    for i, x in enumerate(states[1:]):
        trace[f"qformer layer {i} attention"] = next(maps)
        if i % config.cross_attention_frequency == 0:
            trace[f"qformer layer {i} cross-attention"] = next(maps)
        trace[f"qformer layer {i}"] = x
    assert not list(maps)
    return trace | {"qformer pooler": x[:, 0]}


def our_text_trace(ops, config, params, embeds, mask):
    maps = []
    states = list(opt.states(watch_attention(ops, maps), params, embeds, mask, config))
    trace = {"language embeddings": states[0]}
    for i, (weights, x) in enumerate(zip(maps, states[1:], strict=True)):
        name = f"language layer {i}" if i + 1 < len(maps) else "language last norm"
        trace |= {f"language layer {i} attention": weights, name: x}
    return trace | {"logits": opt.logits(ops, params, x)}


def our_t5_trace(ops, config, params, embeds, mask, words, word_mask=None, labels=None):
    watch = Watch(ops, True, True)
    encoded = watch.run(lambda ops: t5.encoder_states(ops, params, embeds, mask, config))
    trace = our_stack_trace("encoder", watch.hidden_states, [(x,) for x in watch.attentions])
    watch, memory = Watch(ops, True, True), t5.remember(ops, params, encoded, config)
    x = ops.embed(words, params["tokens"])
    x = watch.run(lambda ops: t5.decoder_states(ops, params, x, memory, mask, config, word_mask))
    maps = zip(watch.attentions[::2], watch.attentions[1::2], strict=True)
    trace |= our_stack_trace("decoder", watch.hidden_states, maps)
    trace["logits"] = t5.logits(ops, params, x, config)
    return trace if labels is None else trace | {"loss": ops.cross_entropy(trace["logits"], labels)}


def our_stack_trace(name, states, maps):
    trace = {f"{name} embeddings": states[0]}
    for i, (found, x) in enumerate(zip(maps, states[1:], strict=True)):
        trace |= {
            f"{name} layer {i} {kind}": a for kind, a in zip(("attention", "cross-attention"), found, strict=False)
        }
        trace[f"{name} layer {i}"] = x
    trace[f"{name} last norm"] = trace.pop(f"{name} layer {i}")  # the last layer's state is only given after the norm
    return trace


def compare(mine, theirs, tolerance):
    """Fails with the name of the first step at which two traces differ."""
    assert list(mine) == list(theirs)
    for name, want in theirs.items():
        got = np.asarray(mine[name])
        assert got.shape == want.shape, f"first difference at {name}: shape {got.shape}, wanted {want.shape}"
        assert got.dtype == want.dtype, f"first difference at {name}: {got.dtype}, wanted {want.dtype}"
        worst = float(np.abs(got - want).max())
        allowed = tolerance * max(1.0, float(np.abs(want).max()))
        assert worst <= allowed, f"first difference at {name}: {worst:.2e}, allowed {allowed:.2e}"
