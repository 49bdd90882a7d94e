r"""How surprised a model is by the right words: softmax cross-entropy in one pass over the vocabulary.

    loss = mean over targets != ignore_index of   log Σ_v exp(x_v) - x_target

In words: the surprise at a word is minus the logarithm of the share that softmax gives it.

The trick: the loss needs one number of the softmax, log Σ exp, and not the softmax itself, so nothing as wide as the
vocabulary is ever written. The maximum and the sum are found in the same loop, the running sum shrinking whenever a
block raises the maximum (`add_block` in softmax_rows.py); x_target is one more load. Rows whose target is ignored are
not read at all.

    memory      the logits once: 50,304 words in float16 are 98 KiB a row. Softmax, logarithm and look-up one after the
                other would read them three times and write them twice.
    schedule    one program takes ROWS rows and leaves one float32 for each; then a single program takes their mean. It
                also finds the lowest and the highest target, so that one outside the vocabulary is refused and not
                taken for another word. Reading those two numbers makes the computer wait for the GPU, once.

The plain version is `cross_entropy` in minivl/ops/numpy.py.
"""

from minivl.errors import InputError
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import arrays, empty, tl, triton
from minivl.kernels.rows import as_rows, rows_per_program, unit_of
from minivl.kernels.softmax_rows import add_block

WIDEST = 4096  # words of a block


def config(V, rows=1 << 20):
    """The tile that ships for `rows` rows of V logits."""
    block = min(triton.next_power_of_2(V), WIDEST)
    return dict(
        BLOCK=block, ROWS=rows_per_program(block, rows, 1024), num_warps=min(max(block, 1024) // 256, 8), num_stages=2
    )


@triton.jit
def row_loss_kernel(
    X, TARGETS, LOSS,  # (rows, V), rows stride · UNIT apart; (rows,); (rows,) float32
    rows, stride, ignore_index,
    V: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """log Σ exp(x) - x_target of every row, 0 where the target is ignored."""
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

    known = kept & (target >= 0) & (target < V)  # [ROWS]  the others are refused by the wrapper
    x_target = tl.load(x_rows + target, known, 0.0).to(tl.float32)  # [ROWS]
    loss = (m - x_target) + tl.log(
        tl.where(kept, total, 1.0)
    )  # [ROWS]  the two large numbers first: they nearly cancel
    tl.store(LOSS + row, tl.where(kept, loss, 0.0), row < rows)


@triton.jit
def mean_loss_kernel(
    LOSS, TARGETS, MEAN, RANGE,  # (rows,) float32, (rows,), one number, lowest and highest kept target
    rows, ignore_index,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The mean over the kept targets, nan if there is none, and what range they span."""
    total = tl.zeros([BLOCK], tl.float32)  # [BLOCK]
    count = tl.zeros([BLOCK], tl.int32)  # [BLOCK]
    lowest = tl.full([BLOCK], 2**62, tl.int64)  # [BLOCK]
    highest = tl.full([BLOCK], -1, tl.int64)  # [BLOCK]
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)  # [BLOCK]
        target = tl.load(TARGETS + row, row < rows, ignore_index).to(tl.int64)  # [BLOCK]
        kept = target != ignore_index  # [BLOCK]
        total += tl.load(LOSS + row, row < rows, 0.0)
        count += kept.to(tl.int32)
        lowest = tl.minimum(lowest, tl.where(kept, target, lowest))
        highest = tl.maximum(highest, tl.where(kept, target, highest))
    number = tl.sum(count, 0)
    mean = tl.where(number > 0, tl.sum(total, 0) / tl.maximum(number, 1), float("nan"))
    tl.store(MEAN, mean.to(MEAN.dtype.element_ty))
    tl.store(RANGE, tl.min(lowest, 0))
    tl.store(RANGE + 1, tl.max(highest, 0))


@arrays
def cross_entropy(logits, targets, ignore_index=-100, tile=None):
    """How surprised the model is by the right answers, on average, in nats.

    logits (..., V)   targets (...) integer   ->   scalar; nan if every target is ignored, as in torch.
    InputError for a target that is neither in the vocabulary nor ignored.
    """
    check_floats("cross_entropy", logits=logits)
    if tuple(targets.shape) != tuple(logits.shape[:-1]):
        raise InputError(
            f"cross_entropy: targets have shape {tuple(targets.shape)}, logits {tuple(logits.shape)}: one target is"
            " needed for each row of logits"
        )
    flat, targets = as_rows(logits), targets.reshape(-1).contiguous()
    rows, V = flat.shape
    loss, mean, span = empty((rows,), logits, "float32"), empty((), logits), empty((2,), logits, "int64")
    if rows:
        tile, unit = tile or config(V, rows), unit_of(flat.stride(0))
        row_loss_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
            flat, targets, loss, rows, flat.stride(0) // unit, ignore_index, V=V, UNIT=unit, **tile
        )
    mean_loss_kernel[(1,)](loss, targets, mean, span, rows, ignore_index, BLOCK=1024, num_warps=4)
    lowest, highest = span.tolist()
    if lowest < 0 or highest >= V:
        raise InputError(f"labels run from {lowest} to {highest}, the vocabulary from 0 to {V - 1}")
    return mean
