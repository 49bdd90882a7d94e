r"""Attention as the formula says it, to read before attention.py: scores, then softmax, then shares of the values.

    score_ts = scale · q_t·k_s + bias_ts                                  only for keys s that query t may see
    w_ts     = exp(score_ts - m_t) / l_t        m_t = max_s score_ts      l_t = Σ_s exp(score_ts - m_t)
    o_t      = Σ_s w_ts v_s                     a query that may see no key: zeros

In words: compare a query with every key; find the largest score; add up the exponentials; divide. What comes out are
the weights w, a table of T x S numbers that the second kernel multiplies with the values. The first kernel alone is
the op `attention_weights`, for those who want to see what a model looks at.

The trick is missing on purpose: three loops over the keys, each with the same scores computed again, because a row of
scores may be too long to keep. What the shipped kernel does better, step by step:

    - The largest score and the total can be had in one loop: when a larger score turns up, the total so far is
      multiplied by exp(m_old - m_new) and goes on. The same holds for o, so the third loop goes too.
    - Then the weights need not be written at all, and the T x S table is gone from memory.
    - A head of 80 is padded to 128 numbers here, so 3 of 8 multiply-adds are with zeros.
    - Every block is masked, though only the last one has keys beyond S.

    memory      reads q once and k three times for each block of queries, writes w; then reads w and v, writes o
    schedule    one program takes BT queries of one head, and walks over the keys in steps of BS
"""

from minivl.kernels.attention_inputs import broadcast_strides, rows_of, sizes
from minivl.kernels.launch import Array, arrays, empty, tl, triton

TILE = dict(BT=32, BS=32, num_warps=4)


@triton.jit
def weights_kernel(
    Q, K, W, MASK, BIAS,  # (B, H, T, D), (B, H, S, D), (B, H, T, S) and two that broadcast to it, or None
    q_strides, k_strides, w_strides, mask_strides, bias_strides,
    H, T, S, scale, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    b, h = tl.program_id(1).to(tl.int64) // H, tl.program_id(1).to(tl.int64) % H
    t = tl.program_id(0) * BT + tl.arange(0, BT)  # (BT,)
    d = tl.arange(0, BD)  # (BD,)
    at_q = Q + b * q_strides[0] + h * q_strides[1] + t[:, None] * q_strides[2] + d[None, :]
    q = tl.load(at_q, (t < T)[:, None] & (d < D)[None, :], 0.0)  # (BT, BD)
    K += b * k_strides[0] + h * k_strides[1]
    W += b * w_strides[0] + h * w_strides[1]
    if MASK is not None:
        MASK += b * mask_strides[0] + h * mask_strides[1]
    if BIAS is not None:
        BIAS += b * bias_strides[0] + h * bias_strides[1]

    m = tl.full([BT], float("-inf"), tl.float32)  # (BT,)
    for s0 in range(0, S, BS):
        score = scores(q, K, MASK, BIAS, k_strides, mask_strides, bias_strides, t, s0, T, S, scale, D, BD, BS, CAUSAL)
        m = tl.maximum(m, tl.max(score, 1))
    m = tl.where(m == float("-inf"), 0.0, m)  # no key to see: every exp below is 0, and not nan

    l = tl.zeros([BT], tl.float32)  # (BT,)  # noqa: E741
    for s0 in range(0, S, BS):
        score = scores(q, K, MASK, BIAS, k_strides, mask_strides, bias_strides, t, s0, T, S, scale, D, BD, BS, CAUSAL)
        l += tl.sum(tl.exp(score - m[:, None]), 1)  # noqa: E741
    l = tl.where(l == 0, 1.0, l)  # noqa: E741

    for s0 in range(0, S, BS):
        score = scores(q, K, MASK, BIAS, k_strides, mask_strides, bias_strides, t, s0, T, S, scale, D, BD, BS, CAUSAL)
        w = tl.exp(score - m[:, None]) / l[:, None]  # (BT, BS)
        s = s0 + tl.arange(0, BS)  # (BS,)
        at_w = W + t[:, None] * w_strides[2] + s[None, :]
        tl.store(at_w, w.to(W.dtype.element_ty), (t < T)[:, None] & (s < S)[None, :])


@triton.jit
def scores(
    q, K, MASK, BIAS, k_strides, mask_strides, bias_strides, t, s0, T, S, scale,
    D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """The scores of the queries t with the keys s0 ... s0 + BS, -inf where a query does not see a key:  (BT, BS)."""
    s = s0 + tl.arange(0, BS)  # (BS,)
    d = tl.arange(0, BD)  # (BD,)
    k = tl.load(K + s[:, None] * k_strides[2] + d[None, :], (s < S)[:, None] & (d < D)[None, :], 0.0)  # (BS, BD)
    score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # (BT, BS)
    visible = (t < T)[:, None] & (s < S)[None, :]  # (BT, BS)
    if BIAS is not None:
        score += tl.load(BIAS + t[:, None] * bias_strides[2] + s[None, :] * bias_strides[3], visible, 0.0)
    if MASK is not None:
        visible &= tl.load(MASK + t[:, None] * mask_strides[2] + s[None, :] * mask_strides[3], visible, 0) != 0
    if CAUSAL:
        visible &= s[None, :] <= t[:, None] + S - T
    return tl.where(visible, score, float("-inf"))


@triton.jit
def product_kernel(
    W, V, OUT, w_strides, v_strides, o_strides,  # (B, H, T, S), (B, H, S, D), (B, H, T, D)
    H, T, S, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    b, h = tl.program_id(1).to(tl.int64) // H, tl.program_id(1).to(tl.int64) % H
    t = tl.program_id(0) * BT + tl.arange(0, BT)  # (BT,)
    d = tl.arange(0, BD)  # (BD,)
    W += b * w_strides[0] + h * w_strides[1]
    V += b * v_strides[0] + h * v_strides[1]
    o = tl.zeros([BT, BD], tl.float32)  # (BT, BD)
    for s0 in range(0, S, BS):
        s = s0 + tl.arange(0, BS)  # (BS,)
        w = tl.load(W + t[:, None] * w_strides[2] + s[None, :], (t < T)[:, None] & (s < S)[None, :], 0.0)  # (BT, BS)
        v = tl.load(V + s[:, None] * v_strides[2] + d[None, :], (s < S)[:, None] & (d < D)[None, :], 0.0)  # (BS, BD)
        o = tl.dot(w, v, o, input_precision="ieee")
    at_o = OUT + b * o_strides[0] + h * o_strides[1] + t[:, None] * o_strides[2] + d[None, :]
    tl.store(at_o, o.to(OUT.dtype.element_ty), (t < T)[:, None] & (d < D)[None, :])


@arrays
def attention_weights(
    q: Array, k: Array, *, mask: Array | None = None, bias: Array | None = None, causal: bool = False,
    scale: float | None = None,
) -> Array:  # fmt: skip
    """How much each query takes from each key.

        softmax(q kᵀ · scale + bias), only over the keys that the query may see

    q (B, H, T, D)   k (B, H, S, D)   ->   (B, H, T, S); rows sum to 1, or to 0 where a query may see no key.
    mask, bias and causal as in `attention`. Raises OpsError for what the kernel cannot take.
    """
    B, H, T, D, S = sizes(q, k, k)
    q, k = rows_of(q), rows_of(k)
    w = empty((B, H, T, S), q)
    mask_strides, bias_strides = broadcast_strides(mask, "mask", w.shape), broadcast_strides(bias, "bias", w.shape)
    if w.numel():
        weights_kernel[(triton.cdiv(T, TILE["BT"]), B * H)](
            q, k, w, mask, bias, q.stride(), k.stride(), w.stride(), mask_strides, bias_strides,
            H, T, S, D**-0.5 if scale is None else scale, D=D, BD=width(D), CAUSAL=causal, **TILE,
        )  # fmt: skip
    return w


@arrays
def attention(
    q: Array, k: Array, v: Array, *, mask: Array | None = None, bias: Array | None = None, causal: bool = False,
    scale: float | None = None,
) -> Array:  # fmt: skip
    """`attention` of attention.py by way of the weights: the same contract, slower, and less exact in float16."""
    B, H, T, D, S = sizes(q, k, v)
    w, v = attention_weights(q, k, mask=mask, bias=bias, causal=causal, scale=scale), rows_of(v)
    out = empty((B, T, H, D), q).swapaxes(1, 2)
    if out.numel():
        product_kernel[(triton.cdiv(T, TILE["BT"]), B * H)](
            w, v, out, w.stride(), v.stride(), out.stride(), H, T, S, D=D, BD=width(D), **TILE
        )
    return out


def width(D: int) -> int:
    """The power of two that holds a head, 16 at least, because the tensor cores take no less."""
    return max(16, triton.next_power_of_2(D))
