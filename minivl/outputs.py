"""What a model gives back: records that can be read by name, by key and as a tuple, like transformers' own.

out.logits, out["logits"], out[0], out.to_tuple()          fields that are None are left out of the last three
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any


class Output:
    """The three ways of reading, shared by all records below."""

    def keys(self) -> tuple[str, ...]:
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)  # type: ignore[arg-type]

    def items(self) -> tuple[tuple[str, Any], ...]:
        return tuple((name, getattr(self, name)) for name in self.keys())

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order; the outputs of parts become tuples too."""
        values = (getattr(self, name) for name in self.keys())
        return tuple(value.to_tuple() if isinstance(value, Output) else value for value in values)

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"{type(self).__name__} holds no {key!r}; it holds {', '.join(self.keys())}")
            return getattr(self, key)
        return tuple(getattr(self, name) for name in self.keys())[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: str) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class VisionOutput(Output):
    """last_hidden_state (B, N, C) after the last norm; pooler_output (B, C); hidden_states: L + 1 of (B, N, C) before
    it;
    attentions: L of (B, H, N, N)."""

    last_hidden_state: Any = None
    pooler_output: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass
class QFormerOutput(Output):
    """last_hidden_state (B, Q, C); pooler_output (B, C), its first query; hidden_states: L + 1 of (B, Q, C);
    attentions: L of
    (B, H, Q, Q); cross_attentions: one of (B, H, Q, N) for each layer that looks at the picture."""

    last_hidden_state: Any = None
    pooler_output: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None


@dataclass
class CausalLMOutput(Output):
    """loss, a scalar; logits (B, S, V); hidden_states: L + 1 of (B, S, C), the last one after the last norm;
    attentions: L of (B, H, S, S).
    """

    loss: Any = None
    logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass
class Seq2SeqLMOutput(Output):
    """loss, a scalar; logits (B, T, V) over the decoder's T words; the first states and maps are the decoder's.

    *_hidden_states: L + 1 of (B, T, C), the encoder's of (B, S, C), the last one after the last norm
    decoder_attentions: L of (B, H, T, T); cross_attentions: L of (B, H, T, S); encoder_attentions: L of (B, H, S, S)
    """

    loss: Any = None
    logits: Any = None
    decoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    encoder_last_hidden_state: Any = None
    encoder_hidden_states: tuple[Any, ...] | None = None
    encoder_attentions: tuple[Any, ...] | None = None


@dataclass
class BridgeTowerOutput(Output):
    """text_features (B, T, C) and image_features (B, N, C) after the last cross-modal layer; pooler_output (B, 2·C).

    hidden_states: the text tower's states (B, T, C), the vision tower's (N, B, M), and the cross-modal pairs
    attentions: for each cross-modal layer the maps of text over text (B, H, T, T) and of picture over picture
    cross_attentions: for each of them the maps of text over picture (B, H, T, N) and of picture over text
    """

    text_features: Any = None
    image_features: Any = None
    pooler_output: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None


@dataclass
class HeadOutput(Output):
    """loss, a scalar; logits (B, T, V) over words or (B, 2) for no and yes; the rest as in BridgeTowerOutput."""

    loss: Any = None
    logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None


@dataclass
class ContrastiveOutput(Output):
    """loss, a scalar; logits (B, 3, K): text_embeds, image_embeds and cross_embeds, (B, K) each and of length 1; the
    rest as in BridgeTowerOutput."""

    loss: Any = None
    logits: Any = None
    text_embeds: Any = None
    image_embeds: Any = None
    cross_embeds: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None


@dataclass
class RetrievalOutput(Output):
    """loss, the sum of the two heads' own; matching and contrast, each as if its head had been alone."""

    loss: Any = None
    matching: HeadOutput | None = None
    contrast: ContrastiveOutput | None = None


@dataclass
class Blip2Output(Output):
    """loss, a scalar; logits (B, S, V), which OPT cuts to the labels' length where labels are given; and the outputs of
    the three parts.
    """

    loss: Any = None
    logits: Any = None
    vision_outputs: VisionOutput | None = None
    qformer_outputs: QFormerOutput | None = None
    language_model_outputs: CausalLMOutput | Seq2SeqLMOutput | None = None
