r"""What the logits should change by so that a model is less surprised: softmax, minus 1 at the right word.

    loss = mean over targets != ignore_index of   log Σ_v exp(x_v) - x_target
    dx_v = dloss / number of such targets · (exp(x_v) / Σ exp(x) - [v = target])        0 in an ignored row

In words: each word is pushed down by the share it was given, and the right one up by what it lacked.

The trick: maximum and sum are found again in one loop (`add_block` in softmax_rows.py), as in the forward pass, so
nothing is kept but the logits. And the gradient may be written where the logits are: a program has read the whole of
its rows before it writes the first number, and no other program reads them. For V = 50,304 words logits are by far the
largest array of a training step, and a second one of that size is what the memory would be spent on.

    memory      the logits twice (the second time mostly from the cache), the gradient once; 98 KiB a row in float16
    schedule    a single program counts the targets and finds their range, so that one outside the vocabulary is refused
                (the computer waits for those two numbers); then one program takes ROWS rows

The plain version is `cross_entropy_backward` in minivl/ops/backward.py.
"""

from minivl.errors import InputError, OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.cross_entropy import config
from minivl.kernels.launch import arrays, empty, tl, triton
from minivl.kernels.rows import as_rows, unit_of
from minivl.kernels.softmax_rows import add_block, finite


@triton.jit
def factor_kernel(
    TARGETS, DLOSS, FACTOR, RANGE,  # (rows,), one number, one float32, lowest and highest kept target
    rows, ignore_index,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """dloss / number of kept targets, and what range they span."""
    count = tl.zeros([BLOCK], tl.int32)  # [BLOCK]
    lowest = tl.full([BLOCK], 2**62, tl.int64)  # [BLOCK]
    highest = tl.full([BLOCK], -1, tl.int64)  # [BLOCK]
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)  # [BLOCK]
        target = tl.load(TARGETS + row, row < rows, ignore_index).to(tl.int64)  # [BLOCK]
        kept = target != ignore_index  # [BLOCK]
        count += kept.to(tl.int32)
        lowest = tl.minimum(lowest, tl.where(kept, target, lowest))
        highest = tl.maximum(highest, tl.where(kept, target, highest))
    tl.store(FACTOR, tl.load(DLOSS).to(tl.float32) / tl.maximum(tl.sum(count, 0), 1))
    tl.store(RANGE, tl.min(lowest, 0))
    tl.store(RANGE + 1, tl.max(highest, 0))


@triton.jit
def cross_entropy_backward_kernel(
    X, TARGETS, FACTOR, DX,  # (rows, V); (rows,); one float32; (rows, V), perhaps X itself
    rows, stride, dx_stride, ignore_index,  # rows of X and DX lie so many strides · UNIT apart
    V: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    target = tl.load(TARGETS + row, row < rows, ignore_index)  # [ROWS]
    kept = (row < rows) & (target != ignore_index)  # [ROWS]
    x_rows = X + row * (stride * UNIT)  # [ROWS]

    m = tl.full([ROWS], float("-inf"), tl.float32)  # [ROWS]
    total = tl.zeros([ROWS], tl.float32)  # [ROWS]
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)  # [BLOCK]
        here = kept[:, None] & (v < V)[None, :]  # [ROWS, BLOCK]
        x = tl.load(x_rows[:, None] + v[None, :], here, float("-inf")).to(tl.float32)  # [ROWS, BLOCK]
        m, total = add_block(m, total, x)

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
def cross_entropy_backward(dout, logits, targets, ignore_index=-100, tile=None):
    """What the logits of `cross_entropy` should change by, in an array of its own.

    dout scalar   logits (..., V)   targets (...) integer   ->   (..., V); 0 where the target is ignored.
    InputError for a target that is neither in the vocabulary nor ignored.
    """
    dx = empty(tuple(logits.shape), logits)
    _backward("cross_entropy_backward", dout, as_rows(logits), dx, logits, targets, ignore_index, tile)
    return dx


@arrays
def cross_entropy_backward_in_place(dout, logits, targets, ignore_index=-100, tile=None):
    """The same, WRITTEN OVER THE LOGITS, which are gone afterwards. Nothing else in minivl writes into an argument.

    Raises OpsError for logits of which only a copy has rows of neighbouring numbers: it is the copy that would change.
    """
    flat = as_rows(logits)
    if flat.data_ptr() != logits.data_ptr():
        raise OpsError(
            f"cross_entropy_backward_in_place: logits of shape {tuple(logits.shape)} have strides"
            f" {tuple(logits.stride())}, and rows of neighbouring numbers are needed: use cross_entropy_backward"
        )
    _backward("cross_entropy_backward_in_place", dout, flat, flat, logits, targets, ignore_index, tile)
    return logits


def _backward(op, dout, flat, out, logits, targets, ignore_index, tile):
    """Check, and write the gradient to `out`.   flat (rows, V)   out of as many numbers"""
    check_floats(op, logits=logits)
    check_floats(op, dout=dout)
    if tuple(targets.shape) != tuple(logits.shape[:-1]):
        raise InputError(
            f"{op}: targets have shape {tuple(targets.shape)}, logits {tuple(logits.shape)}: one target is needed for"
            " each row of logits"
        )
    if dout.numel() != 1:
        raise OpsError(f"{op}: dout has shape {tuple(dout.shape)}, and the loss is one number")
    targets, out, (rows, V) = targets.reshape(-1).contiguous(), as_rows(out), flat.shape
    factor, span = empty((), flat, "float32"), empty((2,), flat, "int64")
    factor_kernel[(1,)](targets, dout, factor, span, rows, ignore_index, BLOCK=1024, num_warps=4)
    lowest, highest = span.tolist()
    if lowest < 0 or highest >= V:
        raise InputError(f"labels run from {lowest} to {highest}, the vocabulary from 0 to {V - 1}")
    if rows:
        tile, unit = tile or config(V, rows), unit_of(flat.stride(0), out.stride(0))
        cross_entropy_backward_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
            flat, targets, factor, out, rows, flat.stride(0) // unit, out.stride(0) // unit, ignore_index,
            V=V, UNIT=unit, **tile,
        )  # fmt: skip
