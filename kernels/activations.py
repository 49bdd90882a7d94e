r"""The activation functions, applied to each number on its own, and their derivatives.

    function     y                                               dy/dx
    gelu         x Φ(x) = x/2 · (1 + erf(x/√2))                  Φ(x) + x φ(x)
                                                                 φ(x) = Φ'(x) = e^(-x²/2) / √(2π)
    gelu_tanh    x/2 · (1 + tanh(u/2))  =  x σ(u)                σ + x σ (1 - σ) u'
                 u = 2√(2/π) · (x + 0.044715 x³)                 u' = 2√(2/π) · (1 + 0.134145 x²)
    quick_gelu   x σ(1.702 x)                                    σ + 1.702 x σ (1 - σ)
    silu         x σ(x)                                          σ + x σ (1 - σ)
    relu         max(x, 0)                                       0 where x <= 0, otherwise 1
    tanh         2 σ(2x) - 1                                     4 σ (1 - σ)

In words: forward, a number goes through the function; backward, the gradient that arrives is multiplied by the
derivative at the number that went in, so the backward pass needs x and not y.

Four of the six are a sigmoid, σ(z) = 1 / (1 + e^-z), because (1 + tanh(z)) / 2 = σ(2z). For large negative z the sum
1 + tanh(z) cancels and σ does not. Everything is computed in float32, whatever the array's dtype.

The trick is not to run these kernels: on its own an activation reads and writes every number for a handful of
instructions. linear.py calls `activate` on a product that is still in registers, and in the backward pass computes the
product again and calls `slope`, so the hidden layer of an MLP is written once and never kept. The wrappers below are
for callers that have only an array.

    memory      forward reads x and writes y; backward reads x and dy and writes dx: each once
    schedule    one program takes BLOCK neighbouring numbers, 16 bytes per load; ⌈numbers / BLOCK⌉ programs

The plain versions are the functions of the same names in minivl/ops/plain.py and minivl/ops/backward.py.
"""

from typing import Any

from minivl.errors import OpsError
from minivl.kernels.launch import INTERPRETED, Array, arrays, empty, name_of, tl, triton

FLOATS = ("float32", "float16", "bfloat16")
SMOOTH = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh")


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))  # e^-x may overflow to infinity, and 1 / infinity is the right 0


@triton.jit
def activate(x, act: tl.constexpr):
    """The activation `act` (None: x itself) of float32 numbers in registers, of any block shape."""
    if act == "gelu":
        y = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    elif act == "gelu_tanh":
        y = x * sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x))  # 2·√(2/π)
    elif act == "quick_gelu":
        y = x * sigmoid(1.702 * x)
    elif act == "silu":
        y = x * sigmoid(x)
    elif act == "relu":
        y = tl.where(x < 0, 0.0, x)  # a NaN stays one, where tl.maximum would drop it
    elif act == "tanh":
        y = 2 * sigmoid(2 * x) - 1
    else:
        tl.static_assert(act is None, "act is none of the six in activations.py")
        y = x
    return y


@triton.jit
def slope(x, act: tl.constexpr):
    """The derivative of the activation `act` at float32 numbers in registers, of any block shape."""
    if act == "gelu":
        bell = 0.3989422804014327 * tl.exp(-0.5 * x * x)  # 1/√(2π)
        d = 0.5 * (1 + tl.erf(x * 0.7071067811865476)) + x * bell
    elif act == "gelu_tanh":
        s = sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x))  # 2·√(2/π)
        d = s + x * (s * (1 - s)) * (1.5957691216057308 * (1 + 0.134145 * x * x))
    elif act == "quick_gelu":
        s = sigmoid(1.702 * x)
        d = s + 1.702 * x * (s * (1 - s))
    elif act == "silu":
        s = sigmoid(x)
        d = s + x * (s * (1 - s))
    elif act == "relu":
        d = tl.where(x <= 0, 0.0, 1.0)
    else:
        tl.static_assert(act == "tanh", "act is none of the six in activations.py")
        s = sigmoid(2 * x)
        d = 4 * (s * (1 - s))
    return d


@triton.jit
def activation_kernel(X, Y, count, act: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    x = tl.load(X + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    tl.store(Y + i, activate(x, act).to(Y.dtype.element_ty), i < count)


@triton.jit
def activation_backward_kernel(DY, X, DX, count, act: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    x = tl.load(X + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    dy = tl.load(DY + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    tl.store(DX + i, (dy * slope(x, act)).to(DX.dtype.element_ty), i < count)


def config() -> dict[str, Any]:
    """The tile that ships. The interpreter's cost is per program: there it is much larger."""
    return dict(BLOCK=1 << 16 if INTERPRETED else 2048, num_warps=4)


def check_floats(what: str, **given: Array | None) -> None:
    """Raise OpsError unless every array given (None is passed over) has the first one's dtype, one of FLOATS."""
    dtypes = {name: name_of(x.dtype) for name, x in given.items() if x is not None}
    first = next(iter(dtypes))
    if dtypes[first] not in FLOATS:
        raise OpsError(
            f"{what}: {first} is {dtypes[first]}, and the kernel takes {', '.join(FLOATS)}: convert it, or use the"
            " numpy backend"
        )
    for name, dtype in dtypes.items():
        if dtype != dtypes[first]:
            raise OpsError(f"{what}: {name} is {dtype} and {first} is {dtypes[first]}: convert one of them")


def _forward(x: Array, act: str) -> Array:
    """act(x) for every element: x (...) -> (...), of x's dtype."""
    check_floats(act, x=x)
    y, count = empty(tuple(x.shape), x), x.numel()
    if count:
        how = config()
        activation_kernel[(triton.cdiv(count, how["BLOCK"]),)](x.contiguous(), y, count, act, **how)
    return y


def _backward(dout: Array, x: Array, act: str) -> Array:
    """dout · slope(x) for every element: dout, x (...) -> (...), of x's dtype."""
    check_floats(f"{act}_backward", x=x, dout=dout)
    if tuple(dout.shape) != tuple(x.shape):
        raise OpsError(
            f"{act}_backward: dout has shape {tuple(dout.shape)} and x {tuple(x.shape)}, they must be the same"
        )
    dx, count = empty(tuple(x.shape), x), x.numel()
    if count:
        how = config()
        grid = (triton.cdiv(count, how["BLOCK"]),)
        activation_backward_kernel[grid](dout.contiguous(), x.contiguous(), dx, count, act, **how)
    return dx


@arrays
def gelu(x: Array) -> Array:
    """The exact GELU. x (...) float32, float16 or bfloat16 -> the same shape and dtype, here and in all below."""
    return _forward(x, "gelu")


@arrays
def gelu_tanh(x: Array) -> Array:
    return _forward(x, "gelu_tanh")


@arrays
def quick_gelu(x: Array) -> Array:
    return _forward(x, "quick_gelu")


@arrays
def relu(x: Array) -> Array:
    return _forward(x, "relu")


@arrays
def silu(x: Array) -> Array:
    return _forward(x, "silu")


@arrays
def tanh(x: Array) -> Array:
    return _forward(x, "tanh")


@arrays
def gelu_backward(dout: Array, x: Array) -> Array:
    """dout · gelu'(x). dout, x (...) of one dtype -> (...) of that dtype, here and in all below."""
    return _backward(dout, x, "gelu")


@arrays
def gelu_tanh_backward(dout: Array, x: Array) -> Array:
    return _backward(dout, x, "gelu_tanh")


@arrays
def quick_gelu_backward(dout: Array, x: Array) -> Array:
    return _backward(dout, x, "quick_gelu")


@arrays
def relu_backward(dout: Array, x: Array) -> Array:
    return _backward(dout, x, "relu")


@arrays
def silu_backward(dout: Array, x: Array) -> Array:
    return _backward(dout, x, "silu")


@arrays
def tanh_backward(dout: Array, x: Array) -> Array:
    return _backward(dout, x, "tanh")
