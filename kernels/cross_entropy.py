r"""Softmax cross-entropy and its gradient, without ever writing the softmax.

    loss = mean over targets != ignore_index of   log Σ_v exp(x_v) - x_target
    dx_v = dloss / number of such targets · (exp(x_v) / Σ exp(x) - [v = target])        0 in an ignored row

In words: the loss of a token is minus the logarithm of the probability that softmax gives its target. The gradient
lowers each logit in proportion to its probability and raises the target's by what that is short of 1.

The trick: the loss needs one number of the softmax, log Σ exp, so nothing as wide as the vocabulary is written. Maximum
and sum come from one loop (`row_sums` in softmax.py), and the target's logit is one more load. The backward pass runs
the same loop again, so nothing is kept but the logits. It may write the gradient over them: a program has read all of
its rows before it writes the first number, and no other program reads them. With V = 50,304 the logits are by far the
largest array of a training step, and a second one of that size is where the memory would go. Ignored rows are never
read.

    memory      forward: the logits once, 98 KiB a row for 50,304 logits in float16; softmax, logarithm and look-up one
                after the other would read them three times and write them twice.
                backward: the logits twice (the second time mostly from the cache), the gradient once
    schedule    one program takes ROWS rows; the forward pass leaves one float32 for each. A single program takes the
                mean (forward) or counts the targets (backward), and finds the lowest and the highest target, so that
                one outside the vocabulary is refused. The host waits for those two numbers, once.

The plain versions are `cross_entropy` in minivl/ops/plain.py and `cross_entropy_backward` in minivl/ops/backward.py.
"""

from typing import Any

from minivl.errors import InputError, OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import Array, arrays, empty, tl, triton
from minivl.kernels.rows import as_rows, rows_per_program, unit_of
from minivl.kernels.softmax import finite, row_sums

WIDEST = 4096  # logits of a block


def config(V: int, rows: int = 1 << 20) -> dict[str, Any]:
    """The tile that ships for `rows` rows of V logits, forward and backward."""
    block = min(triton.next_power_of_2(V), WIDEST)
    return dict(
        BLOCK=block, ROWS=rows_per_program(block, rows, 1024), num_warps=min(max(block, 1024) // 256, 8), num_stages=2
    )


@triton.jit
def load_targets(TARGETS, rows, ignore_index, ROWS: tl.constexpr):
    """The rows of this program.   ->   row, target, kept [ROWS]: kept where there is such a row, and it counts"""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    target = tl.load(TARGETS + row, row < rows, ignore_index)  # [ROWS]
    return row, target, (row < rows) & (target != ignore_index)


@triton.jit
def row_loss_kernel(
    X, TARGETS, LOSS,  # (rows, V), rows stride · UNIT apart; (rows,); (rows,) float32
    rows, stride, ignore_index,
    V: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """log Σ exp(x) - x_target of every row, 0 where the target is ignored."""
    row, target, kept = load_targets(TARGETS, rows, ignore_index, ROWS)  # [ROWS]
    x_rows = X + row * (stride * UNIT)  # [ROWS]
    m, total, _ = row_sums(x_rows[:, None], None, kept[:, None], V, ROWS, BLOCK)  # [ROWS], [ROWS]

    known = kept & (target >= 0) & (target < V)  # [ROWS]  the others are refused by the wrapper
    x_target = tl.load(x_rows + target, known, 0.0).to(tl.float32)  # [ROWS]
    loss = (m - x_target) + tl.log(tl.where(kept, total, 1.0))  # [ROWS]  the large numbers first: they nearly cancel
    tl.store(LOSS + row, tl.where(kept, loss, 0.0), row < rows)


@triton.jit
def survey(TARGETS, LOSS, rows, ignore_index, BLOCK: tl.constexpr):
    """Of all rows together.   ->   the sum of LOSS (0 if None), number of kept targets, lowest and highest of them"""
    total = tl.zeros([BLOCK], tl.float32)  # [BLOCK]
    count = tl.zeros([BLOCK], tl.int32)  # [BLOCK]
    lowest = tl.full([BLOCK], 2**62, tl.int64)  # [BLOCK]
    highest = tl.full([BLOCK], -1, tl.int64)  # [BLOCK]
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)  # [BLOCK]
        target = tl.load(TARGETS + row, row < rows, ignore_index).to(tl.int64)  # [BLOCK]
        kept = target != ignore_index  # [BLOCK]
        if LOSS is not None:
            total += tl.load(LOSS + row, row < rows, 0.0)
        count += kept.to(tl.int32)
        lowest = tl.minimum(lowest, tl.where(kept, target, lowest))
        highest = tl.maximum(highest, tl.where(kept, target, highest))
    number = tl.sum(count, 0)
    return tl.sum(total, 0), number, tl.min(lowest, 0), tl.max(highest, 0)


@triton.jit
def mean_loss_kernel(
    LOSS, TARGETS, MEAN, RANGE,  # (rows,) float32, (rows,), one number, lowest and highest kept target
    rows, ignore_index,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The mean over the kept targets, nan if there is none, and what range they span."""
    total, number, lowest, highest = survey(TARGETS, LOSS, rows, ignore_index, BLOCK)
    mean = tl.where(number > 0, total / tl.maximum(number, 1), float("nan"))
    tl.store(MEAN, mean.to(MEAN.dtype.element_ty))
    tl.store(RANGE, lowest)
    tl.store(RANGE + 1, highest)


@triton.jit
def factor_kernel(
    TARGETS, DLOSS, FACTOR, RANGE,  # (rows,), one number, one float32, lowest and highest kept target
    rows, ignore_index,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """dloss / number of kept targets, and what range they span."""
    _, number, lowest, highest = survey(TARGETS, None, rows, ignore_index, BLOCK)
    tl.store(FACTOR, tl.load(DLOSS).to(tl.float32) / tl.maximum(number, 1))
    tl.store(RANGE, lowest)
    tl.store(RANGE + 1, highest)


@triton.jit
def cross_entropy_backward_kernel(
    X, TARGETS, FACTOR, DX,  # (rows, V); (rows,); one float32; (rows, V), perhaps X itself
    rows, stride, dx_stride, ignore_index,  # rows of X and DX lie so many strides · UNIT apart
    V: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, target, kept = load_targets(TARGETS, rows, ignore_index, ROWS)  # [ROWS]
    x_rows = X + row * (stride * UNIT)  # [ROWS]
    m, total, _ = row_sums(x_rows[:, None], None, kept[:, None], V, ROWS, BLOCK)  # [ROWS], [ROWS]

    factor = tl.load(FACTOR)
    base = finite(m)  # [ROWS]
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)  # [BLOCK]
        here = kept[:, None] & (v < V)[None, :]  # [ROWS, BLOCK]
        x = tl.load(x_rows[:, None] + v[None, :], here, float("-inf")).to(tl.float32)  # [ROWS, BLOCK]
        share = tl.exp(x - base[:, None]) / total[:, None]  # [ROWS, BLOCK]
        dx = (share - (v[None, :] == target[:, None]).to(tl.float32)) * factor  # [ROWS, BLOCK]
        dx = tl.where(kept[:, None], dx, 0.0)
        place = DX + row[:, None] * (dx_stride * UNIT) + v[None, :]
        tl.store(place, dx.to(DX.dtype.element_ty), (row < rows)[:, None] & (v < V)[None, :])


@arrays
def cross_entropy(
    logits: Array, targets: Array, ignore_index: int = -100, *, tile: dict[str, Any] | None = None
) -> Array:
    """Minus the logarithm of the probability of the target, in nats, averaged over the targets that count.

    logits (..., V)   targets (...) integer   ->   scalar; nan if every target is ignored, as in torch.
    InputError for a target that is neither in the vocabulary nor ignored.
    """
    check_floats("cross_entropy", logits=logits)
    check_targets("cross_entropy", logits, targets)
    flat, targets = as_rows(logits), targets.reshape(-1).contiguous()
    rows, V = flat.shape
    loss, mean, span = empty((rows,), logits, "float32"), empty((), logits), empty((2,), logits, "int64")
    if rows:
        tile, unit = tile or config(V, rows), unit_of(flat.stride(0))
        row_loss_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
            flat, targets, loss, rows, flat.stride(0) // unit, ignore_index, V=V, UNIT=unit, **tile
        )
    mean_loss_kernel[(1,)](loss, targets, mean, span, rows, ignore_index, BLOCK=1024, num_warps=4)
    check_range(span, V)
    return mean


@arrays
def cross_entropy_backward(
    dout: Array, logits: Array, targets: Array, ignore_index: int = -100, *, tile: dict[str, Any] | None = None
) -> Array:
    """The gradient of `cross_entropy` for its logits, in an array of its own.

    dout scalar   logits (..., V)   targets (...) integer   ->   (..., V); 0 where the target is ignored.
    InputError for a target that is neither in the vocabulary nor ignored.
    """
    dx = empty(tuple(logits.shape), logits)
    _backward("cross_entropy_backward", dout, as_rows(logits), dx, logits, targets, ignore_index, tile)
    return dx


@arrays
def cross_entropy_backward_in_place(
    dout: Array, logits: Array, targets: Array, ignore_index: int = -100, *, tile: dict[str, Any] | None = None
) -> Array:
    """The same, WRITTEN OVER THE LOGITS, which are gone afterwards. Nothing else in minivl writes into an argument.

    Raises OpsError for logits whose rows are not contiguous: the gradient would go into a copy of them.
    """
    flat = as_rows(logits)
    if flat.data_ptr() != logits.data_ptr():
        raise OpsError(
            f"cross_entropy_backward_in_place: logits of shape {tuple(logits.shape)} have strides"
            f" {tuple(logits.stride())}, and rows of neighbouring numbers are needed: use cross_entropy_backward"
        )
    _backward("cross_entropy_backward_in_place", dout, flat, flat, logits, targets, ignore_index, tile)
    return logits


def _backward(
    op: str, dout: Array, flat: Array, out: Array, logits: Array, targets: Array, ignore_index: int,
    tile: dict[str, Any] | None,
) -> None:  # fmt: skip
    """Check, and write the gradient to `out`.   flat (rows, V)   out of as many numbers"""
    check_floats(op, logits=logits)
    check_floats(op, dout=dout)
    check_targets(op, logits, targets)
    if dout.numel() != 1:
        raise OpsError(f"{op}: dout has shape {tuple(dout.shape)}, and the loss is one number")
    targets, out, (rows, V) = targets.reshape(-1).contiguous(), as_rows(out), flat.shape
    factor, span = empty((), flat, "float32"), empty((2,), flat, "int64")
    factor_kernel[(1,)](targets, dout, factor, span, rows, ignore_index, BLOCK=1024, num_warps=4)
    check_range(span, V)
    if rows:
        tile, unit = tile or config(V, rows), unit_of(flat.stride(0), out.stride(0))
        cross_entropy_backward_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
            flat, targets, factor, out, rows, flat.stride(0) // unit, out.stride(0) // unit, ignore_index,
            V=V, UNIT=unit, **tile,
        )  # fmt: skip


def check_targets(op: str, logits: Array, targets: Array) -> None:
    """Raise InputError unless there is one target for each row of logits (..., V)."""
    if tuple(targets.shape) != tuple(logits.shape[:-1]):
        raise InputError(
            f"{op}: targets have shape {tuple(targets.shape)}, logits {tuple(logits.shape)}: one target is needed for"
            " each row of logits"
        )


def check_range(span: Array, V: int) -> None:
    """Raise InputError for targets outside the vocabulary.   span (2,): the lowest and the highest"""
    lowest, highest = span.tolist()
    if lowest < 0 or highest >= V:
        raise InputError(f"labels run from {lowest} to {highest}, the vocabulary from 0 to {V - 1}")
