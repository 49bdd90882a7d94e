"""What every side is given: seeded noise and words, or a picture and a text; and labels, so that there is a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...api.blip2 import Blip2ForConditionalGeneration
from ...api.pretrained import Pretrained


def seeded(family: type[Pretrained], config: Any, seed: int = 0) -> dict[str, Any]:
    """Two pictures of noise, two texts of random words, one of them padded, and labels: what every side is given."""
    rng, c = np.random.default_rng(seed), config.text_config
    size = config.vision_config.image_size
    is_blip2 = family is Blip2ForConditionalGeneration
    rows, words = 2, min(7, c.max_position_embeddings - 4) if hasattr(c, "max_position_embeddings") else 7
    if hasattr(c, "max_position_embeddings") and is_blip2:
        words = max(1, min(7, c.max_position_embeddings - config.num_query_tokens))
    special = {getattr(c, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    usual = np.array([i for i in range(min(c.vocab_size, 30000)) if i not in special] or [0])
    ids = rng.choice(usual, (rows, words))
    mask = np.ones((rows, words), np.int64)
    if words > 2:
        mask[1, : words // 3] = 0
    if not is_blip2:
        mask = mask[:, ::-1].copy()
    pad = getattr(c, "pad_token_id", None)
    ids = np.where(mask == 1, ids, usual[0] if pad is None else pad)
    given = {
        "pixel_values": rng.normal(size=(rows, 3, size, size)).astype(np.float32),
        "input_ids": ids,
        "attention_mask": mask,
    }
    return given | asked(family, config, given, rng)


def asked(family: type[Pretrained], config: Any, given: Mapping[str, Any], rng: Any) -> dict[str, Any]:
    """Labels, so that there is a loss."""
    ids, mask = np.asarray(given["input_ids"]), np.asarray(given["attention_mask"])
    name = family.__name__
    if name == "Blip2ForConditionalGeneration" and config.text_config.model_type == "t5":
        if config.text_config.decoder_start_token_id is None or config.text_config.pad_token_id is None:
            return {"decoder_input_ids": ids}
        return {"labels": rng.integers(0, config.text_config.vocab_size, (len(ids), 5))}
    if name in ("Blip2ForConditionalGeneration", "BridgeTowerForMaskedLM"):
        return {"labels": np.where(mask == 1, ids, -100)} if ids.shape[1] > 1 else {}
    if name == "BridgeTowerForImageAndTextRetrieval":
        return {"labels": np.arange(len(ids)) % 2}
    return {"return_loss": True} if name == "BridgeTowerForContrastiveLearning" else {}


def looked_at(family: type[Pretrained], config: Any, folder: Any, picture: Any, text: str | None) -> dict[str, Any]:
    """A picture and a text as the checkpoint's own processor makes them; noise or random words for the one missing."""
    from ...processors.blip2 import Blip2Processor
    from ...processors.bridgetower import BridgeTowerProcessor

    given = {name: np.asarray(x)[:1] for name, x in seeded(family, config).items() if name != "return_loss"}
    processor: Any = Blip2Processor if family is Blip2ForConditionalGeneration else BridgeTowerProcessor
    processor = processor.from_pretrained(folder)
    if picture is not None:
        given["pixel_values"] = np.asarray(processor.image_processor(picture, return_tensors="np").pixel_values)
    if text is not None:
        words = processor.tokenizer(text, return_tensors="np")
        given |= {name: np.asarray(words[name]) for name in ("input_ids", "attention_mask")}
    plain = {name: given[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    return plain | asked(family, config, plain, np.random.default_rng(0))
