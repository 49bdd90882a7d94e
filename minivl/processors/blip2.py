"""BLIP-2's processor: pictures and prompts in, arrays out; ids in, captions out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..disk import read_json, show
from ..errors import ConfigError, InputError
from . import image
from .batch import BatchFeature
from .image import BlipImageProcessor
from .text import Tokenizer


class Blip2Processor:
    """A picture processor and a tokenizer, called together as in transformers 4.37.

        inputs = processor(images=photo, text="Question: how many cats? Answer:", return_tensors="np")
        processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)

    The ids hold the text alone.  Newer versions of transformers put placeholders for the picture before it; the
    picture's place is the model's business here, so `num_query_tokens` in a saved file is passed over.
    """

    def __init__(self, image_processor: BlipImageProcessor, tokenizer: Tokenizer):
        self.image_processor = image_processor
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Blip2Processor:
        """Read the processor's files in a checkpoint's folder, or those of the embedded model "demo".

        config.json, if it is there, tells the language model's type, which settles the padding side and the BOS, and
        stands in for a missing preprocessor_config.json with its vision_config.image_size and BLIP-2's constants.
        """
        from ..weights import files

        folder = files.find(folder)
        model = read_json(folder / "config.json", ConfigError) if (folder / "config.json").exists() else None
        family = None if model is None else _part(model, "text_config").get("model_type", "opt")
        settings = image.saved_settings(folder)
        if settings is None:
            if model is None:
                raise ConfigError(f"{show(folder)}: wanted {image.FILE} or config.json in this folder, found neither")
            settings = {"size": _part(model, "vision_config").get("image_size", 224)}
        return cls(BlipImageProcessor.from_dict(settings), Tokenizer.from_pretrained(folder, family))

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
        do_rescale: bool | None = None,
        input_data_format: Any = None,
    ) -> BatchFeature:
        """Pictures -> pixel_values (B, 3, H, W); texts -> input_ids and attention_mask (B, T); both -> all three.

        A picture is a PIL image, an array, a tensor or the path of a file; one or a list.  The other arguments are
        those of `Tokenizer.__call__`, and for pictures of `BlipImageProcessor.preprocess`.  How many pictures and how
        many texts there are is not compared, so one picture may go with several questions.  InputError if there is
        neither.
        """
        if images is None and text is None:
            raise InputError("wanted images, text or both, found neither")
        batch = BatchFeature()
        if images is not None:
            changes = {} if do_rescale is None else {"do_rescale": do_rescale}
            batch.update(
                self.image_processor(
                    images, return_tensors=return_tensors, input_data_format=input_data_format, **changes
                )
            )
        if text is not None:
            batch.update(
                self.tokenizer(
                    text,
                    add_special_tokens=add_special_tokens,
                    padding=padding,
                    truncation=truncation,
                    max_length=max_length,
                    return_tensors=return_tensors,
                )
            )
        return batch

    def decode(
        self, ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """The text of one row of ids."""
        return self.tokenizer.decode(ids, skip_special_tokens, clean_up_tokenization_spaces)

    def batch_decode(
        self,
        sequences: Iterable[Any],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The text of each row of ids."""
        return self.tokenizer.batch_decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write preprocessor_config.json, tokenizer.json and tokenizer_config.json, which transformers reads too."""
        self.image_processor.save_pretrained(Path(folder))
        self.tokenizer.save_pretrained(Path(folder))


def _part(model: dict[str, Any], name: str) -> dict[str, Any]:
    part = model.get(name)
    return part if isinstance(part, dict) else {}
