"""Taking steps down a loss for so many minutes, alone or in a team of processes, on torch or on our Triton kernels."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minivl import ops as all_ops
from minivl.weights import tree

TORCH = all_ops.get("torch")
BACKENDS = ("torch", "triton")
PATIENCE = 300  # seconds that a member waits for the others before it gives up


class Team(NamedTuple):
    """Processes that take every step together: each writes its gradient into its row, all read the mean."""

    rows: torch.Tensor  # (members, weights + 1), shared between them
    barrier: Any

    @classmethod
    def of(cls, members: int, weights: int) -> Team:
        rows = torch.zeros(members, weights + 1).share_memory_()
        return cls(rows, multiprocessing.get_context("fork").Barrier(members, timeout=PATIENCE))

    def agree(self, member: int, weights: list[torch.Tensor], progress: float) -> float:
        """Put the mean gradient in place of this member's own. The mean progress is the same for all, too."""
        own = [w.grad for w in weights if w.grad is not None]  # all of them: every loss reaches every weight
        self.rows[member] = torch.cat([*(grad.flatten().cpu() for grad in own), torch.tensor([progress])])
        self.barrier.wait()
        *means, done = self.rows.mean(0).split([*(grad.numel() for grad in own), 1])
        self.barrier.wait()
        for grad, mean in zip(own, means, strict=True):
            grad.copy_(mean.view_as(grad))
        return float(done)


def seated(student: Any, backend: str) -> Any:
    """The student with the ops record of this name, its weights and its layer to throw away where that computes.

    Called by each process for itself: a GPU that was in use before a process forked cannot be used after.
    """
    ops = all_ops.get(backend)

    def move(weight: torch.Tensor) -> torch.Tensor:
        moved = ops.from_numpy(weight.detach())
        return weight if moved.device == weight.device else moved.requires_grad_()

    for part in student:
        if isinstance(part, torch.nn.Module):
            part.to(ops.from_numpy(torch.empty(0)).device)
    return student._replace(ops=ops, weights=tree.map_leaves(move, student.weights))


def kept(weights: tree.Tree) -> tree.Tree:
    """The weights as a checkpoint keeps them, on the CPU."""
    return tree.map_leaves(lambda w: w.detach().cpu().requires_grad_(), weights)


class Weights(NamedTuple):
    """What learns: the matrices of the layers, by Muon, and all the rest, by AdamW."""

    matrices: list[torch.Tensor]
    others: list[torch.Tensor]

    @property
    def all(self) -> list[torch.Tensor]:
        return self.matrices + self.others


def learn(
    weights: Weights,
    loss: Callable[[], torch.Tensor],
    minutes: float,
    rate: float,
    log: Path,
    keep: Callable[[], Any],
    team: Callable[[list[torch.Tensor], float], float] | None = None,
) -> None:
    """Take steps: warm up over 100 of them, slow down to nothing at the end.

    loss   of the next batch
    keep   gives what to put into the file `log` every hundred steps
    team   as `Team.agree`, for a member
    """
    helpers = [
        torch.optim.Muon(weights.matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(weights.others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    started, mean, step, progress = time.time(), 0.0, 0, 0.0
    while progress < 1:
        now = rate * min(1, (step + 1) / 100, 0.02 + math.cos(math.pi / 2 * progress) ** 2)
        for group in (group for helper in helpers for group in helper.param_groups):
            group["lr"] = now
        current = loss()
        current.backward()
        progress = (time.time() - started) / 60 / minutes
        if team is not None:
            progress = team(weights.all, progress)
        torch.nn.utils.clip_grad_norm_(weights.all, 1.0)
        for helper in helpers:
            helper.step()
            helper.zero_grad(set_to_none=False)
        step += 1
        mean += (current.item() - mean) / min(step, 100)
        if step % 100 == 0 or progress >= 1:
            print(f"{log.stem} {step} steps  {time.time() - started:.0f} s  loss {mean:.4f}", flush=True)
            torch.save(keep(), log)


def at_once(first: Callable[[], None], second: Callable[[], None]) -> None:
    """Run both, each in a process of its own."""

    def apart(work: Callable[[], None]) -> None:
        os.setsid()  # a session of its own: Linux shares the processors out between sessions first
        work()

    workers = [multiprocessing.get_context("fork").Process(target=apart, args=(work,)) for work in (first, second)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"a process of the training ended with code {worker.exitcode}")
