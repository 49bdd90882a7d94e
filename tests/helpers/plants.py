"""Faults planted into tiny models, one at a time, for tests/tools/test_parity.py: what minivl diff must find and name.

    python tests/helpers/plants.py        prints the table: family, fault, where it was found, what was named first

A plant changes a copy of a model (its weights, its configuration, one call of one op) or a module of transformers.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

import minivl
from minivl import Blip2Config, BridgeTowerConfig
from minivl.ops import numpy as numpy_ops
from minivl.tools.parity.weights import rounded
from minivl.weights import tree

VISION = dict(hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=3, image_size=12)
VISION |= dict(patch_size=4, initializer_range=0.2)
QFORMER = dict(hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2)
OPT = dict(model_type="opt", hidden_size=16, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4, vocab_size=50)
OPT |= dict(max_position_embeddings=40, eos_token_id=49)
T5 = dict(model_type="t5", d_model=16, d_kv=4, d_ff=40, num_layers=2, num_heads=4, vocab_size=50, eos_token_id=49)
T5 |= dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, bos_token_id=0)
TEXT = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=36, vocab_size=50)
BRIDGES = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, contrastive_hidden_size=7, tie_word_embeddings=False,
    link_tower_type="interpolate", text_config=TEXT | dict(max_position_embeddings=20),
    vision_config=dict(hidden_size=128, num_hidden_layers=3, patch_size=4, image_size=12),
)  # fmt: skip
CLASSES = {
    "opt": minivl.Blip2ForConditionalGeneration,
    "t5": minivl.Blip2ForConditionalGeneration,
    "mlm": minivl.BridgeTowerForMaskedLM,
    "itm": minivl.BridgeTowerForImageAndTextRetrieval,
    "itc": minivl.BridgeTowerForContrastiveLearning,
}


@cache
def model_of(family: str) -> Any:
    """A tiny model, every number of it random, biases and norms too."""
    if family in ("opt", "t5"):
        text = OPT if family == "opt" else T5
        parts = dict(vision_config=VISION, qformer_config=QFORMER, text_config=text)
        config: Any = Blip2Config(**parts, num_query_tokens=5, initializer_range=0.2)
    else:
        # transformers adds token types as wide as the cross-modal layers to vectors as wide as the picture's
        width = 64 if family == "itc" else 128
        config = BridgeTowerConfig(**BRIDGES | {"vision_config": BRIDGES["vision_config"] | {"hidden_size": width}})
    rng, model = np.random.default_rng(1), CLASSES[family](config)
    model.params = tree.map_leaves(
        lambda w: ((w if w.size and (w == 1).all() else 0) + rng.normal(0, 0.2, w.shape)).astype("f4"), model.params
    )
    return model


class Plant(NamedTuple):
    """A fault: in which family, what, where diff has to find it, how the first suspect has to begin."""

    family: str
    fault: str
    place: str
    suspect: tuple[str, ...]
    side: Callable[[], Any]
    against: Callable[[], Any] | None = None  # the other side, where it is not the family's model


# ---- copies with one thing changed ---------------------------------------------------------------
def with_weights(family: str, **changes: Callable[[Any], Any]) -> Any:
    """A copy of the model in which the tensor at each path, written with _ for its dots' sake as a__b, is changed."""
    found = model_of(family)
    params = copy_tree(found.params)
    for path, change in changes.items():
        *parts, leaf = path.split("__")
        node = params
        for part in parts:
            node = node[int(part)] if isinstance(node, list) else node[part]
        new = change(node[leaf])
        node[leaf] = new.astype("f4") if hasattr(new, "astype") else new
    return type(found)(found.config, ops=found.ops, params=params)


def copy_tree(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: copy_tree(child) for name, child in node.items()}
    return [copy_tree(child) for child in node] if isinstance(node, list) else node


def with_op(family: str, op: str, number: int, change: Callable[..., Any]) -> Any:
    """A copy whose op does something else in its call of this number: change(function, *args, **how)."""
    found, calls = model_of(family), []
    function = getattr(numpy_ops.OPS, op)

    def run(*args: Any, **how: Any) -> Any:
        calls.append(1)
        at = (len(calls) - 1) % total
        return change(function, *args, **how) if at == number else function(*args, **how)

    total = count(family, op)
    return type(found)(found.config, ops=found.ops._replace(**{op: run}), params=found.params)


@cache
def count(family: str, op: str) -> int:
    """How often one pass calls an op."""
    from minivl.tools.parity import inputs

    found, calls = model_of(family), []
    function = getattr(numpy_ops.OPS, op)

    def run(*args: Any, **how: Any) -> Any:
        calls.append(1)
        return function(*args, **how)

    given = inputs.seeded(type(found), found.config)
    type(found)(found.config, ops=found.ops._replace(**{op: run}), params=found.params)(**given)
    return len(calls)


def with_setting(family: str, name: str, value: Any) -> Any:
    """A copy with another configuration, its numbers that stand in the tree included."""
    from minivl.tools.parity.settings import changed

    found = model_of(family)
    config = changed(found.config, {name: value})
    arrays = tree.flatten(found.table(found.config), found.params)
    stored = {hub: minivl.weights.files.Stored("F32", array, hub) for hub, array in arrays.items()}
    return type(found)(config, ops=found.ops, params=tree.build(found.table(config), stored, "a copy"))


@cache
def theirs_of(family: str) -> Any:
    """transformers' model with the same weights."""
    import tempfile

    from minivl.tools.parity import theirs

    transformers = theirs.package()
    found = model_of(family)
    with tempfile.TemporaryDirectory() as folder:
        found.save_pretrained(folder)
        cls = getattr(transformers, type(found).__name__)
        return cls.from_pretrained(folder, attn_implementation="eager", local_files_only=True).eval()


def in_theirs(family: str, module: str, change: Callable[[Any], None]) -> Any:
    """A copy of transformers' model in which something is done to one module."""
    import torch

    found = copy.deepcopy(theirs_of(family))
    with torch.no_grad():
        change(found.get_submodule(module))
    return found


# ---- the usual faults of a linear layer, a norm, an attention -------------------------------------
def swap_heads(w: Any, heads: int) -> Any:
    return w.reshape(heads, -1, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape)


def flip_one(w: Any) -> Any:
    found = w.copy()
    at = tuple(n // 2 for n in w.shape)
    found[at] = -found[at] - 0.5
    return found


def other_blocks(w: Any, order: tuple[int, ...]) -> Any:
    return w.reshape(3, -1, *w.shape[1:])[list(order)].reshape(w.shape)


def shown(path: str) -> str:
    """Where a fault in the layer of this path is seen."""
    stack, _, leaf = path.rpartition(".")
    if leaf in ("out", "down"):
        return stack
    is_gated = "coder." in path  # T5: its up has no function behind it
    return f"{stack}.act" if leaf == "gate" or (leaf == "up" and not is_gated) else path


def linears(family: str, path: str, *, square: bool = False, bias: bool = True, layer: str = "") -> list[Plant]:
    """bias dropped, scaled, one element, rows permuted, rounded, transposed, and another layer's weights."""
    w, place = f"{path}.w".replace(".", "__"), shown(path)

    def plant(fault: str, change: Callable[[Any], Any], *suspect: str, leaf: str = w) -> Plant:
        return Plant(family, f"{path}: {fault}", place, suspect, lambda: with_weights(family, **{leaf: change}))

    found = [
        plant("scaled", lambda w: w * 1.25, "weight scaled by 1.25"),
        plant("one element", flip_one, "element ["),
        plant("rows reversed", lambda w: w[::-1], "rows of the weight permuted"),
        plant("bfloat16", lambda w: rounded(w, "bfloat16"), "dtype: weight rounded to bfloat16"),
        plant("int8", lambda w: rounded(w, "int8"), "dtype: weight rounded to int8"),
    ]
    if bias:
        b = f"{path}.b".replace(".", "__")
        found.append(plant("bias dropped", np.zeros_like, "bias missing", leaf=b))
        found.append(plant("one element of the bias", flip_one, "element [", leaf=b))
    if square:
        found.append(plant("transposed", lambda w: w.T, "weight transposed"))
    if layer:
        node: Any = model_of(family).params
        for part in layer.split("."):
            node = node[int(part)] if part.isdigit() else node[part]
        other = {f"{path}.{leaf}".replace(".", "__"): (lambda _, leaf=leaf: node[leaf]) for leaf in ("w", "b")}
        if not bias:
            other.pop(next(name for name in other if name.endswith("__b")))
        fault = f"{path}: weights of {layer}"
        named = f"weights of {layer}"
        found.append(Plant(family, fault, place, (named, "q/k/v order"), lambda: with_weights(family, **other)))
    return found


def norms(family: str, path: str, eps: float, rms: bool = False, tiny: bool = True) -> list[Plant]:
    """`tiny` if an eps below 1e-4 can be seen: not where the variance is so large that float32 cannot tell."""
    at = path.replace(".", "__")

    def plant(fault: str, leaf: str, change: Callable[[Any], Any], *suspect: str) -> Plant:
        side = lambda: with_weights(family, **{f"{at}__{leaf}": change})  # noqa: E731
        return Plant(family, f"{path}: {fault}", path, suspect, side)

    found = [
        plant(f"eps {other:g}", "eps", lambda _, e=other: e, f"eps {other:g} for {eps:g}")
        for other in (1e-5, 1e-6, 1e-12)
        if tiny and abs(other - eps) > 2e-6
    ]
    found.append(plant("eps 0.003", "eps", lambda _: 3e-3, "eps near 0.003"))
    found.append(plant("weight dropped", "w", np.ones_like, "weight of the norm missing"))
    if not rms:
        found.append(plant("bias dropped", "b", np.zeros_like, "bias missing"))
    return found


def attentions(family: str, number: int, place: str, *, mask: bool, causal: bool, self_attention: bool = True) -> list:
    """Faults in the call of this number, counted from 0."""

    def plant(fault: str, change: Callable[..., Any], *suspect: str) -> Plant:
        side = lambda: with_op(family, "attention", number, change)  # noqa: E731
        return Plant(family, f"{place}: {fault}", place, suspect, side)

    scale = lambda q, how: how.get("scale") or q.shape[-1] ** -0.5  # noqa: E731
    found = [
        plant("1/D for the scale", lambda f, q, k, v, **how: f(q, k, v, **how | {"scale": 1 / q.shape[-1]}),
              "attention scale"),
        plant("scale times 1.5", lambda f, q, k, v, **how: f(q, k, v, **how | {"scale": 1.5 * scale(q, how)}),
              "attention scale"),
        plant("k and v exchanged", lambda f, q, k, v, **how: f(q, v, k, **how), "q/k/v order: qvk"),
        plant("causal", lambda f, q, k, v, **how: f(q, k, v, **how | {"causal": not how.get("causal", False)}),
              "causal"),
    ]  # fmt: skip
    if self_attention:
        found.append(plant("q and k exchanged", lambda f, q, k, v, **how: f(k, q, v, **how), "q/k/v order: kqv"))
    if mask:
        found.append(plant("mask ignored", lambda f, *a, **how: f(*a, **how | {"mask": None}), "mask ignored"))
    return [one for one in found if causal or "causal" not in one.fault]


def activations(family: str, number: int, place: str, act: str, op: str = "linear_act") -> list[Plant]:
    spoken = {"gelu": "gelu (exact)", "gelu_tanh": "gelu (tanh)"}
    return [
        Plant(
            family,
            f"{place}: {other}",
            place,
            (f"activation: {spoken.get(other, other)} for {spoken.get(act, act)}",),
            lambda other=other: with_op(family, op, number, lambda f, *x, act, **how: f(*x, act=other, **how)),
        )
        for other in ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")
        if other != act
    ]


def fused(family: str, path: str, heads: int) -> list[Plant]:
    """q, k and v in one matrix."""
    w, b = (f"{path}.{leaf}".replace(".", "__") for leaf in "wb")

    def plant(fault: str, suspect: str, **changes: Callable[[Any], Any]) -> Plant:
        return Plant(family, f"{path}: {fault}", path, (suspect,), lambda: with_weights(family, **changes))

    orders = {"qvk": (0, 2, 1), "kqv": (1, 0, 2), "vkq": (2, 1, 0), "kvq": (1, 2, 0), "vqk": (2, 0, 1)}
    found = []
    for name, order in orders.items():
        both = {leaf: (lambda t, order=order: other_blocks(t, order)) for leaf in (w, b)}
        found.append(plant(f"rows in the order {name}", f"q/k/v order: {name}", **both))
    per_head = lambda t: t.reshape(3, heads, -1).swapaxes(0, 1).reshape(t.shape)  # noqa: E731
    found.append(plant("rows by heads", "heads split in another order", **{w: per_head, b: per_head}))
    no_k = lambda t: np.where(np.arange(len(t)) // (len(t) // 3) == 1, 0, t)  # noqa: E731
    found.append(plant("no bias of k", "bias of k missing", **{b: no_k}))
    return found


def settings(family: str, *each: tuple[str, Any, str, str]) -> list[Plant]:
    return [
        Plant(family, f"{name}={value}", place, (suspect,), lambda n=name, v=value: with_setting(family, n, v))
        for name, value, place, suspect in each
    ]  # fmt: skip


def residuals(family: str, op: str, number: int, place: str) -> list[Plant]:
    """Of a post-LN layer: what add_layer_norm is given."""
    changes = {
        "residual missing": (lambda f, x, y, *a, **h: f(x * 0, y, *a, **h), "residual missing"),
        "what the layer makes missing": (lambda f, x, y, *a, **h: f(x, y * 0, *a, **h), "residual alone"),
        "norm before the sum": (
            lambda f, x, y, *a, **h: x + numpy_ops.layer_norm(y, *a, **h), "norm before the sum, not after it"),
        "no norm": (lambda f, x, y, *a, **h: x + y, "norm missing"),
    }  # fmt: skip
    return [
        Plant(family, f"{place}: {fault}", place, (suspect,), lambda c=change: with_op(family, op, number, c))
        for fault, (change, suspect) in changes.items()
    ]


def positions(family: str, path: str, place: str) -> list[Plant]:
    at = path.replace(".", "__")
    return [
        Plant(family, f"{path}: one row on", place, ("rows of the", "position offset"),
              lambda: with_weights(family, **{at: lambda t: np.roll(t, 1, -2)})),
    ]  # fmt: skip


# ---- in modules of transformers ------------------------------------------------------------------
def set_to(**values: Any) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        for name, value in values.items():
            setattr(module, name, value)

    return change


def in_their_modules() -> list[Plant]:
    import torch

    rows: list[tuple[str, str, str, Callable[[Any], None], str, str]] = [
        (
            "opt",
            "vision_model.encoder.layers.1.layer_norm1",
            "eps",
            set_to(eps=1e-5),
            "vision.layers.1.self_ln",
            "eps 1e-05",
        ),
        (
            "opt",
            "vision_model.encoder.layers.1.mlp",
            "relu",
            set_to(activation_fn=torch.nn.ReLU()),
            "vision.layers.1.mlp.act",
            "activation: relu",
        ),
        (
            "opt",
            "vision_model.encoder.layers.1.self_attn",
            "scale",
            set_to(scale=1.0),
            "vision.layers.1.self.mixed",
            "attention scale: missing",
        ),
        (
            "opt",
            "vision_model.encoder.layers.0.self_attn.qkv",
            "transposed rows",
            lambda m: m.weight.copy_(other_blocks(m.weight, (2, 1, 0))),
            "vision.layers.0.self.qkv",
            "q/k/v order: vkq",
        ),
        (
            "opt",
            "qformer.encoder.layer.1.attention.output.dense",
            "bias",
            lambda m: m.bias.zero_(),
            "qformer.layers.1.self",
            "bias missing",
        ),
        (
            "opt",
            "qformer.encoder.layer.0.crossattention.attention.query",
            "transposed",
            lambda m: m.weight.copy_(m.weight.T.clone()),
            "qformer.layers.0.cross.q",
            "weight transposed",
        ),
        (
            "opt",
            "language_model.model.decoder.embed_positions",
            "offset",
            set_to(offset=3),
            "language.positions",
            "position offset +1",
        ),
        (
            "opt",
            "language_model.model.decoder.layers.1.self_attn",
            "scaling",
            set_to(scaling=1.0),
            "language.layers.1.self.mixed",
            "attention scale: missing",
        ),
        (
            "opt",
            "language_model.model.decoder.layers.1",
            "gelu",
            set_to(activation_fn=torch.nn.GELU()),
            "language.layers.1.mlp.act",
            "activation: gelu (exact) for relu",
        ),
        (
            "opt",
            "language_model.model.decoder.layers.1",
            "norm after",
            set_to(do_layer_norm_before=False),
            "language.layers.0",
            "norm after the sum, not before it",
        ),
        (
            "t5",
            "language_model.encoder.block.1.layer.0.layer_norm",
            "eps",
            set_to(variance_epsilon=1e-3),
            "language.encoder.layers.1.self_ln",
            "eps 0.001",
        ),
        (
            "t5",
            "language_model.decoder.block.1.layer.2.DenseReluDense",
            "relu",
            set_to(act=torch.nn.ReLU()),
            "language.decoder.layers.1.mlp.act",
            "activation: relu",
        ),
        (
            "t5",
            "language_model.decoder.block.0.layer.1.EncDecAttention.v",
            "scaled",
            lambda m: m.weight.mul_(0.5),
            "language.decoder.layers.0.cross.v",
            "weight scaled by 0.5",
        ),
        (
            "itm",
            "bridgetower.vision_model.visual.transformer.resblocks.1.attn",
            "heads",
            set_to(num_heads=1, head_dim=128),
            "vision.layers.1.self",
            "1 heads for 2",
        ),
        (
            "itm",
            "bridgetower.vision_model.visual.transformer.resblocks.1.ln_2",
            "eps",
            set_to(eps=1e-3),
            "vision.layers.1.mlp_ln",
            "eps 0.001",
        ),
        (
            "itm",
            "bridgetower.text_model.encoder.layer.1.intermediate",
            "tanh",
            set_to(intermediate_act_fn=torch.nn.GELU("tanh")),
            "text.layers.1.mlp.act",
            "activation: gelu (tanh)",
        ),
        (
            "itm",
            "bridgetower.cross_modal_text_layers.1.crossattention.self.key",
            "bias",
            lambda m: m.bias.zero_(),
            "text_layers.1.cross.k",
            "bias missing",
        ),
        (
            "itm",
            "bridgetower.cross_modal_image_link_tower.0.LayerNorm",
            "weight",
            lambda m: m.weight.fill_(1.0),
            "image_links.0.ln",
            "weight of the norm missing",
        ),
        ("mlm", "mlm_score.transform", "relu", set_to(transform_act_fn=torch.nn.ReLU()), "mlm.act", "activation: relu"),
        ("itc", "itc_text_head.fc", "scaled", lambda m: m.weight.neg_(), "itc.text", "weight scaled by -1"),
    ]
    return [
        Plant(family, f"transformers, {module}: {fault}", place, (suspect,),
              lambda f=family, m=module, c=change: in_theirs(f, m, c))
        for family, module, fault, change, place, suspect in rows
    ]  # fmt: skip


def all_plants() -> list[Plant]:
    """Every plant of the table."""
    found = [
        # ViT-g
        *linears("opt", "vision.layers.1.self.out", square=True, layer="vision.layers.0.self.out"),
        *linears("opt", "vision.layers.0.mlp.down"),
        *linears("opt", "vision.layers.1.mlp.up"),
        *fused("opt", "vision.layers.1.self.qkv", 3),
        *norms("opt", "vision.layers.1.self_ln", 1e-6),
        *attentions("opt", 1, "vision.layers.1.self.mixed", mask=False, causal=True),
        *activations("opt", 1, "vision.layers.1.mlp.act", "gelu"),
        *positions("opt", "vision.positions", "vision.embeddings"),
        # Q-Former
        *linears("opt", "qformer.layers.1.self.q", square=True, layer="qformer.layers.1.self.k"),
        *linears("opt", "qformer.layers.0.cross.v"),
        *norms("opt", "qformer.layers.0.cross_ln", 1e-12),
        *attentions("opt", 2 + 1, "qformer.layers.0.cross.mixed", mask=False, causal=True, self_attention=False),
        *activations("opt", 2, "qformer.layers.0.mlp.act", "gelu"),
        *residuals("opt", "add_layer_norm", 1, "qformer.layers.0.cross_ln"),
        *linears("opt", "projection"),
        # OPT
        *linears("opt", "language.layers.1.self.k", square=True, layer="language.layers.1.self.v"),
        *linears("opt", "language.layers.1.self.out", square=True, layer="language.layers.0.self.out"),
        *norms("opt", "language.layers.1.mlp_ln", 1e-5),
        *norms("opt", "language.ln", 1e-5),
        *attentions("opt", 2 + 3 + 1, "language.layers.1.self.mixed", mask=True, causal=True),
        *activations("opt", 2 + 2 + 1, "language.layers.1.mlp.act", "relu"),
        *positions("opt", "language.positions", "language.positions"),
        *settings(
            "opt",
            ("text_config.activation_function", "gelu", "language.layers.0.mlp.act", "activation: gelu"),
            ("qformer_config.layer_norm_eps", 1e-5, "qformer.ln", "eps 1e-05 for 1e-12"),
            ("vision_config.num_attention_heads", 6, "vision.layers.0.self.mixed", "6 heads for 3"),
            ("text_config.num_attention_heads", 2, "language.layers.0.self.mixed", "2 heads for 4"),
        ),
        # T5
        *linears(
            "t5", "language.encoder.layers.1.self.q", square=True, bias=False, layer="language.encoder.layers.1.self.k"
        ),
        *linears("t5", "language.decoder.layers.1.cross.out", square=True, bias=False),
        *linears("t5", "language.decoder.layers.1.mlp.gate", bias=False),
        *linears("t5", "language.decoder.layers.1.mlp.up", bias=False, layer="language.decoder.layers.1.mlp.gate"),
        *norms("t5", "language.decoder.layers.1.cross_ln", 1e-6, rms=True),
        *attentions("t5", 2 + 3 + 1, "language.encoder.layers.1.self.mixed", mask=True, causal=True),
        *activations("t5", 1, "language.encoder.layers.1.mlp.act", "gelu_tanh", "gated_linear"),
        *settings(
            "t5",
            ("text_config.dense_act_fn", "relu", "language.encoder.layers.0.mlp.act", "activation: relu"),
            ("text_config.layer_norm_epsilon", 1e-5, "language.encoder.layers.0.self_ln", "eps 1e-05 for 1e-06"),
            (
                "text_config.relative_attention_max_distance",
                20,
                "language.encoder.places",
                "relative_attention_max_distance 20",
            ),
        ),
        # BridgeTower: text, vision, bridges, cross-modal layers, heads
        *linears("itm", "text.layers.1.self.v", square=True, layer="text.layers.1.self.q"),
        *norms("itm", "text.layers.1.self_ln", 1e-5),
        *attentions("itm", 1, "text.layers.1.self.mixed", mask=True, causal=True),
        *residuals("itm", "add_layer_norm", 2, "text.layers.1.self_ln"),
        *positions("itm", "text.positions", "text.positions"),
        *linears("itm", "vision.layers.2.self.out", square=True, layer="vision.layers.1.self.out"),
        *fused("itm", "vision.layers.1.self.qkv", 2),
        *activations("itm", 3 + 1, "vision.layers.1.mlp.act", "quick_gelu"),
        *linears("itm", "image_transform"),
        *norms("itm", "image_links.0.ln", 1e-5, tiny=False),
        *linears("itm", "text_layers.1.cross.k", square=True, layer="text_layers.1.cross.v"),
        *linears("itm", "image_layers.0.mlp.down", layer="image_layers.1.mlp.down"),
        *attentions("itm", 3 + 3 + 4, "text_layers.1.self.mixed", mask=True, causal=True),
        *linears("itm", "text_pooler", square=True),
        *linears("itm", "itm"),
        *linears("mlm", "mlm.dense", square=True),
        *norms("mlm", "mlm.ln", 1e-5),
        *linears("itc", "itc.cross"),
        *settings(
            "itm",
            ("text_config.hidden_act", "relu", "text.layers.0.mlp.act", "activation: relu"),
            ("text_config.num_attention_heads", 4, "text.layers.0.self.mixed", "4 heads for 2"),
        ),
        *in_their_modules(),
    ]
    for plant in found:  # where an MLP's first layer has no ".act" but a norm behind it, or a head is behind a tanh
        if plant.fault.startswith("mlm.dense"):
            found[found.index(plant)] = plant._replace(place="mlm.act")
    return found


class Outcome(NamedTuple):
    plant: Plant
    place: str
    named: str
    explained: float

    @property
    def right_place(self) -> bool:
        return self.place == self.plant.place

    @property
    def right_suspect(self) -> bool:
        return any(self.named.startswith(word) for word in self.plant.suspect)


def examine(plant: Plant) -> Outcome:
    """What diff says of a plant."""
    report = minivl.diff(plant.against() if plant.against else model_of(plant.family), plant.side())
    if report.same:
        return Outcome(plant, "(same)", "", 0.0)
    diagnosis = report.diagnosis
    named = diagnosis.best or "unknown"
    return Outcome(plant, report.first.name, named, diagnosis.findings[0].explained if diagnosis.findings else 0.0)


def table(outcomes: list[Outcome]) -> str:
    lines = [f"{'':3}{'family':7}{'fault':62}{'found at':38}named first"]
    for one in outcomes:
        mark = "ok" if one.right_place and one.right_suspect else "NO"
        lines.append(f"{mark:3}{one.plant.family:7}{one.plant.fault:62.61}{one.place:38.37}{one.named}")
    right = sum(one.right_place and one.right_suspect for one in outcomes)
    places = sum(one.right_place for one in outcomes)
    lines.append(
        f"{len(outcomes)} plants: {places} found at the right place, {right} of them with the right suspect first"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    wanted = sys.argv[1:]
    outcomes = []
    for plant in all_plants():
        if not wanted or any(word in plant.fault for word in wanted):
            outcomes.append(examine(plant))
            print(table(outcomes[-1:]).splitlines()[1], flush=True)
    print(table(outcomes).splitlines()[-1])
