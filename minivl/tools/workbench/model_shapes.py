"""Where the models use each kernel, and with which shapes: for stepping through it, and for compiling it.

`SITES["attention"]["ViT-g"].call(attention, make)` calls the wrapper as the model does, on arrays that
`make(*shape, dtype=...)` gives: random ones for the interpreter, empty ones for the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

Make = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """One use of a kernel."""

    about: str
    call: Callable[[Callable, Make], Any]
    products: int = 0  # multiply-adds of the formula that tensor cores can do
    special: int = 0  # exponentials of the formula
    gathers: bool = False  # reads only some rows of an argument: the bytes of all are no lower bound


def _heads(make: Make, T: int, H: int, D: int, B: int = 2) -> Any:
    """q, k or v as a linear layer leaves it: (B, T, H·D), seen as (B, H, T, D)."""
    return make(B, T, H * D).reshape(B, T, H, D).swapaxes(1, 2)


def _attention(T: int, S: int, H: int, D: int, about: str, weights: bool = False, **more: Any) -> Site:
    def call(wrapper: Callable, make: Make) -> Any:
        arrays = [_heads(make, T, H, D), *(_heads(make, S, H, D) for _ in range(1 if weights else 2))]
        return wrapper(*arrays, **{name: value(make) if callable(value) else value for name, value in more.items()})

    shape = f"q (2, {H}, {T}, {D}), k (2, {H}, {S}, {D})"
    return Site(f"{shape}: {about}", call, 2 * H * T * S * D * (1 if weights else 2), 2 * H * T * S)


def _keys(S: int) -> Callable[[Make], Any]:
    return lambda make: make(2, 1, 1, S, dtype="bool")


def _norm(rows: int, C: int, about: str, arrays: int = 1, vectors: int = 2, eps: float = 1e-6) -> Site:
    def call(wrapper: Callable, make: Make) -> Any:
        return wrapper(*(make(rows, C) for _ in range(arrays)), *(make(C) for _ in range(vectors)), eps)

    return Site(f"x ({rows}, {C}): {about}", call)


def _rows(rows: int, C: int, about: str, special: int = 1) -> Site:
    return Site(f"x ({rows}, {C}): {about}", lambda wrapper, make: wrapper(make(rows, C)), special=special * rows * C)


def _linear(M: int, C: int, F: int, about: str, *more: Any, **named: Any) -> Site:
    def call(wrapper: Callable, make: Make) -> Any:
        return wrapper(make(M, C), make(F, C), make(F), *more, **named)

    return Site(f"x ({M}, {C}), w ({F}, {C}): {about}", call, M * C * F)


def _gated(M: int) -> Site:
    def call(wrapper: Callable, make: Make) -> Any:
        return wrapper(make(M, 2048), make(5120, 2048), make(5120, 2048), act="gelu_tanh")

    return Site(f"x ({M}, 2048), gate and up (5120, 2048)", call, 2 * M * 2048 * 5120)


def _patches(side: int, P: int, C: int, about: str) -> Site:
    def call(wrapper: Callable, make: Make) -> Any:
        return wrapper(make(2, 3, side, side), make(C, 3, P, P), make(C))

    return Site(
        f"pixels (2, 3, {side}, {side}), w ({C}, 3, {P}, {P}): {about}", call, 2 * (side // P) ** 2 * C * 3 * P * P
    )


def _embed(rows: int, C: int, about: str) -> Site:
    def call(wrapper: Callable, make: Make) -> Any:
        return wrapper(make(2, 32, dtype="int64"), make(rows, C))

    return Site(f"ids (2, 32), table ({rows}, {C}): {about}", call, gathers=True)


def _loss(wrapper: Callable, make: Make) -> Any:
    return wrapper(make(40, 50304), make(40, dtype="int64"))


def _int8(M: int, threshold: float) -> Site:
    def call(wrapper: Callable, make: Make) -> Any:
        weights = make(10240, 2560, dtype="int8"), make(10240, dtype="float32"), make(10240)
        return wrapper(make(M, 2560), *weights, threshold)

    return Site(f"x ({M}, 2560), w (10240, 2560) int8, threshold {threshold}", call, M * 2560 * 10240)


def _weight_only(M: int) -> Site:
    def call(wrapper: Callable, make: Make) -> Any:
        return wrapper(make(M, 2560), make(10240, 2560, dtype="int8"), make(10240, dtype="float32"), make(10240))

    return Site(f"x ({M}, 2560), w (10240, 2560) int8", call)


def _one_query(H: int, D: int, S: int, **more: Any) -> Site:
    def call(wrapper: Callable, make: Make) -> Any:
        return wrapper(make(2, H, 1, D), make(2, H, S, D), make(2, H, S, D), **{n: x(make) for n, x in more.items()})

    return Site(f"q (2, {H}, 1, {D}), k (2, {H}, {S}, {D})", call, special=2 * H * S)


_EYES = {
    "ViT-g": _attention(257, 257, 16, 88, "BLIP-2's eye"),
    "CLIP ViT-B": _attention(325, 325, 12, 64, "BridgeTower's eye"),
    "Q-Former": _attention(32, 257, 12, 64, "its queries to the image"),
}
_ACTS = {
    "ViT-g": _rows(514, 6144, "the hidden layer of BLIP-2's eye"),
    "CLIP ViT-B": _rows(650, 3072, "BridgeTower's eye"),
}
_WIDTHS = {"ViT-g": _norm(514, 1408, "BLIP-2's eye"), "CLIP ViT-B": _norm(650, 768, "BridgeTower's eye"),
           "OPT-6.7B": _norm(512, 4096, "a large language model")}  # fmt: skip
SITES: dict[str, dict[str, Site]] = {
    "attention": {
        **_EYES,
        "RoBERTa": _attention(50, 325, 12, 64, "words to the image", mask=_keys(325)),
        "OPT-2.7B": _attention(512, 512, 32, 80, "causal, padded", causal=True, mask=_keys(512)),
        "OPT-6.7B": _attention(512, 512, 32, 128, "causal", causal=True),
        "Flan-T5-XL": _attention(512, 512, 32, 64, "its encoder", scale=1.0, mask=_keys(512),
                                 bias=lambda make: make(1, 32, 512, 512)),
    },
    "attention_naive": _EYES,
    "attention_weights": {"CLIP ViT-B": _attention(325, 325, 12, 64, "BridgeTower's eye", weights=True)},
    "decode_attention": {"OPT-2.7B": _one_query(32, 80, 544, mask=_keys(544)), "OPT-6.7B": _one_query(32, 128, 2048)},
    "layer_norm": _WIDTHS,
    "layer_norm_naive": _WIDTHS,
    "add_layer_norm": {"BridgeTower": _norm(650, 768, "a bridge", arrays=2, eps=1e-5)},
    "rms_norm": {"Flan-T5-XL": _norm(512, 2048, "T5", vectors=1)},
    "linear": {
        "ViT-g": _linear(514, 1408, 6144, "the first half of its MLP, with gelu", "gelu"),
        "ViT-g, down": _linear(514, 6144, 1408, "the second half of its MLP"),
        "Q-Former": _linear(64, 768, 3072, "the first half of its MLP", "gelu"),
        "OPT-2.7B, 5 beams": _linear(5, 2560, 10240, "the first half of its MLP, while it writes", "relu"),
    },
    "linear_act": {"ViT-g": _linear(514, 1408, 6144, "the first half of its MLP", act="gelu")},
    "gated_linear": {"Flan-T5-XL": _gated(514), "Flan-T5-XL, 5 beams": _gated(5)},
    **{act: _ACTS for act in ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh")},
    "softmax": {"words": _rows(5, 50272, "shares of the words, 5 beams"), "CLIP ViT-B": _rows(7800, 325, "scores")},
    "cross_entropy": {"OPT": Site("logits (40, 50304)", _loss, special=40 * 50304)},
    "embed": {"OPT-2.7B": _embed(50304, 2560, "words")},
    "patch_embed": {"ViT-g": _patches(224, 14, 1408, "BLIP-2's eye"),
                    "CLIP ViT-B": _patches(288, 16, 768, "BridgeTower's")},
    "quantise_rows": {"OPT-2.7B": Site("x (514, 2560)", lambda wrapper, make: wrapper(make(514, 2560)))},
    "int8_linear": {"OPT-2.7B": _int8(514, 6.0), "OPT-2.7B, 5 beams": _int8(5, 0.0)},
    "weight_only_linear": {
        "OPT-2.7B": _weight_only(1), "OPT-2.7B, 5 beams": _weight_only(5), "OPT-2.7B, prompt": _weight_only(72),
    },
}  # fmt: skip


def _with_gradient(site: Site, *shape: int, factor: float = 2) -> Site:
    """The same arguments behind the gradient of the output, which has this shape."""

    def call(wrapper: Callable, make: Make) -> Any:
        return site.call(lambda *given, **named: wrapper(make(*shape), *given, **named), make)

    return Site(f"dout {shape}, {site.about}", call, int(factor * site.products), site.special, site.gathers)


def _attention_gradient(T: int, S: int, H: int, D: int, about: str) -> Site:
    forward = _attention(T, S, H, D, about)

    def call(wrapper: Callable, make: Make) -> Any:
        return forward.call(lambda *given: wrapper(_heads(make, T, H, D), *given), make)

    return Site(f"dout like q, {forward.about}", call, forward.products * 5 // 2, forward.special)


def _embed_gradient(wrapper: Callable, make: Make) -> Any:
    return wrapper(make(2, 32, 2560), make(2, 32, dtype="int64"), make(50304, 2560))


_LINEAR_GRADIENT = _with_gradient(_linear(64, 768, 3072, "the first half of its MLP"), 64, 3072)


def _linear_act_gradient(wrapper: Callable, make: Make) -> Any:
    return _LINEAR_GRADIENT.call(partial(wrapper, act="gelu"), make)


SITES |= {
    "attention_backward": {"Q-Former": _attention_gradient(32, 257, 12, 64, "its queries to the image"),
                           "CLIP ViT-B": _attention_gradient(325, 325, 12, 64, "BridgeTower's eye")},
    "layer_norm_backward": {"CLIP ViT-B": _with_gradient(_norm(650, 768, "BridgeTower's eye"), 650, 768)},
    "add_layer_norm_backward": {"BridgeTower": _with_gradient(_norm(650, 768, "a bridge", arrays=2), 650, 768)},
    "rms_norm_backward": {"Flan-T5-XL": _with_gradient(_norm(512, 2048, "T5", vectors=1), 512, 2048)},
    "linear_backward": {"Q-Former": _LINEAR_GRADIENT},
    "gated_linear_backward": {"Flan-T5-XL": _with_gradient(_gated(514), 514, 5120, factor=2.5)},
    "linear_act_backward": {"Q-Former": Site(_LINEAR_GRADIENT.about, _linear_act_gradient, _LINEAR_GRADIENT.products)},
    **{f"{act}_backward": {"CLIP ViT-B": _with_gradient(_ACTS["CLIP ViT-B"], 650, 3072)}
       for act in ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh")},
    "softmax_backward": {"CLIP ViT-B": _with_gradient(_rows(7800, 325, "scores"), 7800, 325)},
    "cross_entropy_backward": {"OPT": _with_gradient(SITES["cross_entropy"]["OPT"])},
    "cross_entropy_backward_in_place": {"OPT": _with_gradient(SITES["cross_entropy"]["OPT"])},
    "embed_backward": {"OPT-2.7B": Site("dout (2, 32, 2560), table (50304, 2560)", _embed_gradient, gathers=True)},
    "patch_embed_backward": {"CLIP ViT-B": _with_gradient(_patches(288, 16, 768, "BridgeTower's"), 2, 324, 768)},
    "column_sums": {"CLIP ViT-B": Site("x (650, 768)", lambda wrapper, make: wrapper(make(650, 768)))},
}  # fmt: skip


def site_of(name: str, shape: str | None) -> tuple[str, Site]:
    """A site by its name, or the first. Raises InputError for one that does not exist."""
    from ...errors import InputError

    found = SITES.get(name)
    if found is None:
        raise InputError(f"{name}: no shapes are known for it; they are for {', '.join(SITES)}")
    if shape is None:
        return next(iter(found.items()))
    if shape not in found:
        raise InputError(f"--shape {shape!r}: {name} is used at {', '.join(map(repr, found))}")
    return shape, found[shape]
