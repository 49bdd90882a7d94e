"""Pictures to pixel_values: the steps that both models share, and BLIP's processor, which resizes to one fixed size."""

from __future__ import annotations

import json
import math
import os
import warnings
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..disk import read_json, replacing, show
from ..errors import ConfigError, ImageError, InputError, Note
from .calls import BatchFeature, check_kind, tensors
from .picture_files import eight_bits, open_picture, rgb_array, to_rgb

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["BlipImageProcessor", "ImageProcessor", "open_picture", "to_rgb"]

Self = TypeVar("Self", bound="ImageProcessor")
FILE = "preprocessor_config.json"
NEWER_FILE = "processor_config.json"  # transformers 5 nests the same settings in it, under "image_processor"
LONGEST_EDGE = 4096  # pixels; the largest picture that a model of this family reads has 364
LONG = 20  # times as long as wide: beyond it, somebody is told
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass
class ImageProcessor(ABC):
    """Pictures -> pixel_values (B, 3, height, width), float32.

        pixel = (level * rescale_factor - mean) / std         level 0..255, mean and std one per channel

    A picture is made RGB, resized (Pillow's filter number `resample`, 3 is bicubic, with antialiasing), then scaled
    and standardised.  To what size is each model's own business.  The names and defaults are those of transformers
    4.37, whose arithmetic this follows to the bit; ConfigError for a value that has no meaning.
    """

    do_resize: bool = True
    size: Any = 384
    resample: int = 3
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Any = CLIP_MEAN
    image_std: Any = CLIP_STD
    do_convert_rgb: bool = True

    def __post_init__(self) -> None:
        self.image_mean, self.image_std = triple("image_mean", self.image_mean), triple("image_std", self.image_std)
        if 0 in self.image_std:
            raise ConfigError(f"image_std: wanted numbers other than 0, found {show(self.image_std)}")
        if not is_number(self.rescale_factor):
            raise ConfigError(f"rescale_factor: wanted a finite number, found {show(self.rescale_factor)}")
        whole = isinstance(self.resample, int) and not isinstance(self.resample, bool)  # a number of Pillow's own too
        if not whole or self.resample not in range(6):
            raise ConfigError(f"resample: wanted one of Pillow's filters, 0 to 5, found {show(self.resample)}")
        for name in (f.name for f in fields(self) if isinstance(f.default, bool)):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: wanted true or false, found {show(getattr(self, name))}")
        with np.errstate(all="ignore"):
            constants = np.array([self.rescale_factor, *self.image_mean, *self.image_std], np.float32)
            white = self._standardised(np.full(3, 255))
        if not np.isfinite([*constants, *white]).all() or 0 in constants[-3:]:
            found = show((self.rescale_factor, self.image_mean, self.image_std))
            wanted = "numbers that float32 can hold, and white too"
            raise ConfigError(f"rescale_factor, image_mean, image_std: wanted {wanted}, found {found}")

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
        return settings._batch(pixels, return_tensors)

    def _batch(self, pixels: list[np.ndarray], return_tensors: str | None) -> BatchFeature:
        """Several (3, height, width) as one batch."""
        if return_tensors and len({p.shape for p in pixels}) > 1:
            found = f"different sizes, {show([p.shape for p in pixels])}"
            raise InputError(f"images: wanted one size after all steps, to make a tensor, found {found}")
        return BatchFeature(pixel_values=tensors(pixels, return_tensors, "float32"))

    @abstractmethod
    def _resized(self, picture: Image.Image) -> Image.Image:
        """The picture at the size that the model reads."""

    def _cropped(self, levels: np.ndarray) -> np.ndarray:
        """(h, w, 3) -> what of it is used: everything, unless a model says otherwise."""
        return levels

    def _pixels(self, picture: Any, input_data_format: Any, name: str) -> np.ndarray:
        """One picture -> (3, height, width) float32."""
        from PIL import Image

        if isinstance(picture, (str, os.PathLike)):
            name = show(Path(picture))
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
                return np.ascontiguousarray(self._standardised(self._cropped(array)).transpose(2, 0, 1))
            levels, white = eight_bits(array, name)
            picture = Image.fromarray(np.ascontiguousarray(levels))
        elif self.do_convert_rgb:
            picture = to_rgb(picture, name)
        elif picture.mode != "RGB":
            raise ImageError(f"{name}: do_convert_rgb=False takes RGB alone, found mode {picture.mode}")
        if self.do_resize:
            if max(picture.size) > LONG * min(picture.size):
                found = f"{picture.width} x {picture.height} pixels, more than {LONG} times as long as wide"
                warnings.warn(f"{name}: {found}: a square shows little of it", Note, stacklevel=3)
            picture = self._resized(picture)
        levels = self._cropped(np.asarray(picture))  # (h, w, 3)

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
    def from_dict(cls: type[Self], settings: dict[str, Any]) -> Self:
        """The fields among `settings`; other keys (the class name, another processor's) and nulls are passed over."""
        names = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in names and value is not None})

    @classmethod
    def from_pretrained(cls: type[Self], folder: str | os.PathLike[str]) -> Self:
        """Read from a folder's preprocessor_config.json, or from the newer processor_config.json that nests it."""
        settings = saved_settings(Path(folder))
        if settings is None:
            raise ConfigError(f"{show(Path(folder))}: wanted {FILE} in this folder, found none")
        return cls.from_dict(settings)

    def to_dict(self) -> dict[str, Any]:
        """Every field under its own name, in JSON's types, and the class name that transformers looks for."""
        triples = {"image_mean": list(self.image_mean), "image_std": list(self.image_std)}
        return {"image_processor_type": type(self).__name__, **asdict(self), **triples}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write preprocessor_config.json, whole or not at all."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        with replacing(Path(folder) / FILE) as file:
            file.write((json.dumps(self.to_dict(), indent=2) + "\n").encode())


def _listed(images: Any) -> list[Any]:
    """One picture or several -> a list; an array with four axes is several."""
    if isinstance(images, (list, tuple)):
        pictures = list(images)
    else:
        pictures = list(images) if getattr(images, "ndim", 0) == 4 else [images]
    if not pictures:
        raise InputError("images: wanted at least one picture, found none")
    return pictures


@dataclass
class BlipImageProcessor(ImageProcessor):
    """BLIP's pictures: resized to exactly `size`, whatever their shape.

    An int is a square, a pair is (height, width), a dict names both.   Source: BlipImageProcessor in transformers 4.37.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = isinstance(self.size, (list, tuple)) and len(self.size) == 2
        size = dict(zip(("height", "width"), self.size, strict=True)) if pair else self.size
        self.size = edges("size", size, "height", "width")

    def _resized(self, picture: Image.Image) -> Image.Image:
        return picture.resize((self.size["width"], self.size["height"]), self.resample)


# ---- settings as files hold them -----------------------------------------------------------------
def saved_settings(folder: Path) -> dict[str, Any] | None:
    """What a folder says about its pictures, or None.  The nested form counts first, as in transformers."""
    if (folder / NEWER_FILE).exists():
        nested = read_json(folder / NEWER_FILE, ConfigError).get("image_processor")
        if isinstance(nested, dict):
            return nested
    return read_json(folder / FILE, ConfigError) if (folder / FILE).exists() else None


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def triple(name: str, value: Any) -> tuple[float, ...]:
    """One number for each channel; a single one counts for all three."""
    numbers = [value] * 3 if is_number(value) else value
    if not isinstance(numbers, (list, tuple)) or len(numbers) != 3 or not all(is_number(n) for n in numbers):
        raise ConfigError(f"{name}: wanted three finite numbers, one for each channel, found {show(value)}")
    return tuple(float(n) for n in numbers)


def edges(name: str, value: Any, *keys: str) -> dict[str, int]:
    """{key: pixels} for exactly these keys, from a dict that names them, or from one number that stands for all."""
    named = dict.fromkeys(keys, value) if type(value) is int else value
    if (
        not isinstance(named, dict)
        or set(named) != set(keys)
        or not all(type(edge) is int and 1 <= edge <= LONGEST_EDGE for edge in named.values())
    ):
        shape = "{" + ", ".join(f"{key!r}: n" for key in keys) + "}"
        raise ConfigError(f"{name}: wanted n or {shape} with n from 1 to {LONGEST_EDGE}, found {show(value)}")
    return {key: named[key] for key in keys}
