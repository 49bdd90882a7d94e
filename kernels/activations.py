r"""The bend between two matrices: each number on its own through one smooth (or kinked) curve.

    gelu         x/2 · (1 + erf(x/√2))
    gelu_tanh    x/2 · (1 + tanh(z))  =  x · σ(2z)          z = √(2/π) · (x + 0.044715 x³)
    quick_gelu   x · σ(1.702 x)
    silu         x · σ(x)
    relu         max(x, 0)
    tanh         2 σ(2x) - 1                                 σ(z) = 1 / (1 + e^-z)

Four of the six are one sigmoid, because (1 + tanh(z)) / 2 = σ(2z); σ has no cancellation on its left side, where
1 + tanh(z) has nothing but. Everything is computed in float32, whatever the array's dtype.

The trick is not to run this kernel: on its own it reads and writes every number once for a handful of instructions, so
linear.py calls `activate` on the result of a product while that is still in registers, and those bytes are never moved.
The wrappers below exist for whoever has only an array, and to show what the fusion saves.

    memory      reads x once, writes y once: 2 x numbers x bytes each
    one program BLOCK numbers in a row, 16 bytes per load
    grid        (⌈numbers / BLOCK⌉,)

The plain versions are the functions of the same names in minivl/ops/numpy.py.
"""

from minivl.errors import OpsError
from minivl.kernels.launch import INTERPRETED, arrays, empty, name_of, tl, triton

FLOATS = ("float32", "float16", "bfloat16")
SMOOTH = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh")


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))  # e^-x may overflow to infinity, and 1 / infinity is the right 0


@triton.jit
def activate(x, act: tl.constexpr):
    """The curve called `act` (None: x itself) of float32 numbers in registers, of any block shape."""
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
def activation_kernel(X, Y, count, act: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    x = tl.load(X + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    tl.store(Y + i, activate(x, act).to(Y.dtype.element_ty), i < count)


def config():
    """What a program takes on. The interpreter's cost is per program, so there one takes a good deal more."""
    return dict(BLOCK=1 << 16 if INTERPRETED else 2048, num_warps=4)


def check_floats(what, **given):
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


def _each(x, act):
    """act(x) for every element: x (...) -> (...), of x's dtype."""
    check_floats(act, x=x)
    flat = x.contiguous()
    y = empty(tuple(x.shape), x)
    count = x.numel()
    if count:
        how = config()
        activation_kernel[(triton.cdiv(count, how["BLOCK"]),)](flat, y, count, act, **how)
    return y


@arrays
def gelu(x):
    """The exact GELU. x (...) float32, float16 or bfloat16 -> the same shape and dtype, here and in all below."""
    return _each(x, "gelu")


@arrays
def gelu_tanh(x):
    return _each(x, "gelu_tanh")


@arrays
def quick_gelu(x):
    return _each(x, "quick_gelu")


@arrays
def relu(x):
    return _each(x, "relu")


@arrays
def silu(x):
    return _each(x, "silu")


@arrays
def tanh(x):
    return _each(x, "tanh")
