r"""What a table of words should change by: each row gets what all the tokens that read it were given.

    dtable[v] = Σ dy[t] over the tokens t with ids[t] = v           0 for a row that nobody read

In words: a word that occurs three times in a text learns three times.

The trick turns the scattering around. If every token added its row to the table, tokens of one word would meet at one
row, and only atomics would keep them apart, in an order that changes from run to run. So the tokens are sorted by their
id first (by torch or NumPy; the order of equal ids stays). Then the tokens of row v lie side by side, the program that
owns the row finds the first of them by halving, ⌈log2(tokens)⌉ look-ups, and adds them up in float32 in the order of
the text. Every row is written by exactly one program, the empty ones too: the table need not be cleared before.

    memory      dy once; the whole table written once: that is what a dense gradient of 50,304 rows costs
    schedule    one program takes ROWS rows of the table x BLOCK columns, as long as its most frequent word is: a word
                that occurs n times is n steps, one after the other

The plain version is `embed_backward` in minivl/ops/backward.py.
"""

import numpy as np

from minivl.errors import OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.embeddings import config, most_words
from minivl.kernels.launch import HostArray, arrays, empty, tl, triton
from minivl.kernels.rows import as_rows, unit_of


@triton.jit
def first_at_least(SORTED, v, count, STEPS: tl.constexpr):
    """How many of `count` sorted ids are smaller than v.   v [ROWS] -> [ROWS]"""
    found = tl.zeros_like(v)  # [ROWS]
    for i in range(STEPS):
        ahead = found + ((1 << STEPS) >> (i + 1))  # [ROWS]
        id = tl.load(SORTED + ahead - 1, ahead <= count, 2**31 - 1).to(tl.int64)  # [ROWS]
        found = tl.where((ahead <= count) & (id < v), ahead, found)
    return found


@triton.jit
def embed_backward_kernel(
    SORTED, ORDER, DY, DTABLE,  # (count,) ids and their tokens; (count, C), rows stride · UNIT apart; (V, C)
    count, V, stride,
    C: tl.constexpr, UNIT: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    v = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    first = first_at_least(SORTED, v, count, STEPS)  # [ROWS]
    number = first_at_least(SORTED, v + 1, count, STEPS) - first  # [ROWS]
    acc = tl.zeros([ROWS, BLOCK], tl.float32)  # [ROWS, BLOCK]
    for i in range(0, tl.max(number, 0)):
        t = tl.load(ORDER + first + i, i < number, 0)  # [ROWS]
        here = (i < number)[:, None] & (c < C)[None, :]  # [ROWS, BLOCK]
        acc += tl.load(DY + t[:, None] * (stride * UNIT) + c[None, :], here, 0.0).to(tl.float32)
    here = (v < V)[:, None] & (c < C)[None, :]  # [ROWS, BLOCK]
    tl.store(DTABLE + v[:, None] * C + c[None, :], acc.to(DTABLE.dtype.element_ty), here)


@arrays
def embed_backward(dout, ids, table, tile=None):
    """What the table of `embed` should change by.

    dout (..., C)   ids (...) integer   table (V, C)   ->   (V, C); the table's numbers are not read
    InputError for an id outside the table.
    """
    check_floats("embed_backward", table=table, dout=dout)
    (V, C), count = table.shape, ids.numel()
    if tuple(dout.shape) != (*ids.shape, C):
        raise OpsError(
            f"embed_backward: dout has shape {tuple(dout.shape)}, and {(*ids.shape, C)} fits ids {tuple(ids.shape)}"
        )
    dtable, dy, flat = empty((V, C), table), as_rows(dout), ids.reshape(-1).contiguous()
    if count:
        most_words(flat.reshape(1, count), table, -1)
    ordered, order = _sorted(flat)
    if V and C:
        tile, unit = tile or config(C, V), unit_of(dy.stride(0))
        embed_backward_kernel[(triton.cdiv(V, tile["ROWS"]), triton.cdiv(C, tile["BLOCK"]))](
            ordered, order, dy, dtable, count, V, dy.stride(0) // unit, C=C, UNIT=unit, STEPS=count.bit_length(), **tile
        )
    return dtable


def _sorted(ids):
    """The ids in order, and which token each belongs to; tokens of one id stay in the order of the text."""
    if isinstance(ids, HostArray):
        order = np.argsort(ids.array, kind="stable")
        return HostArray(ids.array[order]), HostArray(order)
    return ids.sort(stable=True)
