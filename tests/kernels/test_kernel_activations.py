"""kernels/activations.py against float64, and no further from it than torch in the same dtype."""

import numpy as np
import pytest
import torch
import torch.nn.functional as nn
from kernel_checks import double, draw, no_worse
from kernel_gradients import hold

from minivl.errors import OpsError
from minivl.kernels import activations
from minivl.kernels import rows as rows_file
from minivl.ops import ACTS
from minivl.ops import backward as numpy_backward
from minivl.ops import numpy as numpy_ops
from minivl.ops import torch as torch_ops

DTYPES = ("float32", "float16", "bfloat16")
CAP = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.4}
TORCH = {
    "gelu": nn.gelu,
    "gelu_tanh": lambda x: nn.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": torch.tanh,
}
EXACT = {act: getattr(numpy_ops, act, np.tanh) for act in activations.SMOOTH}


@pytest.mark.parametrize("act", activations.SMOOTH)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation(act, dtype, device, rng):
    x = draw(rng, (3, 5, 7), dtype, device, "padded")
    x *= 4
    x[0, 0, 0], x[0, 0, 1], x[1, 0, 0] = -30, 30, 0
    got = getattr(activations, act)(x)
    no_worse(got, EXACT[act](double(x)), TORCH[act](x), CAP[dtype], act)


@pytest.mark.parametrize("act", activations.SMOOTH)
def test_activation_keeps_nan_and_does_not_invent_it(act, device):
    x = torch.tensor([float("nan"), -200.0, 200.0, -1e30], device=device)
    assert getattr(activations, act)(x).isnan().tolist() == [True, False, False, False]


def test_activation_over_several_programs(device, rng):
    x = draw(rng, ((1 << 16) + 5,), "float16", device)
    no_worse(activations.silu(x), EXACT["silu"](double(x)), nn.silu(x), 0.01, "silu")


def test_refused(device):
    with pytest.raises(OpsError, match="gelu: x is int32, and the kernel takes float32, float16"):
        activations.gelu(torch.ones(4, 5, dtype=torch.int32, device=device))


# ---- backward --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTS)
def test_gradients(act, dtype, device, rng):
    """Everywhere from -30 to 30, at 0, and where e^x overflows."""
    numbers = np.concatenate([np.linspace(-30, 30, 601), [0.0, -0.0, 1e-6, -1e-6, -200, 200, -3e4, 3e4]])
    x = torch.tensor(numbers, device=device).to(getattr(torch, dtype))
    x = torch.stack([x, x.flip(0)])
    dout = draw(rng, tuple(x.shape), dtype, device, "strided")
    got = getattr(activations, f"{act}_backward")(dout, x)
    hold([got], getattr(torch_ops.OPS, act), dout, [x], act)


def test_gradients_of_several_programs_of_strided_rows_and_of_nothing(device, rng):
    x, dout = draw(rng, (300, 257), "float32", device, "permuted"), draw(rng, (300, 257), "float32", device, "padded")
    hold([activations.gelu_backward(dout, x)], torch_ops.OPS.gelu, dout, [x], "many rows")
    assert activations.relu_backward(x[:0], x[:0]).shape == (0, 257)
    with pytest.raises(OpsError, match=r"silu_backward: dout has shape \(300, 256\) and x \(300, 257\)"):
        activations.silu_backward(dout[:, 1:], x)


def test_numpy_arrays_in_and_out(rng):
    if not rows_file.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    dout, x = rng.standard_normal((2, 4, 9), np.float32)
    before = dout.copy(), x.copy()
    got = activations.gelu_backward(dout, x)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, numpy_backward.gelu_backward(dout, x), atol=2e-6)
    np.testing.assert_array_equal((dout, x), before)
