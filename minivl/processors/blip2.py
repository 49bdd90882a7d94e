"""BLIP-2's processor: pictures and prompts in, arrays out; ids in, captions out."""

from __future__ import annotations

from typing import Any

from .base import Processor, part
from .image_processor import BlipImageProcessor


class Blip2Processor(Processor):
    """A picture processor and a tokenizer, called together as in transformers 4.37.

        inputs = processor(images=photo, text="Question: how many cats? Answer:", return_tensors="np")
        processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)

    The ids hold the text alone.  Newer versions of transformers put placeholders for the picture before it; the
    picture's place is the model's business here, so `num_query_tokens` in a saved file is passed over.
    """

    image_class = BlipImageProcessor
    image_size = 224

    @staticmethod
    def family(model: dict[str, Any] | None) -> str | None:
        return None if model is None else part(model, "text_config").get("model_type", "opt")
