"""The prompts of BLIP-2's paper, by name.

    prompt("vqa-opt", "how many cats are there?")     "Question: how many cats are there? Answer:"

Source: Li et al. 2023 (BLIP-2), section 4: captions go on from "a photo of"; OPT is asked a question, Flan-T5 for a
short answer to one.
"""

from __future__ import annotations

from .errors import InputError

PROMPTS = {
    "caption": "a photo of",
    "vqa-opt": "Question: {} Answer:",
    "vqa-t5": "Question: {} Short answer:",
}


def prompt(name: str, question: str | None = None) -> str:
    """The prompt called `name`, around the question if it has room for one."""
    if name not in PROMPTS:
        raise InputError(f"there is no prompt called {name!r}: there are {', '.join(PROMPTS)}")
    words = PROMPTS[name]
    if ("{}" in words) != (question is not None):
        raise InputError(f"the prompt {name!r} {'needs a question' if '{}' in words else 'takes no question'}")
    return words if question is None else words.replace("{}", question.strip())
