"""BridgeTower's processor: pictures resized and cropped to a square, and texts as RoBERTa reads them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from ..disk import show
from ..errors import ConfigError
from .base import Processor
from .calls import BatchFeature, tensors
from .image_processor import LONGEST_EDGE, ImageProcessor, edges

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class BridgeTowerImageProcessor(ImageProcessor):
    """Pictures -> pixel_values (B, 3, H, W) float32 and pixel_mask (B, H, W) int64, 1 where there is a picture.

    1. Resize: the shorter edge to `size`, the longer along with it but to at most 1333/800 of `size`, then each edge
       down to a multiple of `size_divisor`.
    2. Crop the square of `crop_size` in the middle; `crop_size` is `size` unless it is given.
    3. Scale and standardise, as every `ImageProcessor` does.
    4. Pad pictures of different sizes with zeros, on the right and below, to the largest of the batch.

    Steps 1 and 2 contradict each other when the resized picture is smaller than the crop: an edge of 294 becomes 288,
    a panorama's shorter edge far less.  transformers fills the crop up with black, and fails where an edge becomes 0.
    Here step 1 then takes the picture at the scale at which its shorter edge covers the crop, so that the crop is full
    of picture: what the checkpoints were trained on (Resize(n), CenterCrop(n)).  Without a crop, no edge is resized to
    less than one `size_divisor`.

    A number for `size` or `crop_size` means {"shortest_edge": number}.   Source: BridgeTowerImageProcessor in
    transformers 4.37 (whose processor always crops) and 5 (for crop_size).
    """

    size: Any = 288
    size_divisor: int = 32
    crop_size: Any = None
    do_center_crop: bool = True
    do_pad: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.size = edges("size", self.size, "shortest_edge")
        if self.crop_size is not None:
            self.crop_size = edges("crop_size", self.crop_size, "shortest_edge")
        if self.crop_size == self.size:
            self.crop_size = None  # it follows size, also when another size is asked for
        if type(self.size_divisor) is not int or not 1 <= self.size_divisor <= LONGEST_EDGE:
            raise ConfigError(
                f"size_divisor: wanted a whole number from 1 to {LONGEST_EDGE}, found {show(self.size_divisor)}"
            )

    @property
    def crop_edge(self) -> int:
        """The edge of the square that is cut out."""
        return (self.crop_size or self.size)["shortest_edge"]

    def to_dict(self) -> dict[str, Any]:
        """The fields, and crop_size also where it follows size: transformers 5 would take 288 for it."""
        return {**super().to_dict(), "crop_size": {"shortest_edge": self.crop_edge}}

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after step 1, before the crop is thought of."""
        shortest = self.size["shortest_edge"]
        longest = int(1333 / 800 * shortest)
        scale = shortest / min(height, width)
        wanted = [shortest if edge == min(height, width) else scale * edge for edge in (height, width)]
        fit = min(1.0, longest / max(wanted))
        high, wide = (max(int(edge * fit + 0.5) // self.size_divisor, 1) * self.size_divisor for edge in wanted)
        return high, wide

    def _resized(self, picture: Image.Image) -> Image.Image:
        height, width = self.resized_size(picture.height, picture.width)
        crop = self.crop_edge
        if not self.do_center_crop or min(height, width) >= crop:
            return picture.resize((width, height), self.resample)
        # Only what the crop will keep is resized: of a picture 65,000 times as long as wide, the rest fills the memory.
        side = min(picture.size) * crop / max(crop, self.size["shortest_edge"])
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        return picture.resize((crop, crop), self.resample, box=(left, top, left + side, top + side))

    def _cropped(self, levels: np.ndarray) -> np.ndarray:
        """(h, w, 3) -> the square in the middle; what was not resized and is smaller gets a black border."""
        if not self.do_center_crop:
            return levels
        crop = self.crop_edge
        lack = [max(crop - edge, 0) for edge in levels.shape[:2]]
        if any(lack):
            levels = np.pad(levels, [(ceil(gap / 2), gap // 2) for gap in lack] + [(0, 0)])
        top, left = ((edge - crop) // 2 for edge in levels.shape[:2])
        return levels[top : top + crop, left : left + crop]

    def _batch(self, pixels: list[np.ndarray], return_tensors: str | None) -> BatchFeature:
        if not self.do_pad:
            return super()._batch(pixels, return_tensors)
        height, width = (max(p.shape[axis] for p in pixels) for axis in (1, 2))
        gaps = [((0, height - p.shape[1]), (0, width - p.shape[2])) for p in pixels]
        masks = [np.pad(np.ones(p.shape[1:], np.int64), gap) for p, gap in zip(pixels, gaps, strict=True)]
        padded = [np.pad(p, [(0, 0), *gap]) for p, gap in zip(pixels, gaps, strict=True)]
        return BatchFeature(
            pixel_values=tensors(padded, return_tensors, "float32"), pixel_mask=tensors(masks, return_tensors, "int64")
        )


class BridgeTowerProcessor(Processor):
    """A picture processor and RoBERTa's tokenizer, called together as in transformers 4.37.

        inputs = processor(photo, "a <mask> looking out of the window", return_tensors="np")
        outputs = model(**inputs)
        processor.decode(outputs.logits.argmax(-1)[0])

    A text becomes <s> text </s>, a pair <s> text </s></s> text_pair </s>, padded on the right.  The batch holds
    input_ids, attention_mask, pixel_values and pixel_mask.
    """

    image_class = BridgeTowerImageProcessor
    image_size = 288
    text_first = True

    @staticmethod
    def family(model: dict[str, Any] | None) -> str | None:
        return "roberta"
