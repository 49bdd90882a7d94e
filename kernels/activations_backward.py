r"""How steep the six curves of activations.py are, found again from the number that went in.

    gelu         Φ(x) + x φ(x)              Φ(x) = (1 + erf(x/√2)) / 2        φ(x) = e^(-x²/2) / √(2π)
    gelu_tanh    σ + x σ (1 - σ) u'         σ = σ(u), u = 2√(2/π) (x + 0.044715 x³), u' = 2√(2/π) (1 + 0.134145 x²)
    quick_gelu   σ + 1.702 x σ (1 - σ)      σ = σ(1.702 x)
    silu         σ + x σ (1 - σ)            σ = σ(x)
    relu         0 where x <= 0, otherwise 1
    tanh         4 σ (1 - σ)                σ = σ(2x)

In words: the gradient that arrives is multiplied by the slope at the place where x was. Three of the six are x σ(u),
with a slope of σ + x σ' u', and σ' = σ (1 - σ).

The trick is again not to run this kernel: linear_backward.py computes the product x wᵀ + b a second time and multiplies
by `slope` while it is in registers, so nobody keeps an MLP's hidden layer between the two passes.

    memory      reads x and dy once, writes dx once: 3 x numbers x bytes each
    schedule    one program takes BLOCK numbers in a row, ⌈numbers / BLOCK⌉ programs

The plain versions are `gelu_backward` and so on in minivl/ops/backward.py.
"""

from minivl.errors import OpsError
from minivl.kernels.activations import check_floats, config, sigmoid
from minivl.kernels.launch import arrays, empty, tl, triton


@triton.jit
def slope(x, act: tl.constexpr):
    """The slope of the curve called `act` at float32 numbers in registers, of any block shape."""
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
def activation_backward_kernel(DY, X, DX, count, act: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    x = tl.load(X + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    dy = tl.load(DY + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    tl.store(DX + i, (dy * slope(x, act)).to(DX.dtype.element_ty), i < count)


def _each(dout, x, act):
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
def gelu_backward(dout, x):
    """dout · slope of the exact GELU. dout, x (...) of one dtype -> (...) of that dtype, here and in all below."""
    return _each(dout, x, "gelu")


@arrays
def gelu_tanh_backward(dout, x):
    return _each(dout, x, "gelu_tanh")


@arrays
def quick_gelu_backward(dout, x):
    return _each(dout, x, "quick_gelu")


@arrays
def relu_backward(dout, x):
    return _each(dout, x, "relu")


@arrays
def silu_backward(dout, x):
    return _each(dout, x, "silu")


@arrays
def tanh_backward(dout, x):
    return _each(dout, x, "tanh")
