"""What one pass of a model leaves behind: a dict of named arrays, and what is needed to tell a person about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..disk import replacing
from .stages import Stage

SMALL_PAGE = 4 << 20  # bytes: a larger page is not put into a notebook of itself


@dataclass
class Word:
    """One token that was written (BLIP-2) or read (BridgeTower)."""

    text: str
    id: int
    row: int  # the row of the attention maps that belongs to it
    likely: list[tuple[str, float]] = field(default_factory=list)  # the words most probable here, the best first
    so_far: str = ""  # the text up to this word


class AttentionTrace(dict[str, np.ndarray]):
    """Named arrays of one pass over one picture; `print(record)` lists them with their shapes.

        record["qformer.cross_attention"]     (K, H, Q, N)
        record.words[0].text, record.text     what was written, token by token and as a whole
        record.stages                         the functions it went through: shapes, file and line
        record.save("step.html")              the page on which one steps through it

    Letters: L layers, H heads, N patches + 1, Q queries, K layers that look at the picture, P places that the language
    model read, U words, T words of a text, V vocabulary.
    """

    def __init__(self, arrays: dict[str, np.ndarray], *, kind: str, model: str):
        super().__init__(arrays)
        self.kind = kind  # "opt", "t5" or "bridgetower"
        self.model = model
        self.text = ""  # what was written, or the text that was read
        self.prompt = ""
        self.places: list[str] = []  # the name of each place that the language model, or BridgeTower, read
        self.words: list[Word] = []
        self.answers: list[tuple[str, float]] = []  # what BridgeTower's head says
        self.stages: list[Stage] = []
        self.patch = 1  # the edge of a patch in pixels
        self.looks: list[int] = []  # which layers of the Q-Former look at the picture, counted from 0
        self.image_mean: Sequence[float] = ()
        self.image_std: Sequence[float] = ()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self["pixels"].shape[1:]
        return height // self.patch, width // self.patch

    def page(self) -> str:
        """The player of this record: one HTML page that needs nothing else."""
        from .page import page

        return page(self)

    def save(self, path: str | Path) -> None:
        """Write the page, whole or not at all."""
        with replacing(Path(path)) as file:
            file.write(self.page().encode(errors="xmlcharrefreplace"))

    def __repr__(self) -> str:
        lines = [f"{name:28}{array.shape}" for name, array in self.items()]
        return "\n".join([f"AttentionTrace of {self.model}: {self.text!r}", *lines])

    def _repr_html_(self) -> str:
        """In a notebook: the player, where it is small enough, and the table of arrays."""
        rows = "".join(f"<tr><td><code>{escape(name)}</code></td><td>{a.shape}</td></tr>" for name, a in self.items())
        table = f"<details><summary>{len(self)} arrays</summary><table>{rows}</table></details>"
        page = self.page()
        if len(page) > SMALL_PAGE:
            size = f"{len(page) / 1e6:.1f} MB"
            return f'<p>{escape(self.text)}: a player of {size}, to be written by record.save("step.html")</p>{table}'
        style = "width:100%;height:46rem;border:1px solid #8888;border-radius:8px"
        title = escape(f"attention player: {self.text}")
        return f'<iframe title="{title}" srcdoc="{escape(page)}" style="{style}"></iframe>{table}'


def named(tokenizer: Any, ids: Iterable[Any]) -> list[str]:
    """Each token's own text; without a tokenizer its number."""
    if tokenizer is None:
        return [f"#{int(i)}" for i in ids]
    return [tokenizer.decode([int(i)], clean_up_tokenization_spaces=False) or f"#{int(i)}" for i in ids]


def joined(tokenizer: Any, ids: Iterable[Any]) -> str:
    """The text of several tokens."""
    if tokenizer is None:
        return " ".join(named(None, ids))
    return " ".join(tokenizer.decode([int(i) for i in ids], skip_special_tokens=True).split())


def read_text(tokenizer: Any, ids: Iterable[Any]) -> str:
    """The text that was read, <mask> and all, without what the tokenizer put around it."""
    own = getattr(tokenizer, "tokenizer", tokenizer)  # a processor's
    if own is None:
        return joined(None, ids)
    kept = [int(i) for i in ids if i not in (own.bos_token_id, own.eos_token_id, own.pad_token_id)]
    text, mask = own.decode(kept), own.mask_token
    return " ".join((text.replace(mask, f" {mask}") if mask else text).split())  # RoBERTa's takes its blank away


def most_likely(probability: np.ndarray, tokenizer: Any, count: int = 10) -> list[tuple[str, float]]:
    """The best words and their probabilities.   probability (V,)"""
    best = np.argsort(-probability, kind="stable")[:count]
    return [(text, float(probability[i])) for text, i in zip(named(tokenizer, best), best, strict=True)]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, in float64.   logits (..., V)   ->   (..., V)"""
    x = logits.astype(np.float64)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def look_of(record: AttentionTrace, tokenizer: Any) -> None:
    """With which mean and spread the pixels become colours again: the processor's, else those of CLIP."""
    from ..processors.image_processor import CLIP_MEAN, CLIP_STD

    image = getattr(tokenizer, "image_processor", None)
    record.image_mean = CLIP_MEAN if image is None else image.image_mean
    record.image_std = CLIP_STD if image is None else image.image_std
