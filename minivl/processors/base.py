"""A picture processor and a tokenizer, called together: what both models' processors share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..disk import read_json, show
from ..errors import ConfigError, InputError
from .calls import BatchFeature
from .image_processor import FILE, ImageProcessor, saved_settings
from .tokenizer import Tokenizer

Self = TypeVar("Self", bound="Processor")


class Processor(ABC):
    """Pictures and texts in, arrays out; ids in, texts out.  The calling habits are those of transformers 4.37."""

    image_class: ClassVar[type[ImageProcessor]]
    image_size: ClassVar[int]  # where no file tells it
    text_first: ClassVar[bool] = False  # in the batch, as in transformers

    def __init__(self, image_processor: ImageProcessor, tokenizer: Tokenizer):
        self.image_processor = image_processor
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls: type[Self],
        folder: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Read the processor's files in a checkpoint's folder, those of an embedded model ("demo" ...), or those of an
        id on the Hub (see weights/hub.py for the other arguments).

        config.json, if it is there, tells the text model's type, which settles the padding side and the special tokens,
        and stands in for a missing preprocessor_config.json with its vision_config.image_size and the usual constants.
        """
        from ..weights import places

        where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder = places.find(folder, **where, need="texts")
        model = read_json(folder / "config.json", ConfigError) if (folder / "config.json").exists() else None
        settings = saved_settings(folder)
        if settings is None:
            if model is None:
                raise ConfigError(f"{show(folder)}: wanted {FILE} or config.json in this folder, found neither")
            settings = {"size": part(model, "vision_config").get("image_size", cls.image_size)}
        tokenizer = Tokenizer.from_pretrained(folder, cls.family(model))
        return cls(cls.image_class.from_dict(settings), tokenizer)

    @staticmethod
    @abstractmethod
    def family(model: dict[str, Any] | None) -> str | None:
        """The text model's type, from the model's config.json if there is one."""

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        *,
        text_pair: str | list[str] | None = None,
        return_tensors: str | None = None,
        input_data_format: Any = None,
        **changes: Any,
    ) -> BatchFeature:
        """Pictures -> pixel_values (B, 3, H, W); texts -> input_ids and attention_mask (B, T); both -> all of them.

        A picture is a PIL image, an array, a tensor or the path of a file; one or a list.  The other arguments are
        those of `Tokenizer.__call__`, and for pictures of `ImageProcessor.preprocess`: `changes` are other values of
        the picture processor's fields (do_rescale=False) for this call alone.  How many pictures and how many texts
        there are is not compared, so one picture may go with several questions.  InputError if there is neither.
        """
        if images is None and text is None:
            raise InputError("wanted images, text or both, found neither")
        look = replace(self.image_processor, **changes)  # also without pictures: an unknown name is refused
        pixels, words = BatchFeature(), BatchFeature()
        if images is not None:
            pixels = look(images, return_tensors=return_tensors, input_data_format=input_data_format)
        if text is not None:
            words = self.tokenizer(
                text,
                text_pair,
                add_special_tokens=add_special_tokens,
                padding=padding,
                truncation=truncation,
                max_length=max_length,
                return_tensors=return_tensors,
            )
        return BatchFeature({**words, **pixels} if self.text_first else {**pixels, **words})

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


def part(model: dict[str, Any], name: str) -> dict[str, Any]:
    """A model's sub-configuration as its config.json has it, empty if it is missing or none."""
    found = model.get(name)
    return found if isinstance(found, dict) else {}
