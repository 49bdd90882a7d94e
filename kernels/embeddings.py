r"""Rows of a table, one for each token, and the gradient of the table.

    y[t] = table[ids[t]]
    dtable[v] = Σ dy[t] over the tokens t with ids[t] = v           0 for a row that no token read

In words: each token reads its row of the embedding table; backward, each row collects what its tokens were given.

The trick, backward, is to gather instead of scattering. If every token added its gradient to the table, tokens with the
same id would meet at one row, and only atomics would keep them apart, in an order that changes from run to run. So the
tokens are sorted by their id first (by torch or NumPy, in a stable sort). Then the tokens of row v lie side by side;
the program that owns the row finds the first of them by binary search, ⌈log2(tokens)⌉ look-ups, and adds them up in
float32 in the order of the text. Every row is written by exactly one program, the empty ones too, so the table need not
be cleared before.

An id outside the table must be refused: NumPy would count a negative one from the end, and a GPU would read whatever
lies there. `survey_kernel` finds the lowest and the highest id, and the host waits for those numbers. The gathering
kernels leave ids outside the table unread in any case.

    memory      forward: the rows once, the result once.
                backward: dy once, and the whole table once: a dense gradient of 50,304 rows costs that
    schedule    forward: one program takes ROWS tokens x BLOCK columns. Backward: ROWS rows of the table x BLOCK
                columns, for as many steps as the most frequent of its ids has tokens

The plain versions are `embed` in minivl/ops/plain.py and `embed_backward` in minivl/ops/backward.py.
"""

from typing import Any

import numpy as np

from minivl.errors import InputError, OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import Array, HostArray, arrays, empty, tl, triton
from minivl.kernels.rows import as_rows, rows_per_program, unit_of

WIDEST = 4096  # columns of a block
SURVEYED = 4096  # ids that one program of survey_kernel looks at


def config(C: int, rows: int = 1 << 20) -> dict[str, Any]:
    """The tile that ships for `rows` tokens of width C, or backward for so many rows of the table."""
    block = min(triton.next_power_of_2(C), WIDEST)
    return dict(BLOCK=block, ROWS=rows_per_program(block, rows, 1024), num_warps=min(max(block, 1024) // 256, 8))


@triton.jit
def survey_kernel(IDS, SEEN, count, BLOCK: tl.constexpr):  # (count,); (programs, 2): lowest and highest id
    program = tl.program_id(0).to(tl.int64)
    i = program * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    id = tl.load(IDS + i, i < count, 0).to(tl.int64)  # [BLOCK]
    tl.store(SEEN + program * 2, tl.min(id, 0))
    tl.store(SEEN + program * 2 + 1, tl.max(id, 0))


@triton.jit
def embed_kernel(
    IDS, TABLE, OUT,  # (count,), (V, C) with rows stride · UNIT apart, (count, C)
    count, V, stride,
    C: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    id = tl.load(IDS + t, t < count, -1).to(tl.int64)  # [ROWS]
    here = (id >= 0)[:, None] & (id < V)[:, None] & (c < C)[None, :]  # [ROWS, BLOCK]
    row = tl.load(TABLE + id[:, None] * (stride * UNIT) + c[None, :], here)  # [ROWS, BLOCK]
    tl.store(OUT + t[:, None] * C + c[None, :], row, here)


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
def embed(ids: Array, table: Array, *, tile: dict[str, Any] | None = None) -> Array:
    """Row ids[...] of the table, one for each token.

    ids (...) integer   table (V, C)   ->   (..., C)
    InputError for an id outside the table: a negative one would count from its end.
    """
    (V, C), count = table.shape, ids.numel()
    out = empty((*ids.shape, C), table)
    if not count:
        return out
    flat, table = ids.reshape(-1).contiguous(), as_rows(table)
    check_ids(flat, V)
    tile, unit = tile or config(C, count), unit_of(table.stride(0))
    grid = triton.cdiv(count, tile["ROWS"]), triton.cdiv(C, tile["BLOCK"])
    embed_kernel[grid](flat, table, out, count, V, table.stride(0) // unit, C=C, UNIT=unit, **tile)
    return out


@arrays
def embed_backward(dout: Array, ids: Array, table: Array, *, tile: dict[str, Any] | None = None) -> Array:
    """The gradient of `embed` for its table.

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
        check_ids(flat, V)
    ordered, order = _sorted(flat)
    if V and C:
        tile, unit = tile or config(C, V), unit_of(dy.stride(0))
        embed_backward_kernel[(triton.cdiv(V, tile["ROWS"]), triton.cdiv(C, tile["BLOCK"]))](
            ordered, order, dy, dtable, count, V, dy.stride(0) // unit, C=C, UNIT=unit, STEPS=count.bit_length(), **tile
        )
    return dtable


def check_ids(ids: Array, V: int) -> None:
    """Raise InputError for an id outside a table of V rows.   ids (count,), contiguous, at least one"""
    count = ids.numel()
    programs = triton.cdiv(count, SURVEYED)
    seen = empty((programs, 2), ids, "int64")
    survey_kernel[(programs,)](ids, seen, count, BLOCK=min(triton.next_power_of_2(count), SURVEYED), num_warps=4)
    lowest, highest = zip(*seen.tolist(), strict=True)
    if min(lowest) < 0 or max(highest) >= V:
        wrong = min(lowest) if min(lowest) < 0 else max(highest)
        raise InputError(f"token id {wrong} has no embedding: the table has {V} rows, ids run from 0 to {V - 1}")


def _sorted(ids: Array) -> tuple[Array, Array]:
    """The ids in order, and which token each belongs to; tokens of one id stay in the order of the text."""
    if isinstance(ids, HostArray):
        order = np.argsort(ids.array, kind="stable")
        return HostArray(ids.array[order]), HostArray(order)
    return ids.sort(stable=True)
