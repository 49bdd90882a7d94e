"""The way back through every op: what a change of the output asks of the inputs, derived by hand, in NumPy.

One rule holds for all of them:

    f_backward(dout, *f's own arguments)   ->   one gradient for each float array among them, in their order

dout is the gradient of the output of f: how much the loss grows when the output does, number by number, so it has the
output's shape; and each gradient has the shape and dtype of the array that it belongs to. Where f was given None, its
place holds None. Nothing has to be kept from the way forward: what is needed of it is computed again.

    dq, dk, dv, dbias = attention_backward(dout, q, k, v, causal=True)

Where a number went to several places its gradient is the sum of theirs: that is all there is to shared weights, to
biases and to anything broadcast. float64 in gives float64 out, and central differences agree with it to ten digits;
the backward kernels are tested against these functions, and minivl/ops/tape.py trains with them.

Letters: B batch, T query tokens, S key tokens, C width, F another width, H heads, D head width, N patches, V
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from . import TABLE, Array, act_of, check_ids, check_labels, plain
from .plain import attention_weights, linear, normal_cdf, softmax


def summed_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an array that was broadcast: the sum over all the places that each of its numbers went to.

    gradient, of a shape that `shape` broadcasts to   ->   shape
    """
    if gradient.shape == shape:
        return gradient
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    stretched = tuple(i for i, (have, want) in enumerate(zip(gradient.shape, shape, strict=True)) if have != want)
    return gradient.sum(axis=stretched, keepdims=True)


def _rows(x: Array) -> Array:
    """x (..., C) -> (M, C)"""
    return x.reshape(-1, x.shape[-1])


# ---- matrices ------------------------------------------------------------------------------------
def linear_backward(
    dout: Array, x: Array, w: Array, b: Array | None = None,
) -> tuple[Array, Array, Array | None]:  # fmt: skip
    """Each input number went, times a weight, into F outputs; each weight was used once by every token.

        dx = dout w          dw = Σ doutᵀ x          db = Σ dout          sums over all tokens

    dout (..., F)   x (..., C)   w (F, C)   b (F,)   ->   dx (..., C), dw (F, C), db (F,)
    """
    flat = _rows(dout)  # (M, F)
    dx = (flat @ w).reshape(x.shape)
    return dx, flat.T @ _rows(x), None if b is None else flat.sum(0)


def linear_act_backward(
    dout: Array, x: Array, w: Array, b: Array | None = None, *, act: str
) -> tuple[Array, Array, Array | None]:
    """Back through the activation first, then through the matrix.

        z = x wᵀ + b          dz = dout · act'(z)          then as `linear_backward`

    dout (..., F)   x (..., C)   w (F, C)   b (F,)   ->   dx (..., C), dw (F, C), db (F,)
    """
    act_of(plain.OPS, act)  # refuses a name that is none
    dz = BACKWARD[act](dout, linear(x, w, b))  # (..., F)
    return linear_backward(dz, x, w, b)


def gated_linear_backward(
    dout: Array, x: Array, gate: Array, up: Array, *, act: str,
) -> tuple[Array, Array, Array | None]:  # fmt: skip
    """The product rule: each half gets dout times the other half, and the gradients of x add up.

        y = act(g) · u          g = x gateᵀ          u = x upᵀ
        dg = dout · u · act'(g)          du = dout · act(g)          then each as `linear_backward`

    dout (..., F)   x (..., C)   gate, up (F, C)   ->   dx (..., C), dgate (F, C), dup (F, C)
    """
    g, u = linear(x, gate), linear(x, up)  # (..., F)
    through_gate, dgate, _ = linear_backward(BACKWARD[act](dout * u, g), x, gate)
    through_up, dup, _ = linear_backward(dout * act_of(plain.OPS, act)(g), x, up)
    return through_gate + through_up, dgate, dup


# ---- norms ---------------------------------------------------------------------------------------
def layer_norm_backward(
    dout: Array, x: Array, w: Array, b: Array, eps: float,
) -> tuple[Array, Array, Array | None]:  # fmt: skip
    """A token's norm cannot feel a shift of the token, nor a stretch: its gradient has no part along either.

        n = (x - mean) / σ          σ = sqrt(var + eps)          so that the output is n w + b
        g = dout · w
        dx = (g - mean(g) - n · mean(g n)) / σ          means over the C numbers of a token
        dw = Σ dout n          db = Σ dout              sums over all tokens

    mean(g) is the part along the shift (1, 1, ..., 1), n · mean(g n) the part along n itself.
    dout, x (..., C)   w, b (C,)   ->   dx (..., C), dw (C,), db (C,)
    """
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(-1, keepdims=True) + eps)  # (..., 1)
    n = centred / deviation
    g = dout * w
    dx = (g - g.mean(-1, keepdims=True) - n * (g * n).mean(-1, keepdims=True)) / deviation
    return dx, _rows(dout * n).sum(0), _rows(dout).sum(0)


def add_layer_norm_backward(
    dout: Array, x: Array, y: Array, w: Array, b: Array, eps: float,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    """A sum hands its gradient on, whole, to both its terms: this is why residuals let deep stacks learn.

        dx = dy = the gradient of layer_norm at x + y

    dout, x, y (..., C)   w, b (C,)   ->   dx (..., C), dy (..., C), dw (C,), db (C,)
    """
    dsum, dw, db = layer_norm_backward(dout, x + y, w, b, eps)
    return dsum, dsum, dw, db


def rms_norm_backward(dout: Array, x: Array, w: Array, eps: float) -> tuple[Array, Array]:
    """As layer norm, without the shift: only the part along the token itself is missing.

        n = x / ρ          ρ = sqrt(mean(x²) + eps)          g = dout · w
        dx = (g - n · mean(g n)) / ρ          dw = Σ dout n

    dout, x (..., C)   w (C,)   ->   dx (..., C), dw (C,)
    """
    size = np.sqrt((x * x).mean(-1, keepdims=True) + eps)  # (..., 1)
    n = x / size
    g = dout * w
    dx = (g - n * (g * n).mean(-1, keepdims=True)) / size
    return dx, _rows(dout * n).sum(0)


# ---- attention -----------------------------------------------------------------------------------
def softmax_backward(dout: Array, x: Array) -> Array:
    """Shares compete: what counts is how much more than the average, weighted by the shares, each is asked for.

        y = softmax(x)          dx = y · (dout - Σ y dout)          sum over the row

    A row of nothing but -inf has no shares, and gets zeros.   dout, x (..., S)   ->   (..., S)
    """
    return _through_shares(dout, softmax(x))


def _through_shares(dout: Array, shares: Array) -> Array:
    return shares * (dout - (shares * dout).sum(-1, keepdims=True))


def attention_weights_backward(
    dout: Array, q: Array, k: Array, *, mask: Array | None = None, bias: Array | None = None,
    causal: bool = False, scale: float | None = None,
) -> tuple[Array, Array, Array | None]:  # fmt: skip
    """From the shares back to the scores, and from a score to the query and the key whose product it is.

        P = attention_weights(q, k)          dS = P · (dout - Σ_s P dout)
        dq = scale · dS k          dk = scale · dSᵀ q          dbias = dS, summed over what was broadcast

    A share of 0 stays 0 whatever the score does: masked keys, and keys at a bias of -inf, get and give nothing.
    dout (B, H, T, S)   q (B, H, T, D)   k (B, H, S, D)   ->   dq, dk, dbias, of the shapes of q, k and bias
    """
    P = attention_weights(q, k, mask=mask, bias=bias, causal=causal, scale=scale)  # (B, H, T, S)
    return _through_scores(_through_shares(dout, P), q, k, bias, scale)


def _through_scores(
    dscores: Array, q: Array, k: Array, bias: Array | None, scale: float | None
) -> tuple[Array, Array, Array]:
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    dq = dscores @ k * scale  # (B, H, T, D)
    dk = dscores.swapaxes(-1, -2) @ q * scale  # (B, H, S, D)
    return dq, dk, None if bias is None else summed_to(dscores, bias.shape)


def attention_backward(
    dout: Array, q: Array, k: Array, v: Array, *, mask: Array | None = None, bias: Array | None = None,
    causal: bool = False, scale: float | None = None,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    """A value hears from every query that took of it; a share, how well its value fits what is asked of the output.

        P = attention_weights(q, k)
        dv = Pᵀ dout
        dP = dout vᵀ          dS = P · (dP - Σ_s P dP)          Σ_s P dP is dout · out, one number for each query
        dq = scale · dS k          dk = scale · dSᵀ q          dbias = dS, summed over what was broadcast

    The T x S table P is computed again here. A kernel does the same block by block: with the log-sum-exp of each row
    and the numbers dout · out it never needs more of the table than a block.
    dout (B, H, T, D)   q (B, H, T, D)   k, v (B, H, S, D)   ->   dq, dk, dv, dbias, of the shapes of q, k, v and bias
    Source: Dao et al. 2022, appendix B.2.
    """
    P = attention_weights(q, k, mask=mask, bias=bias, causal=causal, scale=scale)  # (B, H, T, S)
    dv = P.swapaxes(-1, -2) @ dout  # (B, H, S, D)
    dP = dout @ v.swapaxes(-1, -2)  # (B, H, T, S)
    dq, dk, dbias = _through_scores(_through_shares(dP, P), q, k, bias, scale)
    return dq, dk, dv, dbias


# ---- activations ---------------------------------------------------------------------------------
def gelu_backward(dout: Array, x: Array) -> Array:
    """The product rule on y = x Φ(x), Φ(x) the share of a normal distribution that lies below x.

    dx = dout · (Φ(x) + x φ(x))          φ(x) = Φ'(x) = exp(-x²/2) / √(2π)
    """
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return dout * (normal_cdf(x) + x * density)


def gelu_tanh_backward(dout: Array, x: Array) -> Array:
    """The product and the chain rule on y = x/2 · (1 + t) with t = tanh(u), u = √(2/π) (x + 0.044715 x³).

    dx = dout · ((1 + t)/2 + x/2 · (1 - t²) u')          u' = √(2/π) (1 + 3 · 0.044715 x²)
    """
    root, square = math.sqrt(2 / math.pi), x * x
    t = np.tanh(root * x * (1 + 0.044715 * square))
    slope = root * (1 + 3 * 0.044715 * square)
    return dout * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


def quick_gelu_backward(dout: Array, x: Array) -> Array:
    """On y = x s with s = sigmoid(1.702 x):          dx = dout · s (1 + 1.702 x (1 - s))"""
    return _x_sigmoid_backward(dout, x, 1.702)


def silu_backward(dout: Array, x: Array) -> Array:
    """On y = x s with s = sigmoid(x):          dx = dout · s (1 + x (1 - s))"""
    return _x_sigmoid_backward(dout, x, 1.0)


def _x_sigmoid_backward(dout: Array, x: Array, steepness: float) -> Array:
    z = steepness * x
    s = 0.5 + 0.5 * np.tanh(0.5 * z)  # never overflows, as exp(-z) would
    return dout * (s * (1 + z * (1 - s)))


def relu_backward(dout: Array, x: Array) -> Array:
    """What was let through lets its gradient back:  dx = dout where x > 0, and 0 elsewhere, at 0 too."""
    return np.where(x > 0, dout, np.zeros_like(x))


def tanh_backward(dout: Array, x: Array) -> Array:
    """On y = tanh(x):          dx = dout · (1 - y²)"""
    y = np.tanh(x)
    return dout * (1 - y * y)


# ---- the two ends --------------------------------------------------------------------------------
def embed_backward(dout: Array, ids: Array, table: Array) -> Array:
    """Each row of the table gets what all tokens that read it were given; rows that nobody read get 0.

        dtable[v] = Σ dout[t] over the tokens t with ids[t] = v

    dout (..., C)   ids (...)   table (V, C)   ->   (V, C)
    """
    ids = np.asarray(ids)
    check_ids(ids, len(table))
    dtable = np.zeros_like(table)
    np.add.at(dtable, ids.reshape(-1), dout.reshape(-1, table.shape[1]))  # dtable[ids] += dout would add one token only
    return dtable


def patch_embed_backward(
    dout: Array, pixels: Array, w: Array, b: Array | None = None,
) -> tuple[Array, Array, Array | None]:  # fmt: skip
    """A linear layer on patches, so `linear_backward`, and each patch's gradient goes back to where it was cut from.

        dw = Σ doutᵀ patches          dpixels = dout w, each patch put back in its place          db = Σ dout

    Pixels beyond the last whole patch were never read, and get 0.
    dout (B, N, C)   pixels (B, 3, Y, X)   w (C, 3, P, P)   b (C,)   ->   dpixels, dw, db, of the shapes of these
    """
    B, channels, height, width = pixels.shape
    P = w.shape[-1]
    rows, columns = height // P, width // P
    cut = (B, channels, rows, P, columns, P)
    patches = pixels[:, :, : rows * P, : columns * P].reshape(cut).transpose(0, 2, 4, 1, 3, 5)  # (B, rows, cols, 3,P,P)
    dpatches, dw, db = linear_backward(dout, patches.reshape(B, rows * columns, -1), w.reshape(len(w), -1), b)
    dpixels = np.zeros_like(pixels)
    back = dpatches.reshape(B, rows, columns, channels, P, P).transpose(0, 3, 1, 4, 2, 5)  # (B, 3, rows, P, cols, P)
    dpixels[:, :, : rows * P, : columns * P] = back.reshape(B, channels, rows * P, columns * P)
    return dpixels, dw.reshape(w.shape), db


def cross_entropy_backward(dout: Array, logits: Array, targets: Array, ignore_index: int = -100) -> Array:
    """The gradient is the guess minus the truth: softmax, less 1 at the right word, shared among the M that count.

        dlogits = dout / M · (softmax(logits) - [v = target])          rows whose target is ignored: 0

    dout scalar   logits (..., V)   targets (...)   ->   (..., V)
    """
    kept = targets != ignore_index
    right = targets[kept]  # (M,)
    check_labels(right, logits.shape[-1])
    guess = softmax(logits[kept])  # (M, V)
    guess[np.arange(len(right)), right] -= 1
    dlogits = np.zeros_like(logits)
    if len(right):
        dlogits[kept] = guess * (dout / len(right))
    return dlogits


BACKWARD: dict[str, Callable] = {name: globals()[f"{name}_backward"] for name, op in TABLE.items() if op.gradient}
