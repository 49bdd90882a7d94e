"""How kernels start: the decision before triton is imported, its errors, and NumPy arrays with no torch installed."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from bare_process import WITHOUT

from minivl.kernels import launch
from minivl.kernels.launch import HostArray, arrays, empty, name_of, tl, triton

# A kernel has to stand in a file, so it is written to one.
KERNEL = """
import numpy as np
from minivl.kernels.launch import HostArray, arrays, empty, tl, triton

@triton.jit
def scale_kernel(X, Y, n, by, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(X + i, i < n, 0.0)
    tl.store(Y + i, x * by + tl.sum(x, 0) * 0, i < n)

@arrays
def scale(x, by):
    y = empty(tuple(x.shape), like=x)
    scale_kernel[(1,)](x.contiguous(), y, x.numel(), by, BLOCK=64)
    return y
"""


def run(code, tmp_path, **environment):
    (tmp_path / "kernel_file.py").write_text(KERNEL)
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = os.pathsep.join([os.getcwd(), str(tmp_path)])
    environment = {**kept, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_without_a_gpu_kernels_are_interpreted(tmp_path):
    result = run("import minivl.kernels.launch as l; print(l.INTERPRETED)", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert result.stdout == "True\n", result.stderr


def test_the_variable_decides(tmp_path):
    code = "import minivl.kernels.launch as l; print(l.INTERPRETED, type(l.tl.sum).__name__)"
    result = run(code, tmp_path, TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="")
    assert result.stdout == "False JITFunction\n", result.stderr


@pytest.mark.parametrize("taken, wanted", [("off", "on"), ("on", "off")])
def test_triton_imported_before_in_the_other_mode_is_an_error(taken, wanted, tmp_path):
    change = 'os.environ["TRITON_INTERPRET"] = "0"' if wanted == "off" else 'os.environ.pop("TRITON_INTERPRET")'
    code = f"import os, triton; {change}; import minivl.kernels.launch"
    result = run(code, tmp_path, TRITON_INTERPRET=str(int(taken == "on")), CUDA_VISIBLE_DEVICES="")
    assert result.stderr.splitlines()[-1] == (
        f"minivl.errors.OpsError: triton was imported with TRITON_INTERPRET {taken}, and minivl needs it {wanted}:"
        f" set TRITON_INTERPRET={int(wanted == 'on')} before anything imports triton, or import minivl.kernels.launch"
        " first"
    )


def test_triton_imported_before_in_the_same_mode_is_fine(tmp_path):
    code = "import triton, minivl.kernels.launch as l; print(l.INTERPRETED)"
    assert run(code, tmp_path, TRITON_INTERPRET="1").stdout == "True\n"


def test_numpy_arrays_need_no_torch(tmp_path):
    code = WITHOUT.format(packages=["torch"]) + (
        "import numpy as np\n"
        "from kernel_file import scale, HostArray\n"
        "from minivl.kernels.checking.checked import checked\n"
        "x = np.arange(40, dtype=np.float16)\n"
        "with checked() as report:\n"
        "    y = scale(x, 3.0)\n"
        "half = HostArray(np.array([0x3F80, 0x4000], np.uint16), 'bfloat16')\n"  # 1 and 2
        "z = scale(half, 1.5)\n"
        "print(type(y).__name__, y.dtype, (y == 3 * x).all(), report.bytes_loaded)\n"
        "print(z.dtype, [hex(bits) for bits in z.array])\n"
        "print('torch' in sys.modules)"
    )
    result = run(code, tmp_path, TRITON_INTERPRET="1")
    assert result.stdout == "ndarray float16 True 80\nbfloat16 ['0x3fc0', '0x4040']\nFalse\n", result.stderr


def test_arrays_on_the_cpu_are_refused_where_kernels_are_compiled(tmp_path):
    code = "from kernel_file import scale, np\ntry: scale({}, 2.0)\nexcept Exception as e: print(type(e).__name__, e)"
    for made in ("np.ones(4)", "__import__('torch').ones(4)"):
        result = run(code.format(made), tmp_path, TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="")
        assert result.stdout.startswith("OpsError scale: kernels run on the GPU here"), result.stderr
        assert "TRITON_INTERPRET=1" in result.stdout and result.stdout.count("\n") == 1


def test_watching_compiled_kernels_is_refused(tmp_path):
    result = run("import minivl.kernels.checking.checked", tmp_path, TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="")
    assert "OpsError: minivl.kernels.checking.checked needs the interpreter: set TRITON_INTERPRET=1" in result.stderr


@triton.jit
def add_kernel(X, Y, Z, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(Z + i, tl.load(X + i, i < n) + tl.load(Y + i, i < n), i < n)


@arrays
def add_and_double(x, *, y):
    z, twice = empty(tuple(x.shape), like=x), empty(tuple(x.shape), like=x, dtype="float32")
    add_kernel[(1,)](x.contiguous(), y.contiguous(), z, x.numel(), BLOCK=64)
    add_kernel[(1,)](z, z, twice, x.numel(), BLOCK=64)
    return z, twice


def test_a_wrapper_gives_back_what_it_was_given():
    x, y = np.arange(12.0, dtype=np.float32).reshape(4, 3).T, np.ones((3, 4), np.float32)
    z, twice = add_and_double(x, y=y)
    assert type(z) is type(twice) is np.ndarray
    np.testing.assert_array_equal(z, x + y)
    np.testing.assert_array_equal(twice, 2 * (x + y))
    z, twice = add_and_double(torch.tensor(x), y=torch.tensor(y))
    assert isinstance(z, torch.Tensor) and torch.equal(twice, torch.tensor(2 * (x + y)))


DTYPES = ["float32", "float16", "bfloat16", "float64", "int8", "int32", "int64", "uint8", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_is_full_of_what_nobody_wrote(dtype):
    mine = empty((2, 3), like=HostArray(np.ones(1, np.float32)), dtype=dtype)
    theirs = empty((2, 3), like=torch.ones(1), dtype=dtype)
    assert (mine.dtype, name_of(theirs.dtype), mine.shape, tuple(theirs.shape)) == (dtype, dtype, (2, 3), (2, 3))
    mine = mine.array if dtype != "bfloat16" else (mine.array.astype(np.uint32) << 16).view(np.float32)
    theirs = theirs.float().numpy() if dtype == "bfloat16" else theirs.numpy()
    np.testing.assert_array_equal(mine, theirs)
    if mine.dtype.kind == "f":
        assert np.isnan(mine).all()
    elif dtype != "bool":
        assert (mine == np.iinfo(dtype).min).all()


def test_empty_is_plain_where_marking_is_off(monkeypatch):
    monkeypatch.setattr(launch, "MARK_UNWRITTEN", False)
    assert empty((2,), like=torch.ones(1)).shape == (2,) and empty((2,), like=HostArray(np.ones(1))).shape == (2,)


def test_host_arrays_answer_as_tensors_do():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(0, 2, 1)
    mine, theirs = HostArray(array), torch.arange(24.0).reshape(2, 3, 4).transpose(1, 2)
    pairs = [
        (mine, theirs),
        (mine.reshape(2, -1), theirs.reshape(2, -1)),
        (mine.swapaxes(0, 1), theirs.swapaxes(0, 1)),
        (mine.contiguous(), theirs.contiguous()),
        (HostArray(array[:1]).expand(5, 4, 3), theirs[:1].expand(5, 4, 3)),
    ]
    for a, b in pairs:
        assert (tuple(a.shape), a.stride(), a.numel()) == (tuple(b.shape), b.stride(), b.numel())
        assert (a.ndim, a.element_size(), a.stride(-1)) == (b.ndim, b.element_size(), b.stride(-1))
    assert HostArray(array[:1]).expand(5, 4, 3).stride() == (0, 1, 4)
