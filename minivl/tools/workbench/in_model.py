"""A whole demo model with the checked function inside, and what its answer became."""

from __future__ import annotations

from typing import Any

import numpy as np

from .candidate import Candidate, first_line


def run(one: Candidate, op: str, model: str) -> dict[str, Any]:
    """Ask the model twice, as it is and with the function in its record.

    same    whether it gives the same answer          words   what to print
    """
    from ...errors import InputError

    if op.endswith("_backward"):
        raise InputError(f"--in-model runs a model forward, and {op} is not in it")
    calls = [0]

    def mine(*positional: Any, **named: Any) -> Any:
        calls[0] += 1
        given = {key: value for key, value in named.items() if value is not None and value is not False}
        return one.call(list(positional), given)

    ask = _caption if model == "demo" else _match
    picture = np.random.default_rng(7)
    before, numbers = ask(one.takes, None, picture)
    try:
        after, other = ask(one.takes, {op: mine}, np.random.default_rng(7))
    except Exception as error:
        return {"same": False, "words": f"in {model}: {first_line(error)}", "answer": before, "became": None}
    if not calls[0]:
        return {"same": True, "words": f"in {model}: {op} is never called there", "answer": before, "became": after}
    apart = float(np.abs(numbers - other).max())
    same = before == after and bool(apart <= 1e-3 * max(1.0, float(np.abs(numbers).max())))
    became = f"still {after!r}" if before == after else f"{after!r} in place of {before!r}"
    words = f"in {model}: called {calls[0]} times; the answer is {became}; its scores moved by {apart:.2g} at most"
    return {"same": same, "words": words, "answer": before, "became": after, "moved": apart}


def _picture() -> np.ndarray:
    """A red square on white."""
    picture = np.full((96, 96, 3), 255, np.uint8)
    picture[28:68, 28:68] = (220, 30, 30)
    return picture


def _with(model: Any, functions: dict[str, Any] | None) -> Any:
    if functions:
        model.ops = model.ops._replace(**functions)
    return model


def _caption(backend: str, functions: dict[str, Any] | None, _: Any) -> tuple[str, np.ndarray]:
    """What the demo of BLIP-2 says of a picture, and the scores of its first words."""
    from ...api.blip2 import Blip2ForConditionalGeneration
    from ...processors.blip2 import Blip2Processor

    model = _with(Blip2ForConditionalGeneration.from_pretrained("demo", backend=backend), functions)
    processor = Blip2Processor.from_pretrained("demo")
    inputs: dict[str, Any] = processor(images=_picture(), text="a photo of", return_tensors="np")
    logits = model(**inputs).logits
    ids = model.generate(**inputs, max_new_tokens=8)
    return processor.batch_decode(ids, skip_special_tokens=True)[0].strip(), _numbers(logits)


def _match(backend: str, functions: dict[str, Any] | None, _: Any) -> tuple[str, np.ndarray]:
    """Whether the demo of BridgeTower finds that a text fits a picture, and its two scores."""
    from ...api.bridgetower import BridgeTowerForImageAndTextRetrieval
    from ...processors.bridgetower import BridgeTowerProcessor

    model = _with(BridgeTowerForImageAndTextRetrieval.from_pretrained("demo-bridgetower", backend=backend), functions)
    processor = BridgeTowerProcessor.from_pretrained("demo-bridgetower")
    inputs: dict[str, Any] = processor(images=_picture(), text="a red square", return_tensors="np")
    logits = _numbers(model(**inputs).logits)
    return ("fits" if logits[0, 1] > logits[0, 0] else "does not fit"), logits


def _numbers(x: Any) -> np.ndarray:
    return np.asarray(x.detach() if hasattr(x, "detach") else x, np.float32)
