"""The steps: queries, Q-Former and projection learn, and a training that is stopped goes on where it stood (torch).

Everything that a step depends on is its number, the weights and the optimizer's averages. So a training that was killed
and resumed leaves the very bytes that one without a break leaves.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch

from ...api.blip2 import Blip2ForConditionalGeneration
from ...disk import replacing, show
from ...errors import InputError, WeightsError
from ...weights import tree

TAUGHT = ("queries", "qformer", "projection")
CHECKPOINT = "finetune.checkpoint"


class Plan(NamedTuple):
    """What decides the outcome. A checkpoint holds it, and resumes under the same one only."""

    model: str
    examples: str
    texts: int
    epochs: int
    batch: int
    rate: float
    decay: float
    seed: int
    backend: str
    dtype: str

    @property
    def steps(self) -> int:
        return self.epochs * math.ceil(self.texts / self.batch)

    def rate_of(self, step: int) -> float:
        """The learning rate of step 0, 1, ...: up in a straight line over a tenth of the steps, down along a cosine."""
        warm = math.ceil(self.steps / 10)
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


class Learner:
    """A frozen model with a Q-Former that learns. The learned weights are float32; each step computes in the model's
    dtype, with copies of them.
    """

    def __init__(self, model: Blip2ForConditionalGeneration, plan: Plan):
        self.model, self.plan, self.step = model, plan, 0
        table = [entry for entry in model.table(model.config) if isinstance(entry, tree.Entry)]
        self.table = [entry for entry in table if entry.path.split(".")[0] in TAUGHT]
        self.masters = {
            part: tree.map_leaves(lambda w: w.detach().float().clone().requires_grad_(), model.params[part])
            for part in TAUGHT
        }
        self.weights = tree.flatten(self.table, self.masters)
        groups = [
            {"params": [w for w in self.weights.values() if w.ndim > 1], "weight_decay": plan.decay},
            {"params": [w for w in self.weights.values() if w.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98))

    def learn(self, inputs: dict[str, Any]) -> float:
        """One step down the loss of a batch; the loss."""
        dtype = self.model.dtype
        self.model.params = {**self.model.params, **tree.map_leaves(lambda w: w.to(dtype), self.masters)}
        output: Any = self.model(**inputs)
        output.loss.backward()
        value = float(output.loss.detach())
        if not math.isfinite(value):
            raise InputError(f"step {self.step + 1}: the loss is {value}: try a lower --rate, or --dtype float32")
        torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate_of(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return value

    def finish(self) -> Blip2ForConditionalGeneration:
        """The model with what was learned, in float32."""
        self.model.params = {**self.model.params, **tree.map_leaves(lambda w: w.detach(), self.masters)}
        return self.model

    # ---- checkpoints ----
    def save(self, path: Path) -> None:
        """Write all that the next step depends on, whole or not at all."""
        weights = {name: w.detach().cpu() for name, w in self.weights.items()}
        state = {"plan": self.plan._asdict(), "step": self.step, "weights": weights}
        with replacing(path) as file:
            torch.save({**state, "optimizer": self.optimizer.state_dict()}, file)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint. InputError if it is of another training, WeightsError if it is none."""
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            plan, step, weights = state["plan"], state["step"], state["weights"]
            optimizer = state["optimizer"]
        except Exception as problem:  # torch raises whatever it met: a damaged file, another format, a missing key
            first = (str(problem).splitlines() or [type(problem).__name__])[0]
            raise WeightsError(f"{show(path)}: wanted a checkpoint of this command, found {show(first)}") from None
        for name, value in self.plan._asdict().items():
            if plan.get(name) != value:
                found = f"{name} {show(plan.get(name))}, and now {name} is {show(value)}"
                raise InputError(f"{show(path)}: was begun with {found}: resume with the same, or give another --out")
        with torch.no_grad():
            for name, w in self.weights.items():
                w.copy_(weights[name])
        self.optimizer.load_state_dict(optimizer)
        self.step = step


class Progress:
    """One line that says where a training stands: overwritten on a terminal, elsewhere a new one every so often."""

    def __init__(self, plan: Plan, begun: int, out: TextIO | None = None, every: float = 30.0):
        self.plan, self.begun, self.every = plan, begun, every
        self.out = sys.stderr if out is None else out
        self.started = self.told = time.monotonic()
        self.live = self.out.isatty()
        self.loss: float | None = None

    def tell(self, step: int, loss: float) -> None:
        """After a step: `step` of them are done."""
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        now, last = time.monotonic(), step == self.plan.steps
        if self.live or last or step == self.begun + 1 or now - self.told >= self.every:
            self.told = now
            line = self.line(step, now - self.started)
            self.out.write(f"\r{line}\x1b[K" + "\n" * last if self.live else line + "\n")
            self.out.flush()

    def line(self, step: int, seconds: float) -> str:
        plan, done = self.plan, step - self.begun
        each = seconds / done
        rate = f"{plan.batch / each:.3g} pictures/s" if each else "-"
        epoch = math.ceil(step * plan.epochs / plan.steps)
        left = duration(each * (plan.steps - step))
        return f"step {step}/{plan.steps}  epoch {epoch}/{plan.epochs}  loss {self.loss:.4f}  {rate}  {left} left"


def duration(seconds: float) -> str:
    """59 s, 12 min, 3 h 20 min"""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that a signal to end (Ctrl-C, kill) is put into, so that the step that is being taken can be finished.

    The second signal does what signals usually do.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for number, before in usual.items():
            signal.signal(number, before)

    usual: dict[int, Any] = {}
    with suppress(ValueError):  # signals are the main thread's
        for each in (signal.SIGINT, signal.SIGTERM):
            usual[each] = signal.signal(each, note)
    try:
        yield received
    finally:
        restore()
