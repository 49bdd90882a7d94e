"""BLIP's pictures: resized to one fixed size, scaled, standardised, channels first."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..disk import read_json, replacing, show
from ..errors import ConfigError, ImageError, InputError
from .batch import BatchFeature, check_kind, tensors
from .pictures import eight_bits, open_picture, rgb_array, to_rgb

__all__ = ["BlipImageProcessor", "open_picture", "to_rgb"]

FILE = "preprocessor_config.json"
NEWER_FILE = "processor_config.json"  # transformers 5 nests the same settings in it, under "image_processor"
LONGEST_EDGE = 4096  # pixels; the largest BLIP-2 reads 364
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass
class BlipImageProcessor:
    """Pictures -> pixel_values (B, 3, height, width), float32.

        pixel = (level * rescale_factor - mean) / std         level 0..255, mean and std one per channel

    A picture is made RGB, resized to exactly `size` whatever its shape (Pillow's filter number `resample`, 3 is
    bicubic, with antialiasing), then scaled and standardised.  The names and defaults are those of transformers 4.37,
    whose arithmetic this follows to the bit; ConfigError for a value that has no meaning.
    """

    do_resize: bool = True
    size: Any = field(default_factory=lambda: {"height": 384, "width": 384})
    resample: int = 3
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Any = CLIP_MEAN
    image_std: Any = CLIP_STD
    do_convert_rgb: bool = True

    def __post_init__(self) -> None:
        self.size = _size(self.size)
        self.image_mean, self.image_std = _triple("image_mean", self.image_mean), _triple("image_std", self.image_std)
        if 0 in self.image_std:
            raise ConfigError(f"image_std: wanted numbers other than 0, found {show(self.image_std)}")
        if not _is_number(self.rescale_factor):
            raise ConfigError(f"rescale_factor: wanted a finite number, found {show(self.rescale_factor)}")
        if isinstance(self.resample, bool) or self.resample not in range(6):
            raise ConfigError(f"resample: wanted one of Pillow's filters, 0 to 5, found {show(self.resample)}")
        for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: wanted true or false, found {show(getattr(self, name))}")

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        return self.preprocess(images, **options)

    def preprocess(
        self, images: Any, *, return_tensors: str | None = None, input_data_format: Any = None, **changes: Any
    ) -> BatchFeature:
        """One picture or a list of them -> a batch holding `pixel_values`; without `return_tensors`, as a list.

        A picture is a PIL image, an array or tensor (see `rgb_array`), or the path of a file.  `changes` are other
        values of this class's fields for this call alone.
        """
        check_kind(return_tensors)
        settings = replace(self, **changes)  # checks also what was assigned to a field since
        pictures = _listed(images)
        pixels = [
            settings._pixels(picture, input_data_format, "the picture" if len(pictures) == 1 else f"images[{i}]")
            for i, picture in enumerate(pictures)
        ]
        if return_tensors and len({p.shape for p in pixels}) > 1:
            raise InputError(f"do_resize=False leaves pictures of different sizes, {show([p.shape for p in pixels])}")
        return BatchFeature(pixel_values=tensors(pixels, return_tensors, "float32"))

    def _pixels(self, picture: Any, input_data_format: Any, name: str) -> np.ndarray:
        """One picture -> (3, height, width) float32."""
        from PIL import Image

        if isinstance(picture, (str, os.PathLike)):
            picture = open_picture(picture)
        white = 255
        if not isinstance(picture, Image.Image):
            array = rgb_array(picture, input_data_format, name)  # (H, W, 3)
            if self.do_rescale and array.dtype.kind == "f" and 0 < array.max() <= 1 and array.min() >= 0:
                raise ImageError(
                    f"{name}: its floats lie between 0 and 1 already, and do_rescale=True would make it nearly black: "
                    "pass do_rescale=False"
                )
            if not self.do_resize:
                return np.ascontiguousarray(self._standardised(array).transpose(2, 0, 1))
            levels, white = eight_bits(array, name)
            picture = Image.fromarray(np.ascontiguousarray(levels))
        elif self.do_convert_rgb:
            picture = to_rgb(picture, name)
        elif picture.mode != "RGB":
            raise ImageError(f"{name}: do_convert_rgb=False takes RGB alone, found mode {picture.mode}")
        if self.do_resize:
            picture = picture.resize((self.size["width"], self.size["height"]), self.resample)
        levels = np.asarray(picture)  # (h, w, 3)

        # A level is one of 256, so the formula is worked out 256 times and looked up h * w times.
        each = np.arange(256) if white == 255 else np.arange(256) * (1 / 255)  # (256)
        table = self._standardised(np.repeat(each[:, None], 3, axis=1))  # (256, 3)
        return np.stack([table[:, c].take(levels[..., c]) for c in range(3)])

    def _standardised(self, levels: np.ndarray) -> np.ndarray:
        """The formula of this class on (..., 3), rounded where transformers rounds."""
        x = levels.astype(np.float64)
        if self.do_rescale:
            x = x * self.rescale_factor
        x = x.astype(np.float32)
        if not self.do_normalize:
            return x
        return (x - np.array(self.image_mean, np.float32)) / np.array(self.image_std, np.float32)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> BlipImageProcessor:
        """The fields among `settings`; other keys (the class name, another processor's) and nulls are passed over."""
        names = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in names and value is not None})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> BlipImageProcessor:
        """Read from a folder's preprocessor_config.json, or from the newer processor_config.json that nests it."""
        settings = saved_settings(Path(folder))
        if settings is None:
            raise ConfigError(f"{show(Path(folder))}: wanted {FILE} in this folder, found none")
        return cls.from_dict(settings)

    def to_dict(self) -> dict[str, Any]:
        """Every field under its own name, in JSON's types, and the class name that transformers looks for."""
        triples = {"image_mean": list(self.image_mean), "image_std": list(self.image_std)}
        return {"image_processor_type": "BlipImageProcessor", **asdict(self), **triples}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write preprocessor_config.json, whole or not at all."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        with replacing(Path(folder) / FILE) as file:
            file.write((json.dumps(self.to_dict(), indent=2) + "\n").encode())


def saved_settings(folder: Path) -> dict[str, Any] | None:
    """What a folder says about its pictures, or None.  The nested form counts first, as in transformers."""
    if (folder / NEWER_FILE).exists():
        nested = read_json(folder / NEWER_FILE, ConfigError).get("image_processor")
        if isinstance(nested, dict):
            return nested
    return read_json(folder / FILE, ConfigError) if (folder / FILE).exists() else None


def _listed(images: Any) -> list[Any]:
    """One picture or several -> a list; an array with four axes is several."""
    if isinstance(images, (list, tuple)):
        pictures = list(images)
    else:
        pictures = list(images) if getattr(images, "ndim", 0) == 4 else [images]
    if not pictures:
        raise InputError("images: wanted at least one picture, found none")
    return pictures


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _triple(name: str, value: Any) -> tuple[float, ...]:
    numbers = [value] * 3 if _is_number(value) else value
    if not isinstance(numbers, (list, tuple)) or len(numbers) != 3 or not all(_is_number(n) for n in numbers):
        raise ConfigError(f"{name}: wanted three finite numbers, one for each channel, found {show(value)}")
    return tuple(float(n) for n in numbers)


def _size(value: Any) -> dict[str, int]:
    """An int is a square; a pair is (height, width); a dict names both."""
    size = value
    if isinstance(value, int) and not isinstance(value, bool):
        size = {"height": value, "width": value}
    elif isinstance(value, (list, tuple)) and len(value) == 2:
        size = dict(zip(("height", "width"), value, strict=True))
    if (
        not isinstance(size, dict)
        or set(size) != {"height", "width"}
        or not all(type(edge) is int and 1 <= edge <= LONGEST_EDGE for edge in size.values())
    ):
        raise ConfigError(
            f"size: wanted a whole number or {{'height': h, 'width': w}}, each 1 to {LONGEST_EDGE}, found {show(value)}"
        )
    return {"height": size["height"], "width": size["width"]}
