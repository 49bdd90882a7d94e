"""The watched interpreter: each kind of fault planted in a tiny kernel and named in full; counts worked out by hand."""

import inspect

import numpy as np
import pytest
import torch

from minivl.kernels.launch import INTERPRETED, HostArray, tl, triton

if not INTERPRETED:
    pytest.skip("kernels are compiled in this run", allow_module_level=True)

from minivl.kernels.checking.checked import KernelFault, checked


@triton.jit
def copy_kernel(X, Y, n, first, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    i = first + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    if MASKED:
        x = tl.load(X + i, (i >= 0) & (i < n), 0.0)  # masked load
    else:
        x = tl.load(X + i)  # bare load
    tl.store(Y + i, x, i < n)  # store


@triton.jit
def same_place_kernel(X, Y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)  # [BLOCK]
    tl.store(Y + i, tl.load(X + i))  # every program stores to the same place


@triton.jit
def neighbour_kernel(Y, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    i = tl.arange(0, BLOCK)  # [BLOCK]
    here = tl.load(Y + ((program + 1) % 2) * BLOCK + i)  # reads what the other one writes
    tl.store(Y + program * BLOCK + i, here + 1.0)


@triton.jit
def rows_kernel(X, Y, rows, width, stride, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    r, c = tl.arange(0, ROWS), tl.arange(0, WIDTH)  # [ROWS], [WIDTH]
    kept = (r < rows)[:, None] & (c < width)[None, :]
    x = tl.load(X + r[:, None] * stride + c[None, :], kept, 0.0)  # rows of X
    tl.store(Y + r, tl.sum(x, 1), r < rows)


@triton.jit
def shift(P, by):
    return tl.load(P + by)  # inside a function


@triton.jit
def calling_kernel(X, Y):
    tl.store(Y, shift(X, 5))


@triton.jit
def add_up_kernel(X, TOTAL, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    tl.atomic_add(TOTAL, tl.sum(tl.load(X + i, i < n, 0.0), 0))


@triton.jit
def add_and_read_kernel(X, TOTAL, Y):
    tl.atomic_add(TOTAL, tl.load(X))
    tl.store(Y + tl.program_id(0), tl.load(TOTAL))  # too early: others may still add


@triton.jit
def unordered_lanes_kernel(X, Y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)  # [BLOCK]
    tl.store(Y + i // 2, tl.load(X + i))  # two lanes to one place


@triton.jit
def keep_kernel(X, KEEP, Y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)  # [BLOCK]
    keep = tl.load(KEEP + i)  # truth values, one too many
    tl.store(Y + i, tl.where(keep, tl.load(X + i, i < n, 0.0), 0.0), i < n)


@triton.jit
def far_keep_kernel(KEEP, X, Y):
    tl.store(Y, tl.where(tl.load(KEEP + 16), tl.load(X), 0.0))


@triton.jit
def product_kernel(A, B, C, K: tl.constexpr, N: tl.constexpr):
    m, k, n = tl.arange(0, 16), tl.arange(0, K), tl.arange(0, N)  # [16], [K], [N]
    a = tl.load(A + m[:, None] * K + k[None, :])  # [16, K]
    b = tl.load(B + k[:, None] * N + n[None, :])  # [K, N]
    c = tl.dot(a, b, tl.zeros([16, N], tl.float32))  # [16, N]
    tl.store(C + m[:, None] * N + n[None, :], tl.exp(c) * 2.0)


def line_of(kernel, comment):
    """Where a kernel has the line with this comment: "test_checked.py:12 `...`"."""
    lines, first = inspect.getsourcelines(kernel.fn)
    (number,) = (first + k for k, line in enumerate(lines) if comment in line)
    return f"test_checked.py:{number} `{lines[number - first].strip()}`"


def fault(kernel, grid, *args, **options):
    with pytest.raises(KernelFault) as caught, checked():
        kernel[grid](*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_load_past_the_end():
    x, y = torch.randn(40), torch.empty(48)
    message = fault(copy_kernel, (3,), x, y, 40, 0, BLOCK=16, MASKED=False)
    assert message == (
        f"{line_of(copy_kernel, 'bare load')}: program (2, 0, 0) loads element 40 of X, past its end"
        " (it spans 40; shape (40,)) and 7 more"
    )


def test_a_load_just_past_the_end_where_another_argument_begins():
    both = torch.randn(80)
    message = fault(copy_kernel, (2,), both[:33], both[33:], 33, 2, BLOCK=16, MASKED=False)
    assert "loads element 33 of X, past its end (it spans 33" in message and "more" not in message


def test_a_store_before_the_start():
    x, y = torch.randn(40), torch.empty(40)
    message = fault(copy_kernel, (2,), x, y, 40, -3, BLOCK=16, MASKED=True)
    assert message == (
        f"{line_of(copy_kernel, '# store')}: program (0, 0, 0) stores element -3 of Y, before its start and 2 more"
    )


def test_a_store_past_the_end():
    x, y = torch.randn(40), torch.empty(39)
    message = fault(copy_kernel, (2, 1, 1), x, y, 40, 8, BLOCK=16, MASKED=True)
    assert message.startswith(line_of(copy_kernel, "# store"))
    assert "program (1, 0, 0) stores element 39 of Y, past its end (it spans 39; shape (39,))" in message


def test_a_load_from_the_gap_between_padded_rows():
    x, y = torch.randn(3, 12)[:, :10], torch.empty(3)
    message = fault(rows_kernel, (1,), x, y, 3, 11, 12, ROWS=4, WIDTH=16)
    assert "loads element 10 of X, in the gap between rows (shape (3, 10), strides (12, 1)) and 2 more" in message


def test_a_wrong_stride_that_stays_inside_falls_into_a_gap():
    x, y = torch.randn(3, 12)[:, :10], torch.empty(3)
    assert "in the gap" in fault(rows_kernel, (1,), x, y, 3, 10, 11, ROWS=4, WIDTH=16)


@pytest.mark.parametrize("layout", ["transposed", "expanded", "every second"])
def test_strides_that_are_no_rows_are_understood(layout):
    base = torch.randn(16, 16)
    x, stride = {"transposed": (base.T, 16), "expanded": (base[0].expand(4, 16), 0), "every second": (base[::2], 32)}[
        layout
    ]
    y = torch.empty(4)
    with checked():
        rows_kernel[(1,)](x, y, 4, 16, stride, ROWS=4, WIDTH=16)
    wanted = base[: 4 * (stride // 16) or 1 : stride // 16 or 1].sum(1).expand(4)
    torch.testing.assert_close(y, wanted)


def test_rows_that_overlap_have_an_end_too():
    windows, y = torch.randn(11)[:10].as_strided((4, 4), (2, 1)), torch.empty(4)
    with checked():
        rows_kernel[(1,)](windows, y, 4, 4, 2, ROWS=4, WIDTH=4)
    torch.testing.assert_close(y, windows.sum(1))
    message = fault(rows_kernel, (1,), windows, y, 4, 5, 2, ROWS=4, WIDTH=8)
    assert "loads element 10 of X, past its end (it spans 10; shape (4, 4))" in message and "more" not in message


@pytest.mark.parametrize("grid, second", [((3,), (1, 0, 0)), ((1, 3), (0, 1, 0)), ((1, 1, 3), (0, 0, 1))])
def test_two_programs_that_store_to_one_element(grid, second):
    message = fault(same_place_kernel, grid, torch.randn(16), torch.empty(16), BLOCK=16)
    assert message == (
        f"{line_of(same_place_kernel, 'every program')}: race: program {second} stores element 0 of Y, which"
        " program (0, 0, 0) stores, and nothing orders the two (16 such elements)"
    )


def test_a_program_that_reads_what_another_writes():
    message = fault(neighbour_kernel, (2,), torch.zeros(32), BLOCK=16)
    assert "race: program (1, 0, 0) loads element 0 of Y, which program (0, 0, 0) stores" in message


def test_a_race_between_two_arguments_that_overlap():
    x = torch.randn(33)
    message = fault(copy_kernel, (2,), x[:32], x[1:], 32, 0, BLOCK=16, MASKED=True)
    assert "race: program (1, 0, 0) loads element 16 of X, which program (0, 0, 0) stores" in message


def test_a_race_is_between_programs_of_one_launch():
    x, y = torch.randn(16), torch.empty(16)
    with checked() as report:
        same_place_kernel[(1,)](x, y, BLOCK=16)
        same_place_kernel[(1,)](y, x, BLOCK=16)
    assert report.launches == 2 and report.programs == 2


def test_an_atomic_is_no_race():
    x, total = torch.ones(40), torch.zeros(1)
    with checked() as report:
        add_up_kernel[(3,)](x, total, 40, BLOCK=16)
    assert total.item() == 40
    assert report.stores["TOTAL"].bytes == 3 * 4 and report.stores["TOTAL"].unique_bytes == 4


def test_an_atomic_and_a_plain_load_are_a_race():
    message = fault(add_and_read_kernel, (2,), torch.ones(1), torch.zeros(1), torch.zeros(2))
    assert "race: program (1, 0, 0) changes (atomic) element 0 of TOTAL, which program (0, 0, 0) loads" in message


def test_two_lanes_that_store_to_one_element():
    message = fault(unordered_lanes_kernel, (1,), torch.arange(16.0), torch.empty(8), BLOCK=16)
    assert message == (
        f"{line_of(unordered_lanes_kernel, 'two lanes')}: program (0, 0, 0) stores two different values at once to"
        " element 0 of Y"
    )
    with checked():
        unordered_lanes_kernel[(1,)](torch.ones(16), torch.empty(8), BLOCK=16)  # the same value twice does no harm


def test_a_fault_inside_a_function_names_the_line_of_the_function():
    message = fault(calling_kernel, (1,), torch.randn(5), torch.empty(1))
    assert message.startswith(f"{line_of(shift, 'inside a function')}: program (0, 0, 0) loads element 5 of X")


def test_truth_values_are_watched_too():
    keep = torch.ones(17, dtype=torch.bool)[:15]
    message = fault(keep_kernel, (1,), torch.randn(15), keep, torch.empty(15), 15, BLOCK=16)
    assert message.startswith(line_of(keep_kernel, "truth values")) and "element 15 of KEEP" in message


def test_truth_values_past_the_end_where_another_argument_begins():
    both = torch.zeros(20, dtype=torch.uint8)
    keep, x = both[:16].view(torch.bool), both[16:].view(torch.float32)
    assert "loads element 16 of KEEP, past its end" in fault(far_keep_kernel, (1,), keep, x, torch.empty(1))


def test_arguments_given_by_name_and_numpy_arrays():
    x, y = np.ones(40, np.float32), np.empty(48, np.float32)
    message = fault(copy_kernel, (3,), HostArray(x), Y=HostArray(y), n=40, first=0, BLOCK=16, MASKED=False)
    assert "program (2, 0, 0) loads element 40 of X" in message
    with checked():
        copy_kernel[(3,)](HostArray(x), HostArray(y), 40, 0, BLOCK=16, MASKED=True)
    np.testing.assert_array_equal(y[:40], x)


def test_checks_can_be_switched_off_and_end_with_the_block():
    wide, y = torch.randn(48), torch.empty(48)
    x = wide[:40]  # eight elements further on is still memory of ours
    with checked(bounds=False) as report:
        copy_kernel[(3,)](x, y, 48, 0, BLOCK=16, MASKED=False)
    assert report.bytes_loaded == 48 * 4
    with checked(races=False):
        same_place_kernel[(2,)](wide[:16], y[:16], BLOCK=16)
    with pytest.raises(KernelFault), checked():
        same_place_kernel[(2,)](wide[:16], y[:16], BLOCK=16)
    same_place_kernel[(2,)](wide[:16], y[:16], BLOCK=16)
    copy_kernel[(3,)](x, y, 48, 0, BLOCK=16, MASKED=False)
    torch.testing.assert_close(y, wide)


def test_a_block_within_a_block_counts_for_itself():
    x, y = torch.randn(16), torch.empty(16)
    with checked() as outer:
        same_place_kernel[(1,)](x, y, BLOCK=16)
        with checked() as inner:
            same_place_kernel[(1,)](x, y, BLOCK=16)
        same_place_kernel[(1,)](x, y, BLOCK=16)
    assert (outer.launches, inner.launches) == (2, 1)


def test_another_error_of_a_kernel_stays_what_it_is():
    with pytest.raises(triton.runtime.errors.InterpreterError), checked():
        copy_kernel[(1,)](torch.randn(4), "no tensor", 4, 0, BLOCK=16, MASKED=True)


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("float16", 2), ("bfloat16", 2), ("int8", 1)])
def test_traffic_by_hand(dtype, size):
    """40 elements by three programs of 16 lanes: 8 lanes are masked twice; a sector holds 32 bytes."""
    room = torch.zeros(64 + 16, dtype=getattr(torch, dtype))
    start = -(room.data_ptr() // size) % (32 // size)  # on the border of a sector
    x, y = room[start : start + 40], torch.zeros(40, dtype=getattr(torch, dtype))
    with checked() as report:
        copy_kernel[(3,)](x, y, 40, 0, BLOCK=16, MASKED=True)
    loads = report.loads["X"]
    assert (loads.lanes, loads.masked, loads.bytes, loads.unique_bytes) == (48, 8, 40 * size, 40 * size)
    assert loads.sectors == sum(-(-lanes * size // 32) for lanes in (16, 16, 8))
    assert (report.bytes_stored, report.unique_bytes_stored) == (40 * size, 40 * size)
    assert (report.lanes, report.lanes_masked) == (96, 16)
    assert report.flops == report.dot_flops == report.special == 0


def test_what_several_programs_read_counts_once_as_unique():
    x, y = torch.randn(16), torch.empty(3, 16)
    with checked(races=False) as report:
        same_place_kernel[(3,)](x, y, BLOCK=16)
    assert (report.bytes_loaded, report.unique_bytes_loaded) == (3 * 64, 64)
    assert (report.bytes_stored, report.unique_bytes_stored) == (3 * 64, 64)


def test_scattered_elements_cost_a_sector_each():
    x, y = torch.randn(4, 64), torch.empty(4)
    with checked() as report:
        rows_kernel[(1,)](x, y, 4, 1, 64, ROWS=4, WIDTH=16)
    assert report.loads["X"].bytes == 4 * 4 and report.sectors_loaded == 4
    assert report.lanes_masked == 4 * 15


def test_operations_by_hand():
    a, b, c = torch.randn(16, 32), torch.randn(32, 64), torch.empty(16, 64)
    with checked() as report:
        product_kernel[(1,)](a, b, c, K=32, N=64)
    assert report.dot_flops == 2 * 16 * 64 * 32
    assert report.special == 16 * 64  # exp
    assert report.flops == 16 * 64  # times 2
    torch.testing.assert_close(c, 2 * torch.exp(a @ b))
    assert "1 launches, 1 programs; 65536 FLOPs in products, 1024 beside them, 1024 special" in str(report)
    assert str(report).splitlines()[2].split()[:3] == ["load", "A", str(16 * 32 * 4)]


def test_tf32_only_where_it_is_asked_for():
    a, b, c = torch.randn(16, 32), torch.randn(32, 64), torch.empty(16, 64)
    exact = 2 * torch.exp(a.double() @ b.double())
    errors = []
    for tf32 in (False, True):
        with checked(tf32=tf32):
            product_kernel[(1,)](a, b, c, K=32, N=64)
        errors.append(((c - exact) / exact).abs().max().item())
    assert errors[0] < 2e-5 and 1e-3 < errors[1] < 3e-2
