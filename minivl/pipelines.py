"""The two families as functions of pictures and words, for the commands, for jobs and for minivl.batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import InputError, WeightsError

WEIGHTS: dict[str, dict[str, Any]] = {  # what --dtype means to from_pretrained
    "auto": {"dtype": "auto"},
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"load_in_8bit": True},
    "weight-only": {"load_in_8bit": "weight-only"},
}


class Speaker:
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


class Speaking:
    """A Speaker at work (flow.Work): says something about pictures, called `name` in their records.

    prompt(question)   what a text goes on from; the question is None where the item has none
    """

    def __init__(self, speaker: Speaker, name: str, prompt: Callable[[str | None], str | None], **settings: Any):
        self.speaker, self.name, self.prompt, self.settings = speaker, name, prompt, settings
        self.look = speaker.look
        self.together = not settings.get("do_sample")  # with chance each picture has the one that it has alone

    def answer(self, chunk: Sequence[Any], pixels: np.ndarray) -> list[dict[str, Any]]:
        prompts = [self.prompt(item.fields.get("question")) for item in chunk]
        return [{self.name: text} for text in self.speaker.say(pixels, prompts, **self.settings)]


class Matcher:
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
        return self.model.ops.softmax(numbers(logits).astype(np.float64))[:, 1]

    def finder(self, text: str) -> Callable[[np.ndarray], np.ndarray]:
        """A function of pixels (B, 3, Y, X) that says how near the pictures' vectors are to the text's, (B,)."""
        wanted = self.model.get_text_features(**self.processor.tokenizer(text, return_tensors="np"))[0]
        return lambda pixels: numbers(self.model.get_image_features(pixels) @ wanted)


def numbers(scores: np.ndarray) -> np.ndarray:
    """The same scores; InputError where a model's weights have driven them out of what numbers can hold."""
    if not np.isfinite(scores).all():
        raise InputError("the model's scores are not all numbers: its weights are too large, or no model's")
    return scores


def flat(text: str) -> str:
    """The words with one blank between them, on one line."""
    return " ".join(text.split())
