"""transformers' BridgeTower as the oracle: tiny models with random weights, and what flows through them.

The steps of a trace, in order: the text tower's states, the image tower's, and for each pair of cross-modal layers its
four attention maps and its two states; then what the heads make of them.
"""

import random

import numpy as np
import oracle
import torch
import transformers

import minivl
from minivl.weights import tree

TRUNK, FILL, MATCH, CONTRAST = CLASSES = (
    "BridgeTowerModel",
    "BridgeTowerForMaskedLM",
    "BridgeTowerForImageAndTextRetrieval",
    "BridgeTowerForContrastiveLearning",
)
LINKS = ("add", "scaled_add", "interpolate")
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")
EPS = (1e-12, 1e-5, 1e-2, 0.3)
EVERYTHING = dict(output_attentions=True, output_hidden_states=True)
READ_OFF = ("text_features", "image_features", "pooler_output", "logits", "text_embeds", "image_embeds", "cross_embeds")

TEXT = dict(hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=20, vocab_size=40)
TEXT |= dict(max_position_embeddings=20)
VISION = dict(hidden_size=64, num_hidden_layers=3, patch_size=4, image_size=8)
TOP = dict(hidden_size=12, num_attention_heads=3, num_hidden_layers=2, contrastive_hidden_size=7)
TOP |= dict(logit_scale_init_value=0.5)
WIDE = dict(text=dict(hidden_size=64, num_attention_heads=4), hidden_size=64)  # as wide as the picture, for contrast


def values(text=None, vision=None, **top):
    """The values of a small config.json, with changes."""
    return TOP | top | dict(text_config=TEXT | (text or {}), vision_config=VISION | (vision or {}))


def draw(seed, kind):
    """Any configuration that transformers can run: the image tower at least as deep as the text tower."""
    pick, contrast = random.Random(seed), kind == CONTRAST
    heads = pick.choice([1, 2, 4] if contrast else [1, 2, 3, 5])
    width = 64 if contrast else heads * pick.choice([3, 4, 8])
    depth, patch, cut = pick.randint(1, 4), pick.choice([2, 3, 4, 7]), pick.random() < 0.3
    text = dict(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=pick.randint(1, 40),
        vocab_size=pick.randint(30, 60),
        max_position_embeddings=pick.randint(18, 30),
        type_vocab_size=pick.randint(1, 3),
        pad_token_id=pick.choice([0, 1, 7]),
        hidden_act=pick.choice(ACTIVATIONS),
        layer_norm_eps=pick.choice(EPS),
    )
    vision = dict(
        hidden_size=width if contrast else pick.choice([64, 64, 96, 128]),
        num_hidden_layers=depth + pick.randint(0, 2) + cut,
        num_channels=pick.choice([1, 3, 3]),
        patch_size=patch,
        image_size=patch * pick.randint(1, 3) + pick.randrange(patch),
        layer_norm_eps=pick.choice(EPS),
        share_layernorm=pick.random() < 0.7,
        stop_gradient=pick.random() < 0.3,
        remove_last_layer=cut,
    )
    return dict(
        hidden_size=width,
        num_attention_heads=pick.randint(1, 9),  # nothing reads it: the cross-modal layers follow text_config
        num_hidden_layers=pick.randint(1, depth + 1),
        hidden_act=pick.choice(ACTIVATIONS),
        layer_norm_eps=pick.choice(EPS),
        link_tower_type=pick.choice(LINKS),
        tie_word_embeddings=pick.random() < 0.5,
        share_cross_modal_transformer_layers=contrast or pick.random() < 0.6,
        contrastive_hidden_size=pick.randint(1, 30),
        logit_scale_init_value=pick.choice([0.0, 1.0, 2.6592]),
        text_config=text,
        vision_config=vision,
    )


def build(config, kind=TRUNK, seed=0, dtype="float32"):
    """transformers' model of a configuration, every weight random."""
    config = transformers.BridgeTowerConfig(**config)
    model = getattr(transformers, kind)._from_config(config, attn_implementation="eager")
    oracle.randomize(model, seed)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if ".ln_" in key and key.endswith("weight"):  # norms whose names do not say so
                weight += 1
    return model.to(getattr(torch, dtype))


def ours(model, folder, backend="numpy", dtype="float32"):
    """Their model as ours, by way of the disk."""
    model.save_pretrained(folder)
    return load(type(model).__name__, folder, backend, dtype)


def load(kind, folder, backend="numpy", dtype="float32"):
    mine = getattr(minivl, kind).from_pretrained(folder, backend=backend)
    if dtype == "float64":
        mine.params = tree.map_leaves(lambda leaf: leaf.astype(dtype), mine.params)
    return mine


def example(config, batch=3, length=6, seed=0, mask="pads"):
    """Pictures, and texts with padding behind, before and between the words.

    mask   "pads" hides the padding, "other" hides words and shows padding, None hides nothing
    """
    rng, size = np.random.default_rng(seed), config.vision_config.image_size
    pixels = rng.normal(size=(batch, config.vision_config.num_channels, size, size)).astype(np.float32)
    pad, vocabulary = config.text_config.pad_token_id, config.text_config.vocab_size
    ids = rng.choice([i for i in range(vocabulary) if i != pad], (batch, length))
    keep = rng.random((batch, length)) < 0.7
    keep[0] = True
    keep[:, 0] |= ~keep.any(1)
    ids = np.where(keep, ids, pad)
    inputs = dict(input_ids=ids, pixel_values=pixels)
    if mask == "pads":
        inputs["attention_mask"] = keep.astype(np.int64)
    if mask == "other":
        inputs["attention_mask"] = (rng.random((batch, length)) < 0.7).astype(np.int64)
        inputs["attention_mask"][:, rng.integers(length)] = 1
    return inputs


def questions(kind, config, ids, seed=0):
    """What asks a class for its loss."""
    rng = np.random.default_rng(seed + 1)
    if kind == FILL:
        labels = rng.integers(0, config.text_config.vocab_size, ids.shape)
        labels[rng.random(ids.shape) < 0.5] = -100
        labels[0, 0] = 3
        return dict(labels=labels)
    if kind == MATCH:
        return dict(labels=rng.integers(0, 2, len(ids)))
    return dict(return_loss=True) if kind == CONTRAST else {}


def tensors(inputs):
    return {name: torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in inputs.items()}


def flow(hidden_states, attentions, cross_attentions):
    """A trace from what the outputs hold."""
    texts, images, pairs = hidden_states
    trace = {}
    for tower, states in (("text", texts), ("image", images)):
        trace |= {f"{tower} layer {i - 1}" if i else f"{tower} embeddings": x for i, x in enumerate(states)}
    for j, (states, own, across) in enumerate(zip(pairs, attentions, cross_attentions, strict=True)):
        for tower, one in (("text", 0), ("image", 1)):
            trace[f"cross-modal {tower} layer {j} self-attention"] = own[one]
            trace[f"cross-modal {tower} layer {j} cross-attention"] = across[one]
            trace[f"cross-modal {tower} layer {j}"] = states[one]
    return trace


def their_trace(model, inputs):
    """(output, trace) of transformers' model; the maps of cross-attention, which it does not return, by hooks."""
    trunk, hooks = getattr(model, "bridgetower", model), oracle.Hooks()
    names = [(j, tower) for j in range(model.config.num_hidden_layers) for tower in ("text", "image")]
    for j, tower in names:
        hooks.watch(getattr(trunk, f"cross_modal_{tower}_layers")[j].crossattention, (j, tower), 1)
    output, maps = hooks.run(model, **tensors(inputs), return_dict=True)
    across = [(maps[j, "text"], maps[j, "image"]) for j in range(model.config.num_hidden_layers)]
    trace = flow(output.hidden_states, output.attentions, across)
    trace |= {name: output[name] for name in READ_OFF if name in output}
    return output, {name: x.numpy() if isinstance(x, torch.Tensor) else x for name, x in trace.items()}


def our_trace(model, inputs):
    output = model(**inputs, **EVERYTHING)
    trace = flow(output.hidden_states, output.attentions, output.cross_attentions)
    trace |= {name: output[name] for name in READ_OFF if name in output}
    return output, {name: model.ops.to_numpy(x) for name, x in trace.items()}


def check(config, folder, kind=TRUNK, dtype="float32", backends=("numpy", "torch"), seed=0, **how):
    """Every step of ours is theirs, the logits within 1e-4 and the loss within 1e-5."""
    theirs = build(config, kind, seed, dtype)
    inputs = example(theirs.config, seed=seed, **how)
    inputs |= questions(kind, theirs.config, inputs["input_ids"], seed)
    output, want = their_trace(theirs, inputs)
    theirs.save_pretrained(folder)
    for backend in backends:
        mine = load(kind, folder, backend, dtype)
        got, trace = our_trace(mine, inputs)
        oracle.compare(trace, want, oracle.TOLERANCE[dtype])
        if kind != TRUNK:
            np.testing.assert_allclose(mine.ops.to_numpy(got.logits), output.logits.numpy(), rtol=0, atol=1e-4)
            np.testing.assert_allclose(mine.ops.to_numpy(got.loss), output.loss.numpy(), rtol=0, atol=1e-5)
