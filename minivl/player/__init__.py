"""The attention player: one pass of a model, written down as arrays, and a page on which a person can step through it.

    record = model.trace(**inputs, tokenizer=processor)      named arrays; in a notebook it shows itself
    record.save("step.html")                                 one file, to be opened in any browser
    minivl step PICTURE "a question"                         both, from the command line

A good first walk: record.py (what is kept), blip2.py and bridgetower.py (how it is gathered), rollout.py (several
layers in one map), then pack.py and page.py (how it becomes a page).
"""

from .record import AttentionTrace

__all__ = ["AttentionTrace"]
