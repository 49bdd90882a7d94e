r"""Attention in one pass over the keys, without the T x S table of scores ever being written to memory.

In words: every query is compared with every key, the scores become shares that sum to 1, and the result is the average
of the values in those shares. `attention_naive.py` does just that, step by step, and is the file to read first. Here
the steps run on one block of keys after the other, and the running result is corrected whenever a block brings a
larger score than all before it. The gradients are computed in attention_backward.py.

Formula, for query t and the keys s that it may see:

    score_ts = scale · q_t·k_s + bias_ts
    m_t      = max_s score_ts
    l_t      = Σ_s exp(score_ts - m_t)
    o_t      = Σ_s exp(score_ts - m_t) v_s / l_t               a query that may see no key: zeros
    lse_t    = m_t + ln l_t                                    natural logarithm; -inf where no key is seen

Trick: m, l and o are kept for the keys read so far. A block that raises m to m' makes everything summed until then
too large by exp(m' - m), so l and o shrink by r = exp(m - m') before the block is added. Division by l comes last.
lse is all that a backward pass needs to find every share again: exp(score_ts - lse_t).

    - exp(x) is 2^(x log2 e), and 2^x is one instruction. Without a bias the scale goes into that factor too: the
      kernel keeps plain products q·k, and exp(score - m) = 2^(c q·k - c m) with c = scale · log2 e costs one
      multiply-add and one 2^x per score.
    - Blocks that every query of the program sees whole are added without any comparison; only the last block, or
      the blocks on a causal diagonal, pay for masks.
    - Tensor cores take widths that are powers of two. 80 is computed as 64 + 16 and 88 as 64 + 32, not as 128:
      q, k, v and o come in two parts, the second called q2 and so on. `parts` decides.
    - Rows of 88 numbers begin at multiples of 8, which the compiler cannot know from a stride of 88. So strides are
      passed in units of `UNIT` = 8 numbers where they allow it, and 16 bytes travel per load instead of 2.

Bytes: q once, k and v once for every BT queries (mostly from the cache on the chip), o and lse once; never T x S.
A mask of the keys alone, (B, 1, 1, S), is read as S bytes.

Schedule: program (block of BT queries, head, batch row); it walks over S in steps of BS, and while it computes, the
next blocks of k and v are on their way into shared memory (num_stages).

Source of the running softmax: Milakov & Gimelshein 2018; of its use here: Dao et al. 2022.
"""

import math
from typing import Any

from minivl.kernels.attention_inputs import broadcast_strides, rows_of, sizes
from minivl.kernels.launch import INTERPRETED, Array, arrays, empty, name_of, tl, triton

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))


@triton.jit
def offset_of(strides, b, h, row, UNIT: tl.constexpr):
    """How far a row of head h in batch row b lies from the start of (B, H, rows, D); strides are in units of UNIT."""
    return (b * strides[0] + h * strides[1] + tl.cast(row, tl.int64) * strides[2]) * UNIT


@triton.jit
def keys_seen(t0, T, S, BT: tl.constexpr, CAUSAL: tl.constexpr):
    """Every query of the block at t0 sees all keys before the first number, and none from the second on."""
    whole, seen = S, S
    if CAUSAL:
        whole = tl.minimum(S, tl.maximum(t0 + 1 + S - T, 0))
        seen = tl.minimum(S, tl.maximum(t0 + BT + S - T, 0))
    return whole, seen


@triton.jit
def load_pairs(X, strides, t, s, in_t, in_s, nothing, PER_QUERY: tl.constexpr, EDGE: tl.constexpr):
    """The (BT, BS) block of a mask or bias; where it is the same for every query, (1, BS). EDGE: s may reach past S."""
    if PER_QUERY:
        at = X + t[:, None] * strides[2] + s[None, :] * strides[3]  # (BT, BS)
        return tl.load(at, in_t[:, None] & in_s[None, :], nothing)
    elif EDGE:
        return tl.load(X + s * strides[3], in_s, nothing)[None, :]
    else:
        return tl.load(X + s * strides[3])[None, :]


@triton.jit
def attention_kernel(
    Q, K, V, OUT, LSE,  # (B, H, T, D), (B, H, S, D) twice, (B, H, T, D), (B, H, T)
    MASK, BIAS,  # broadcast to (B, H, T, S) twice; None where there is none
    q_strides, k_strides, v_strides, o_strides,  # of axes 0, 1, 2, in units of UNIT numbers; axis 3 has stride 1
    mask_strides, bias_strides,  # of all four axes, 0 where broadcast
    H, T, S, scale,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,  # head width, and the two parts that hold it
    BT: tl.constexpr, BS: tl.constexpr,  # queries and keys of a block
    UNIT: tl.constexpr, CAUSAL: tl.constexpr, FOLDED: tl.constexpr,
    MASK_ROWS: tl.constexpr, BIAS_ROWS: tl.constexpr,  # whether they differ from query to query
):  # fmt: skip
    blocks = tl.cdiv(T, BT)
    head = tl.program_id(0) // blocks  # of the B·H
    b, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    t0 = tl.program_id(0) % blocks * BT
    t = t0 + tl.arange(0, BT)  # (BT,)
    in_t = t < T  # (BT,)
    Q += offset_of(q_strides, b, h, t0, UNIT)
    K += offset_of(k_strides, b, h, 0, UNIT)
    V += offset_of(v_strides, b, h, 0, UNIT)
    if MASK is not None:
        MASK += b * mask_strides[0] + h * mask_strides[1]
    if BIAS is not None:
        BIAS += b * bias_strides[0] + h * bias_strides[1]
    d, d2 = tl.arange(0, D1)[None, :], D1 + tl.arange(0, max(D2, 1))[None, :]  # (1, D1), (1, D2)
    in_d, in_d2 = d < D, d2 < D  # (1, D1), (1, D2)
    t_row, s_row = tl.arange(0, BT)[:, None], tl.arange(0, BS)[:, None]  # (BT, 1), (BS, 1)
    at_k, at_v = s_row * (k_strides[2] * UNIT), s_row * (v_strides[2] * UNIT)  # (BS, 1)  within a block of keys

    at_q = Q + t_row * (q_strides[2] * UNIT)  # (BT, 1)
    q = tl.load(at_q + d, in_t[:, None] & in_d, 0.0)  # (BT, D1)
    o = tl.zeros([BT, D1], tl.float32)  # (BT, D1)
    if D2 > 0:
        q2 = tl.load(at_q + d2, in_t[:, None] & in_d2, 0.0)  # (BT, D2)
        o2 = tl.zeros([BT, D2], tl.float32)  # (BT, D2)
    m = tl.full([BT], float("-inf"), tl.float32)  # (BT,)
    l = tl.zeros([BT], tl.float32)  # (BT,)  # noqa: E741

    whole, seen = keys_seen(t0, T, S, BT, CAUSAL)
    whole = whole // BS * BS  # the blocks of keys that need no mask
    c = scale * LOG2_E if FOLDED else LOG2_E

    for edge in tl.static_range(2):  # first the blocks before `whole`, then those at the edge
        for s0 in range(whole if edge else 0, seen if edge else whole, BS):
            s = s0 + tl.arange(0, BS)  # (BS,)
            in_k, in_k2 = in_d, in_d2
            if edge:
                in_k, in_k2 = in_d & (s < S)[:, None], in_d2 & (s < S)[:, None]  # (BS, D1), (BS, D2)

            # score = scale · q·k + bias, or only q·k if FOLDED; -inf where a query does not see a key
            k = tl.load(K + (at_k + d), in_k, 0.0)  # (BS, D1)
            score = tl.dot(q, tl.trans(k), input_precision="ieee")  # (BT, BS)
            if D2 > 0:
                k2 = tl.load(K + (at_k + d2), in_k2, 0.0)  # (BS, D2)
                score = tl.dot(q2, tl.trans(k2), score, input_precision="ieee")  # (BT, BS)
            if not FOLDED:
                score *= scale
            if BIAS is not None:
                score += load_pairs(BIAS, bias_strides, t, s - s0, in_t, s < S, 0.0, BIAS_ROWS, edge).to(tl.float32)
                BIAS += BS * bias_strides[3]
            if edge:
                visible = (s < S)[None, :]  # (1, BS)
                if CAUSAL:
                    visible = visible & (s[None, :] <= t[:, None] + S - T)  # (BT, BS)
                score = tl.where(visible, score, float("-inf"))
            if MASK is not None:
                keep = load_pairs(MASK, mask_strides, t, s - s0, in_t, s < S, 0, MASK_ROWS, edge)
                score = tl.where(keep != 0, score, float("-inf"))
                MASK += BS * mask_strides[3]

            # p = exp(score - m), and what was summed relative to the old m shrinks by r
            m_new = tl.maximum(m, tl.max(score, 1))  # (BT,)
            base = m_new  # (BT,)
            if edge or MASK is not None or BIAS is not None:
                base = tl.where(m_new == float("-inf"), 0.0, m_new)  # no key seen yet: -inf minus -inf would be nan
            if FOLDED:
                p = tl.exp2(score * c - (base * c)[:, None])  # (BT, BS)
            else:
                p = tl.exp2((score - base[:, None]) * c)  # (BT, BS)  c times the lowest float32 would overflow
            r = tl.exp2((m - base) * c)  # (BT,)
            l = l * r + tl.sum(p, 1)  # (BT,)  # noqa: E741
            m = m_new
            # o grows by p v
            p = p.to(V.dtype.element_ty)
            v = tl.load(V + (at_v + d), in_k, 0.0)  # (BS, D1)
            o = tl.dot(p, v, o * r[:, None], input_precision="ieee")  # (BT, D1)
            if D2 > 0:
                v2 = tl.load(V + (at_v + d2), in_k2, 0.0)  # (BS, D2)
                o2 = tl.dot(p, v2, o2 * r[:, None], input_precision="ieee")  # (BT, D2)
            K += BS * (k_strides[2] * UNIT)
            V += BS * (v_strides[2] * UNIT)

    share = (1 / tl.where(l == 0, 1.0, l))[:, None]  # (BT, 1)  l is 0 where no key was seen, and so is o
    at_o = OUT + offset_of(o_strides, b, h, t0, UNIT) + t_row * (o_strides[2] * UNIT)  # (BT, 1)
    tl.store(at_o + d, (o * share).to(OUT.dtype.element_ty), in_t[:, None] & in_d)
    if D2 > 0:
        tl.store(at_o + d2, (o2 * share).to(OUT.dtype.element_ty), in_t[:, None] & in_d2)
    if LSE is not None:
        lse = m * (scale if FOLDED else 1.0) + tl.log2(l) * LN_2  # (BT,)  -inf where no key was seen
        tl.store(LSE + head.to(tl.int64) * T + t, lse, in_t)


def parts(D: int) -> tuple[int, int]:
    """Two powers of two that hold a head width, the second perhaps 0:  64 -> 64, 0   80 -> 64, 16   88 -> 64, 32.

    Tensor cores want at least 16; where two parts would be as wide as the next power of two, that one is taken.
    """
    first = max(16, 1 << (D.bit_length() - 1))
    if first >= D:
        return first, 0
    second = max(16, triton.next_power_of_2(D - first))
    return (first, second) if second < first else (2 * first, 0)


def config(D: int, dtype: str, T: int, plain: bool, chip: int) -> dict[str, Any]:
    """The shipped block sizes and launch options: as much as fits the registers of a chip without spilling.

    plain  neither mask nor bias: 4 warps can then hold 128 queries of a width of 64, and each is twice as busy
    chip   90 for sm_90 and so on; 0 for AMD's. sm_90 feeds its tensor cores from shared memory; sm_80 and its like
           load blocks of q, k and v into registers first, and have less room there. A warp of gfx942 takes 32 queries
           at a time: 8 of them would compute every row of p v twice.
    """
    if dtype == "float32":  # no tensor cores: every thread keeps its share of two blocks in registers
        side = 32 if D <= 96 else 16
        return dict(BT=side, BS=side, num_warps=8, num_stages=2)
    generation = chip // 10
    rows = 64 if T <= 64 or D > 128 and generation not in (9, 10) else 128
    four_warps = chip == 0 or rows == 64 and D <= 128 or generation in (9, 10) and plain and D <= 64
    keys = 64 if D <= (128 if generation in (9, 10) else 64) and (plain or chip) else 32
    options = dict(BT=rows, BS=keys, num_warps=4 if four_warps else 8, num_stages=2)
    if generation == 10 and not four_warps:
        options["maxnreg"] = 255  # left alone, the assembler takes 128 and spills
    return options


def chip() -> int:
    """90 where kernels are compiled for sm_90, and so on; 0 where not for CUDA, or not compiled at all."""
    if INTERPRETED:
        return 0
    target = triton.runtime.driver.active.get_current_target()
    return target.arch if target.backend == "cuda" else 0


@arrays
def attention(
    q: Array, k: Array, v: Array, *, mask: Array | None = None, bias: Array | None = None, causal: bool = False,
    scale: float | None = None, with_lse: bool = False, blocks: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """Each query averages the values, weighted by how well it matches their keys.

        softmax(q kᵀ · scale + bias) v          scale = 1/√D unless given (T5 gives 1)

    q (B, H, T, D)   k, v (B, H, S, D)   ->   (B, H, T, D), with tokens outermost in memory, so that merging heads
    copies nothing; with_lse: also (B, H, T) float32, the natural logarithm of each query's Σ exp(score).
    mask    bool, True keeps a key, broadcastable to (B, H, T, S)
    bias    float, added to the scores, broadcastable likewise
    causal  lines up the LAST query with the LAST key: query t sees the keys s <= t + S - T
    blocks  launch options instead of those of `config`
    A query that may see no key gives zeros. Raises OpsError for what the kernel cannot take.
    """
    B, H, T, D, S = sizes(q, k, v)
    scale = D**-0.5 if scale is None else scale
    out = empty((B, T, H, D), q).swapaxes(1, 2)
    lse = empty((B, H, T), q, "float32") if with_lse else None
    q, k, v = rows_of(q), rows_of(k), rows_of(v)
    unit = 8 if all(step % 8 == 0 for x in (q, k, v, out) for step in x.stride()[:3]) else 1
    D1, D2 = parts(D)
    options = blocks or config(D, name_of(q.dtype), T, mask is None and bias is None, chip())
    mask_strides, bias_strides = (broadcast_strides(*x, (B, H, T, S)) for x in ((mask, "mask"), (bias, "bias")))
    if out.numel():
        attention_kernel[(triton.cdiv(T, options["BT"]) * B * H,)](
            q, k, v, out, lse, mask, bias,
            *(tuple(step // unit for step in x.stride()[:3]) for x in (q, k, v, out)), mask_strides, bias_strides,
            H, T, S, scale, D=D, D1=D1, D2=D2, UNIT=unit, CAUSAL=causal, FOLDED=bias is None and scale > 0,
            MASK_ROWS=mask_strides[2] != 0, BIAS_ROWS=bias_strides[2] != 0, **options,
        )  # fmt: skip
    return (out, lse) if with_lse else out
