"""BLIP-2 writes a text about one picture while somebody listens to its attention and to its choices."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import generate
from ..errors import InputError
from ..tracing import watch_attention
from .record import AttentionTrace, Word, joined, look_of, most_likely, named, softmax
from .rollout import cross_rollout, rollout
from .stages import watching


class Recorded:
    """A reader (models/opt.py says what that is) whose scores are kept."""

    def __init__(self, reader: Any):
        self.reader = reader
        self.scores: list[np.ndarray] = []

    def step(self, tokens: np.ndarray | None) -> np.ndarray:
        scores = self.reader.step(tokens)
        self.scores.append(scores[0])
        return scores

    def reorder(self, rows: np.ndarray) -> None:
        self.reader.reorder(rows)


def trace(
    model: Any,
    pixel_values: Any,
    input_ids: Any = None,
    attention_mask: Any = None,
    tokenizer: Any = None,
    **settings: Any,
) -> AttentionTrace:
    """What Blip2ForConditionalGeneration.trace promises."""
    wanted = generate.Settings.of(**settings)
    if wanted.num_beams > 1 or wanted.num_return_sequences > 1:
        raise InputError("trace follows one text: leave out num_beams and num_return_sequences")
    pixels, prompt, mask = model.prompts(pixel_values, input_ids, attention_mask)
    if len(prompt) != 1:
        raise InputError(f"trace follows one picture and one text, found {len(prompt)} of them: call it for each")
    c, kept = model.config, list[Any]()
    watched = type(model)(c, ops=watch_attention(model.ops, kept), params=model.params)
    with watching(model.ops) as stages:
        writing = watched.writing(pixels, prompt, mask, **settings)
        reader = Recorded(writing.reader)
        ids = generate.run(*writing._replace(reader=reader))[0]
    maps = iter([model.ops.to_numpy(one)[0].astype(np.float32, copy=False) for one in kept])

    vision = np.stack([next(maps) for _ in model.params["vision"]["layers"]])  # (L, H, N, N)
    pairs = [(next(maps), next(maps) if "cross" in layer else None) for layer in model.params["qformer"]["layers"]]
    looks = [i for i, (_, cross) in enumerate(pairs) if cross is not None]
    own = [a for a, _ in pairs]
    arrays = {
        "pixels": pixels[0],
        "vision.attention": vision,
        "vision.rollout": rollout(vision),
        "qformer.attention": np.stack(own),
        "qformer.cross_attention": np.stack([b for _, b in pairs if b is not None]),
        "qformer.rollout": cross_rollout(own, [b for _, b in pairs]),
    }
    kind, steps = c.text_config.model_type, len(reader.scores)
    arrays |= (t5_maps if kind == "t5" else opt_maps)(model, list(maps), steps)
    arrays["tokens"] = ids[1:]
    arrays["probabilities"] = softmax(np.stack(reader.scores)).astype(np.float32)

    record = AttentionTrace(arrays, kind=kind, model=f"BLIP-2 with {kind.upper()}")
    record.stages, record.looks, record.patch = stages, looks, c.vision_config.patch_size
    look_of(record, tokenizer)
    describe(record, prompt[0], mask[0], ids, tokenizer)
    return record


def opt_maps(model: Any, maps: list[np.ndarray], steps: int) -> dict[str, np.ndarray]:
    """The prompt is read at once, then a word at a time: rows of one causal map for each layer."""
    L = len(model.params["language"]["layers"])
    H, S, _ = maps[0].shape
    P = S + steps - 1
    attention = np.zeros((L, H, P, P), np.float32)
    for step in range(steps):
        for layer, one in enumerate(maps[step * L : (step + 1) * L]):
            attention[layer, :, S + step - one.shape[1] : S + step, : S + step] = one
    return {"language.attention": attention, "language.rollout": rollout(attention)}


def t5_maps(model: Any, maps: list[np.ndarray], steps: int) -> dict[str, np.ndarray]:
    """The encoder reads everything at once; each step of the decoder looks at its own words, then at what was read."""
    E, L = (len(model.params["language"][stack]["layers"]) for stack in ("encoder", "decoder"))
    encoder, rest = np.stack(maps[:E]), maps[E:]
    H, _, S = rest[1].shape
    own, cross = np.zeros((L, H, steps, steps), np.float32), np.zeros((L, H, steps, S), np.float32)
    for step in range(steps):
        for layer in range(L):
            first = 2 * (step * L + layer)
            own[layer, :, step, : step + 1], cross[layer, :, step] = rest[first][:, 0], rest[first + 1][:, 0]
    return {
        "language.encoder_attention": encoder,
        "language.encoder_rollout": rollout(encoder),
        "language.attention": own,
        "language.cross_attention": cross,
        "language.rollout": cross_rollout(list(own), list(cross)),
    }


def describe(record: AttentionTrace, prompt: np.ndarray, mask: np.ndarray, ids: np.ndarray, tokenizer: Any) -> None:
    """Names for every place and every word."""
    queries, new = record["qformer.attention"].shape[-1], ids[1:]
    end = queries + int(np.flatnonzero(mask)[-1])  # the place after which the first word was written
    read = queries + len(prompt)
    words = named(tokenizer, new)
    record.places = [f"query {i + 1}" for i in range(queries)] + named(tokenizer, prompt)
    record.places += named(tokenizer, ids[:1]) + words[:-1] if record.kind == "t5" else words[:-1]
    record.text, record.prompt = joined(tokenizer, new), joined(tokenizer, prompt)
    for i, (text, token, probability) in enumerate(zip(words, new, record["probabilities"], strict=True)):
        row = i if record.kind == "t5" else (end if i == 0 else read + i - 1)
        likely = most_likely(probability, tokenizer)
        record.words.append(Word(text, int(token), row, likely, joined(tokenizer, new[: i + 1])))
