"""Pictures and words in, texts and scores out: what the commands, long jobs and minivl.batch stand on.

ImageToText          a BLIP-2: a text about each picture
ImageTextMatching    a BridgeTower: how well texts fit pictures
answered             a record for each of several pictures; what is wrong with one is said in its own record
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from .errors import InputError, MinivlError, WeightsError
from .inputs import to_array
from .ops.plain import softmax

WEIGHTS: dict[str, dict[str, Any]] = {  # what --dtype means to from_pretrained
    "auto": {"dtype": "auto"},
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"load_in_8bit": True},
    "weight-only": {"load_in_8bit": "weight-only"},
}


class ImageToText:
    """A BLIP-2 and its processor: pictures and perhaps beginnings of texts in, texts out.

    how   the other arguments of from_pretrained: dtype, backend, ...
    """

    def __init__(self, model: str, **how: Any):
        from .api.blip2 import Blip2ForConditionalGeneration
        from .processors.blip2 import Blip2Processor

        self.model = Blip2ForConditionalGeneration.from_pretrained(model, **how)  # first: it knows the wrong family
        self.processor = Blip2Processor.from_pretrained(model)
        self.processor.tokenizer.split_special_tokens = True  # what a person types is words, whatever it looks like

    @property
    def language(self) -> str:
        """model_type of the language model, "opt" or "t5"."""
        return self.model.config.text_config.model_type

    def look(self, picture: Any) -> np.ndarray:
        """A path, a PIL picture or an array -> its pixels as the model reads them, (3, Y, X)."""
        return self.processor.image_processor(picture, return_tensors="np").pixel_values[0]

    def ids(self, pixels: np.ndarray, prompts: Sequence[str | None], **settings: Any) -> np.ndarray:
        """The ids that generate() writes with these settings.

        pixels (B, 3, Y, X)   prompts: what each of the B texts goes on from; where the first is None, from nothing
        """
        words: dict[str, Any] = {}
        if prompts[0] is not None:
            texts = [prompt or "" for prompt in prompts]
            words = self.processor(text=texts, padding=len(texts) > 1, return_tensors="np")
        return self.model.generate(pixels, **words, **settings, tokenizer=self.processor)

    def say(self, pixels: np.ndarray, prompts: Sequence[str | None], **settings: Any) -> list[str]:
        """As `ids`, -> B texts, each on one line and with one blank between its words."""
        from .generate import cut

        ids = self.ids(pixels, prompts, **settings)
        return [flat(cut(text, stops(settings))) for text in self.processor.batch_decode(ids, skip_special_tokens=True)]


def stops(settings: dict[str, Any]) -> tuple[str, ...]:
    """The texts in front of which an answer ends."""
    stop = settings.get("stop") or ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


class ImageTextMatching:
    """A BridgeTower of one of the classes of api/bridgetower.py and its processor: how well texts fit pictures."""

    def __init__(self, model: str, kind: str, **how: Any):
        from .api import bridgetower
        from .processors.bridgetower import BridgeTowerProcessor

        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            try:
                family = getattr(bridgetower, kind)
                self.model = family.from_pretrained(model, **how)  # first: it knows the wrong family
            except UserWarning as random_head:  # which may be trained in Python, and has no answers here
                raise WeightsError(f"{random_head}: wanted a checkpoint with that head") from None
        self.processor = BridgeTowerProcessor.from_pretrained(model)
        self.processor.tokenizer.split_special_tokens = True  # what a person types is words, whatever it looks like

    def look(self, picture: Any) -> np.ndarray:
        """A path, a PIL picture or an array -> its pixels as the model reads them, (3, Y, X)."""
        return self.processor.image_processor(picture, return_tensors="np").pixel_values[0]

    def match(self, texts: Sequence[str], pixels: np.ndarray) -> np.ndarray:
        """The probability that each text fits its picture: B texts, pixels (B, 3, Y, X)  ->  (B,)"""
        words = self.processor.tokenizer(list(texts), padding=True, return_tensors="np")
        output = self.model(**words, pixel_values=pixels)
        logits = output.logits if hasattr(output, "logits") else output.matching.logits
        return softmax(numbers(logits).astype(np.float64))[:, 1]

    def finder(self, text: str) -> Callable[[np.ndarray], np.ndarray]:
        """A function of pixels (B, 3, Y, X) that says how near the pictures' vectors are to the text's, (B,)."""
        wanted = self.model.get_text_features(**self.processor.tokenizer(text, return_tensors="np"))[0]
        return lambda pixels: numbers(self.model.get_image_features(pixels) @ wanted)


def numbers(scores: Any) -> np.ndarray:
    """A model's scores as a NumPy array. Raises InputError where its weights have driven them out of range."""
    array = to_array(scores)
    if not np.isfinite(array).all():
        raise InputError("the model's scores are not all numbers: its weights are too large, or no model's")
    return array


def flat(text: str) -> str:
    """The words with one blank between them, on one line."""
    return " ".join(text.split())


# ---- records of many pictures --------------------------------------------------------------------
Record = dict[str, Any]


class Item(NamedTuple):
    """One picture: its record begins with `fields`; read() gives what a picture processor takes, or an ImageError."""

    fields: dict[str, Any]
    read: Callable[[], Any]


Read = tuple[Item, Any]  # an item and its pixels, or the MinivlError that it gave instead


class Work(Protocol):
    """What is done with a picture."""

    together: bool  # whether several may go through the model at a time

    def look(self, picture: Any) -> Any:
        """A picture -> its pixels as the model reads them, (3, Y, X); in a thread of its own."""

    def answer(self, items: list[Item], pixels: Any) -> list[Record]:
        """Pixels (B, 3, Y, X) -> what each picture's record goes on with."""


def looked(work: Work, item: Item) -> Any:
    """An item's pixels, or the MinivlError that came instead."""
    try:
        return work.look(item.read())
    except MinivlError as error:
        return error


def answered(work: Work, chunk: list[Read]) -> list[Record]:
    """A record for each; a failure is the picture's own and not its neighbours'."""
    good = [read for read in chunk if not isinstance(read[1], MinivlError)]
    answers = iter(_answers(work, good))
    return [item.fields | ({"error": str(p)} if isinstance(p, MinivlError) else next(answers)) for item, p in chunk]


def _answers(work: Work, chunk: list[Read]) -> list[Record]:
    alone = not work.together or len({pixels.shape for _, pixels in chunk}) > 1
    if alone and len(chunk) > 1:
        return [answer for one in chunk for answer in _answers(work, [one])]
    if not chunk:
        return []
    try:
        return work.answer([item for item, _ in chunk], np.stack([pixels for _, pixels in chunk]))
    except MinivlError as error:
        if len(chunk) == 1:
            return [{"error": str(error)}]
        return [answer for one in chunk for answer in _answers(work, [one])]


class TextWork:
    """Writes a text about each picture, called `name` in its record.

    prompt(question)   what a text goes on from; the question is None where the item has none
    """

    def __init__(self, writer: ImageToText, name: str, prompt: Callable[[str | None], str | None], **settings: Any):
        self.writer, self.name, self.prompt, self.settings = writer, name, prompt, settings
        self.look = writer.look
        self.together = not settings.get("do_sample")  # with chance each picture has the one that it has alone

    def answer(self, chunk: Sequence[Any], pixels: np.ndarray) -> list[dict[str, Any]]:
        prompts = [self.prompt(item.fields.get("question")) for item in chunk]
        return [{self.name: text} for text in self.writer.say(pixels, prompts, **self.settings)]
