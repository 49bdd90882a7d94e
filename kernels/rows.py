"""What the wrappers of row-wise kernels share: any array as a stack of rows, and how its strides are told to Triton."""

import math

from minivl.errors import OpsError
from minivl.kernels.launch import INTERPRETED, Array, triton

INTERPRETED_TILE = 1 << 18  # elements of a program in the interpreter, which pays per operation and not per element


def as_rows(x: Array) -> Array:
    """x (..., C) -> (rows, C) whose rows have neighbouring elements; a view where that is possible."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def unit_of(*strides: int) -> int:
    """The largest power of two up to 16 that divides every stride (and width).

    Triton only notices that an integer argument is a multiple of 16. A row stride of 88 would cost the wide loads, so
    strides travel as stride // UNIT, and the kernel, where UNIT is a constant, multiplies.
    """
    return math.gcd(16, *strides)


def rows_per_program(width: int, rows: int, tile: int) -> int:
    """How many rows of `width` elements make a tile of about `tile` elements: a power of two, at least 1."""
    if INTERPRETED:
        tile = min(INTERPRETED_TILE, width * triton.next_power_of_2(rows))
    return max(1, tile // width)


def check_width(op: str, width: int, **given: Array | None) -> None:
    """Raise OpsError for a vector that does not have one element for each of the `width` columns."""
    for name, x in given.items():
        if x is not None and tuple(x.shape) != (width,):
            raise OpsError(f"{op}: {name} has shape {tuple(x.shape)}, the rows need ({width},)")
