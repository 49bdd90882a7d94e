"""BridgeTower reads one text and one picture while somebody listens to what its cross-modal layers look at."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..inputs import to_floats, to_prompt
from .record import AttentionTrace, Word, look_of, most_likely, named, read_text, softmax
from .rollout import pair_rollout
from .stages import watching


def trace(model: Any, input_ids: Any, attention_mask: Any, pixel_values: Any, tokenizer: Any = None) -> AttentionTrace:
    """What BridgeTower.trace promises."""
    ids, mask = to_prompt(input_ids, attention_mask)
    pixels = to_floats(pixel_values, "pixel_values", 4)
    if len(ids) != 1 or len(pixels) != 1:
        found = f"{len(pixels)} pictures and {len(ids)} texts"
        raise InputError(f"trace follows one picture and one text, found {found}: call it for each pair")
    kept = np.flatnonzero(mask[0])  # padding is nothing to look at
    ids, mask = ids[:, kept], mask[:, kept]
    with watching(model.ops) as stages:
        output = model(ids, mask, pixel_values=pixels, output_attentions=True)
    shown = output if hasattr(output, "attentions") else output.matching
    own, cross = shown.attentions, shown.cross_attentions
    maps = [np.stack([model.ops.to_numpy(pair[i])[0] for pair in pairs]) for pairs in (own, cross) for i in (0, 1)]
    text, image, to_image, to_text = (one.astype(np.float32, copy=False) for one in maps)
    words, patches = pair_rollout(text, to_image, image, to_text)
    arrays = {
        "pixels": pixels[0],
        "tokens": ids[0],
        "text_over_text": text,
        "text_over_patches": to_image,
        "patches_over_patches": image,
        "patches_over_text": to_text,
        "text.rollout": words,
        "patches.rollout": patches,
    }
    head = getattr(shown, "logits", None) if model.heads and model.heads != ("itc_",) else None
    if head is not None:
        arrays["probabilities"] = softmax(model.ops.to_numpy(head)[0]).astype(np.float32)
    record = AttentionTrace(arrays, kind="bridgetower", model="BridgeTower")
    record.stages, record.patch = stages, model.config.vision_config.patch_size
    record.text, record.places = read_text(tokenizer, ids[0]), named(tokenizer, ids[0])
    look_of(record, tokenizer)
    describe(record, tokenizer)
    return record


def describe(record: AttentionTrace, tokenizer: Any) -> None:
    """What the head says: of the pair as a whole, or of every place of the text."""
    probability = record.get("probabilities")
    for i, (text, token) in enumerate(zip(record.places, record["tokens"], strict=True)):
        likely = most_likely(probability[i], tokenizer) if probability is not None and probability.ndim == 2 else []
        record.words.append(Word(text, int(token), i, likely))
    if probability is not None and probability.ndim == 1:
        record.answers = [
            ("no, they do not", float(probability[0])),
            ("yes, they belong together", float(probability[1])),
        ]
