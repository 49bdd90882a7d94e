"""Captions for frameworks that hand out batches: Ray Data, Spark, a pool of processes.

from minivl.batch import Captioner

captioner = Captioner("Salesforce/blip2-opt-2.7b", pictures="bytes")
ray.data.read_binary_files("pictures").map_batches(captioner, batch_size=8)          # adds caption and error

udf = predict_batch_udf(captioner.for_spark, return_type=StringType(), batch_size=8)  # pyspark.ml.functions
frame.withColumn("caption", udf("content"))
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np

from .errors import ImageError, InputError
from .pipelines import ImageToText, Item, TextWork, answered, looked

__all__ = ["Captioner"]


class Captioner:
    """A function from batches to batches: a dict of columns in, the same and two more columns out.

        captioner({"image": np.array(["a.png", "b.png"])})["caption"]     an array of str, one for each picture
        captioner({"image": np.array(["a.png", "b.png"])})["error"]       what was wrong with a picture, or ""

    model      a folder in the Hub's layout, an id on the Hub, "demo"
    prompt     what every caption goes on from
    pictures   the name of the column of pictures: paths, the bytes of picture files, or uint8 arrays (Y, X, 3)
    loading    other arguments of from_pretrained: backend, dtype, device, load_in_8bit, ...; dtype is "auto" if
               nothing is said
    settings   arguments of generate()

    A Captioner holds nothing but these words, so it is pickled in no time. The model is loaded when the first batch
    comes, once in each process, whoever unpickles how many Captioners there. A caption does not depend on the others
    in its batch. A picture that cannot be read has the caption "" and an error; its neighbours have theirs.
    InputError for a batch without the column of pictures.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "demo",
        *,
        prompt: str | None = None,
        pictures: str = "image",
        loading: Mapping[str, Any] | None = None,
        **settings: Any,
    ):
        self.model, self.prompt, self.pictures = str(model), prompt, pictures
        self.loading = {"dtype": "auto"} | dict(loading or {})
        self.settings = {"max_new_tokens": 40} | settings

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """{"image": (B,), ...}  ->  the same and {"caption": (B,), "error": (B,)}; the batch itself stays as it is."""
        if self.pictures not in batch:
            raise InputError(f"batch: wanted a column {self.pictures!r}, found {', '.join(map(repr, batch)) or 'none'}")
        captions, errors = self._say(batch[self.pictures])
        return {**batch, "caption": _column(captions), "error": _column(errors)}

    def for_spark(self) -> Callable[[np.ndarray], np.ndarray]:
        """What predict_batch_udf wants to be given: called once in each process, gives pictures (B,) -> captions (B,).

        There is one column to answer with, so that the first picture that cannot be read is an ImageError.
        """

        def predict(pictures: np.ndarray) -> np.ndarray:
            captions, errors = self._say(pictures)
            if wrong := next(filter(None, errors), None):
                raise ImageError(wrong)
            return _column(captions)

        return predict

    def _say(self, pictures: Iterable[Any]) -> tuple[list[str], list[str]]:
        writer = _loaded(self.model, tuple(sorted(self.loading.items())))
        work = TextWork(writer, "caption", lambda _: self.prompt, **self.settings)
        items = [Item({}, partial(_opened, p, f"picture {place} of the batch")) for place, p in enumerate(pictures)]
        records = answered(work, [(item, looked(work, item)) for item in items])
        return [record.get("caption", "") for record in records], [record.get("error", "") for record in records]


@lru_cache(maxsize=1)
def _loaded(model: str, loading: tuple[tuple[str, Any], ...]) -> ImageToText:
    """The model of this process: frameworks unpickle a Captioner for every batch, some of them."""
    return ImageToText(model, **dict(loading))


def _opened(picture: Any, name: str) -> Any:
    """Bytes -> a PIL picture; paths and arrays as they are, for the picture processor takes them."""
    from .processors.picture_files import read_picture

    if isinstance(picture, bytes | bytearray | memoryview):
        return read_picture(io.BytesIO(picture), name)
    if isinstance(picture, str | os.PathLike | np.ndarray):
        return picture
    raise InputError(f"{name}: wanted a path, the bytes of a file or an array, found {type(picture).__name__}")


def _column(texts: list[str]) -> np.ndarray:
    """Texts as an array of objects, (B,)."""
    column = np.empty(len(texts), object)
    column[:] = texts
    return column
