r"""The gradients of attention: what a change of every query, key, value and bias does to the loss.

In words: each share p that a query took of a key is found again from the score and the log-sum-exp that the forward
pass kept. A value's gradient is what the queries passed back, in those shares. A share's gradient says whether its
value was worth taking; compared with the average worth of what the query took, it becomes the gradient of the score,
and that goes to the query through the key, to the key through the query, and to the bias as it is.

Formula, for query t and key s, with `dout` the gradient of the output:

    p_ts   = exp(score_ts - lse_t)                 score_ts = scale · q_t·k_s + bias_ts; 0 where t may not see s
    dv_s   = Σ_t p_ts dout_t
    dp_ts  = dout_t·v_s
    δ_t    = Σ_s p_ts dp_ts = dout_t·out_t         a sum over D numbers, where the first form has S
    ds_ts  = p_ts (dp_ts - δ_t)
    dq_t   = scale · Σ_s ds_ts k_s
    dk_s   = scale · Σ_t ds_ts q_t
    dbias  = ds, summed over every axis along which the bias was broadcast

Trick: nothing of size T x S is kept by the forward pass or written here (but the bias's own gradient, if it has that
size). The products q·k are computed once more instead, by each kernel that needs them, because two kinds of sums are
asked for: over the keys for dq, over the queries for dk and dv. A program that owns a block of the result adds it up
alone in its registers, in a fixed order. Nothing is added to memory by several programs, so results repeat bit for bit.

    - The kernel of the keys holds scores the other way round, (keys, queries): p and ds then stand in registers just
      as its products want them on the left, and nothing is turned.
    - A small kernel prepares each query's two numbers, δ and lse in powers of two. A query that saw no key has
      lse = -inf, and one beyond the last has none: both get +inf here, and exp(score - inf) = 0 is their share of
      everything, without a comparison per score. The rows are filled up to whole blocks, and read without a mask.
    - A key hidden from all queries, and one beyond the last, only spoils its own row of dk and dv: zeroed once at the
      end, or not stored.
    - As in `attention.py`: widths in two parts, strides in eights, the scale inside the exponent where no bias is.

Bytes: dq reads q, out, dout once, and k, v once for every BT queries; dk and dv read k, v once, and q, dout once for
every BS keys. δ and lse: 8 bytes for each query and head.

Schedule: four launches. prepare_kernel, a block of queries of a head; keys_kernel, BS keys of a head, walking over T
in steps of BT; queries_kernel, BT queries of a head, walking over S in steps of BS; bias_kernel, if there is a bias, a
block of its gradient, walking over whatever was broadcast.

Source: Dao et al. 2022, appendix B.4 (recomputation from the log-sum-exp; δ as a sum over D); Dao 2023, section 3.1.
"""

import math
from typing import Any

from minivl.errors import OpsError
from minivl.kernels.attention import attention, chip, keys_seen, load_pairs, offset_of, parts
from minivl.kernels.attention_inputs import broadcast_strides, rows_of, sizes
from minivl.kernels.launch import Array, arrays, empty, name_of, tl, triton

LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def prepare_kernel(
    OUT, DOUT, LSE,  # (B, H, T, D) twice, (B, H, T)
    DELTA, BASE,  # (B, H, ROWS) twice: δ, and what is subtracted from a score
    out_strides, dout_strides,  # of axes 0, 1, 2, in units of UNIT numbers
    H, T, ROWS, factor,  # ROWS is T, filled up to whole blocks; base = factor · lse
    D: tl.constexpr, WIDTH: tl.constexpr, BT: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    blocks = ROWS // BT
    head = tl.program_id(0) // blocks  # of the B·H
    b, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    t0 = tl.program_id(0) % blocks * BT
    row = tl.arange(0, BT)  # (BT,)
    in_t = t0 + row < T  # (BT,)
    d = tl.arange(0, WIDTH)[None, :]  # (1, WIDTH)
    OUT += offset_of(out_strides, b, h, t0, UNIT)
    DOUT += offset_of(dout_strides, b, h, t0, UNIT)
    out = tl.load(OUT + (row[:, None] * (out_strides[2] * UNIT) + d), in_t[:, None] & (d < D), 0.0)
    dout = tl.load(DOUT + (row[:, None] * (dout_strides[2] * UNIT) + d), in_t[:, None] & (d < D), 0.0)
    lse = tl.load(LSE + head.to(tl.int64) * T + t0 + row, in_t, float("-inf"))  # (BT,)
    at = head.to(tl.int64) * ROWS + t0 + row  # (BT,)
    tl.store(DELTA + at, tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1))
    tl.store(BASE + at, tl.where(lse == float("-inf"), float("inf"), lse * factor))


@triton.jit
def keys_kernel(
    Q, K, V, DOUT, DELTA, BASE,  # (B, H, T, D), (B, H, S, D) twice, (B, H, T, D), (B, H, ROWS) twice
    DK, DV,  # (B, H, S, D) twice
    MASK, BIAS,  # broadcast to (B, H, T, S); None where there is none
    q_strides, k_strides, v_strides, dout_strides, dk_strides,  # as above; dv has those of dk
    mask_strides, bias_strides,  # of all four axes, 0 where broadcast
    H, T, S, ROWS, scale,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,  # head width, and the two parts that hold it
    BT: tl.constexpr, BS: tl.constexpr,  # queries and keys of a block
    UNIT: tl.constexpr, CAUSAL: tl.constexpr, MASK_ROWS: tl.constexpr, BIAS_ROWS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(S, BS)
    head = tl.program_id(0) // blocks  # of the B·H
    b, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    s0 = tl.program_id(0) % blocks * BS
    s_row, t_row = tl.arange(0, BS)[:, None], tl.arange(0, BT)[:, None]  # (BS, 1), (BT, 1)
    s = s0 + tl.arange(0, BS)  # (BS,)
    in_s = s < S  # (BS,)
    d, d2 = tl.arange(0, D1)[None, :], D1 + tl.arange(0, max(D2, 1))[None, :]  # (1, D1), (1, D2)
    in_k, in_k2 = in_s[:, None] & (d < D), in_s[:, None] & (d2 < D)  # (BS, D1), (BS, D2)
    K += offset_of(k_strides, b, h, s0, UNIT)
    V += offset_of(v_strides, b, h, s0, UNIT)
    at_k, at_v = K + s_row * (k_strides[2] * UNIT), V + s_row * (v_strides[2] * UNIT)  # (BS, 1)
    k, v = tl.load(at_k + d, in_k, 0.0), tl.load(at_v + d, in_k, 0.0)  # (BS, D1)
    dk, dv = tl.zeros([BS, D1], tl.float32), tl.zeros([BS, D1], tl.float32)  # (BS, D1)
    if D2 > 0:
        k2, v2 = tl.load(at_k + d2, in_k2, 0.0), tl.load(at_v + d2, in_k2, 0.0)  # (BS, D2)
        dk2, dv2 = tl.zeros([BS, D2], tl.float32), tl.zeros([BS, D2], tl.float32)  # (BS, D2)

    # The first block of queries of which one sees any of these keys, and the first from which all see all of them.
    first, whole = 0, 0
    if CAUSAL:
        first = tl.minimum(tl.maximum(s0 + T - S, 0), T) // BT * BT
        whole = tl.cdiv(tl.minimum(tl.maximum(s0 + BS - 1 + T - S, 0), T), BT) * BT
    Q += offset_of(q_strides, b, h, first, UNIT)
    DOUT += offset_of(dout_strides, b, h, first, UNIT)
    DELTA += head.to(tl.int64) * ROWS
    BASE += head.to(tl.int64) * ROWS
    at_q, at_dout = t_row * (q_strides[2] * UNIT), t_row * (dout_strides[2] * UNIT)  # (BT, 1)  within a block
    if MASK is not None:
        MASK += b * mask_strides[0] + h * mask_strides[1]
    if BIAS is not None:
        BIAS += b * bias_strides[0] + h * bias_strides[1]
        if not BIAS_ROWS:
            bias = tl.load(BIAS + s * bias_strides[3], in_s, 0.0).to(tl.float32)[:, None]  # (BS, 1)

    for below in tl.static_range(0 if CAUSAL else 1, 2):  # the blocks of queries on the diagonal, then those below it
        for t0 in range(whole if below else first, T if below else whole, BT):
            t = t0 + tl.arange(0, BT)  # (BT,)
            in_q, in_q2 = (t < T)[:, None] & (d < D), (t < T)[:, None] & (d2 < D)  # (BT, D1), (BT, D2)
            # p = exp(score - lse), all of it as (keys, queries)
            q = tl.load(Q + (at_q + d), in_q, 0.0)  # (BT, D1)
            base = tl.load(BASE + t)[None, :]  # (1, BT)
            score = tl.dot(k, tl.trans(q), input_precision="ieee")  # (BS, BT)
            if D2 > 0:
                q2 = tl.load(Q + (at_q + d2), in_q2, 0.0)  # (BT, D2)
                score = tl.dot(k2, tl.trans(q2), score, input_precision="ieee")  # (BS, BT)
            if BIAS is not None:
                if BIAS_ROWS:
                    at = BIAS + t[None, :] * bias_strides[2] + s[:, None] * bias_strides[3]  # (BS, BT)
                    bias = tl.load(at, in_s[:, None] & (t < T)[None, :], 0.0).to(tl.float32)  # (BS, BT)
                p = tl.exp2((score * scale + bias - base) * LOG2_E)  # (BS, BT)
            else:
                p = tl.exp2(score * (scale * LOG2_E) - base)  # (BS, BT)
            if not below:
                p = tl.where(s[:, None] <= t[None, :] + S - T, p, 0.0)
            if MASK is not None and MASK_ROWS:
                at = MASK + t[None, :] * mask_strides[2] + s[:, None] * mask_strides[3]  # (BS, BT)
                p = tl.where(tl.load(at, in_s[:, None] & (t < T)[None, :], 0) != 0, p, 0.0)
            # dv += p dout
            dout = tl.load(DOUT + (at_dout + d), in_q, 0.0)  # (BT, D1)
            shares = p.to(DOUT.dtype.element_ty)  # (BS, BT)
            dv = tl.dot(shares, dout, dv, input_precision="ieee")  # (BS, D1)
            # ds = p (dp - δ)
            delta = tl.load(DELTA + t)[None, :]  # (1, BT)
            dp = tl.dot(v, tl.trans(dout), input_precision="ieee")  # (BS, BT)
            if D2 > 0:
                dout2 = tl.load(DOUT + (at_dout + d2), in_q2, 0.0)  # (BT, D2)
                dv2 = tl.dot(shares, dout2, dv2, input_precision="ieee")  # (BS, D2)
                dp = tl.dot(v2, tl.trans(dout2), dp, input_precision="ieee")  # (BS, BT)
            ds = (p * (dp - delta)).to(Q.dtype.element_ty)  # (BS, BT)
            # dk += ds q
            dk = tl.dot(ds, q, dk, input_precision="ieee")  # (BS, D1)
            if D2 > 0:
                dk2 = tl.dot(ds, q2, dk2, input_precision="ieee")  # (BS, D2)
            Q += BT * (q_strides[2] * UNIT)
            DOUT += BT * (dout_strides[2] * UNIT)

    keep = in_s[:, None]  # (BS, 1)  a key that all queries are kept from has no gradient
    if MASK is not None and not MASK_ROWS:
        keep = (tl.load(MASK + s * mask_strides[3], in_s, 0) != 0)[:, None]  # (BS, 1)
    at = offset_of(dk_strides, b, h, s0, UNIT) + s_row * (dk_strides[2] * UNIT)  # (BS, 1)
    tl.store(DK + (at + d), tl.where(keep, dk * scale, 0.0).to(DK.dtype.element_ty), in_k)
    tl.store(DV + (at + d), tl.where(keep, dv, 0.0).to(DV.dtype.element_ty), in_k)
    if D2 > 0:
        tl.store(DK + (at + d2), tl.where(keep, dk2 * scale, 0.0).to(DK.dtype.element_ty), in_k2)
        tl.store(DV + (at + d2), tl.where(keep, dv2, 0.0).to(DV.dtype.element_ty), in_k2)


@triton.jit
def queries_kernel(
    Q, K, V, DOUT, DELTA, BASE,  # as in keys_kernel
    DQ,  # (B, H, T, D)
    MASK, BIAS,
    q_strides, k_strides, v_strides, dout_strides, dq_strides, mask_strides, bias_strides,
    H, T, S, ROWS, scale,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
    UNIT: tl.constexpr, CAUSAL: tl.constexpr, MASK_ROWS: tl.constexpr, BIAS_ROWS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(T, BT)
    head = tl.program_id(0) // blocks  # of the B·H
    b, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    t0 = tl.program_id(0) % blocks * BT
    t_row, s_row = tl.arange(0, BT)[:, None], tl.arange(0, BS)[:, None]  # (BT, 1), (BS, 1)
    t = t0 + tl.arange(0, BT)  # (BT,)
    in_t = t < T  # (BT,)
    d, d2 = tl.arange(0, D1)[None, :], D1 + tl.arange(0, max(D2, 1))[None, :]  # (1, D1), (1, D2)
    in_d, in_d2 = d < D, d2 < D  # (1, D1), (1, D2)
    in_q, in_q2 = in_t[:, None] & in_d, in_t[:, None] & in_d2  # (BT, D1), (BT, D2)
    Q += offset_of(q_strides, b, h, t0, UNIT)
    DOUT += offset_of(dout_strides, b, h, t0, UNIT)
    at_q, at_dout = Q + t_row * (q_strides[2] * UNIT), DOUT + t_row * (dout_strides[2] * UNIT)  # (BT, 1)
    q, dout = tl.load(at_q + d, in_q, 0.0), tl.load(at_dout + d, in_q, 0.0)  # (BT, D1)
    dq = tl.zeros([BT, D1], tl.float32)  # (BT, D1)
    if D2 > 0:
        q2, dout2 = tl.load(at_q + d2, in_q2, 0.0), tl.load(at_dout + d2, in_q2, 0.0)  # (BT, D2)
        dq2 = tl.zeros([BT, D2], tl.float32)  # (BT, D2)
    base = tl.load(BASE + head.to(tl.int64) * ROWS + t)[:, None]  # (BT, 1)
    delta = tl.load(DELTA + head.to(tl.int64) * ROWS + t)[:, None]  # (BT, 1)
    K += offset_of(k_strides, b, h, 0, UNIT)
    V += offset_of(v_strides, b, h, 0, UNIT)
    at_k, at_v = s_row * (k_strides[2] * UNIT), s_row * (v_strides[2] * UNIT)  # (BS, 1)  within a block of keys
    if MASK is not None:
        MASK += b * mask_strides[0] + h * mask_strides[1]
    if BIAS is not None:
        BIAS += b * bias_strides[0] + h * bias_strides[1]

    whole, seen = keys_seen(t0, T, S, BT, CAUSAL)
    whole = whole // BS * BS  # the blocks of keys that need no mask
    for edge in tl.static_range(2):  # first the blocks before `whole`, then those at the edge
        for s0 in range(whole if edge else 0, seen if edge else whole, BS):
            s = s0 + tl.arange(0, BS)  # (BS,)
            in_k, in_k2 = in_d, in_d2
            if edge:
                in_k, in_k2 = in_d & (s < S)[:, None], in_d2 & (s < S)[:, None]  # (BS, D1), (BS, D2)
            # ds = p (dp - δ)
            k, v = tl.load(K + (at_k + d), in_k, 0.0), tl.load(V + (at_v + d), in_k, 0.0)  # (BS, D1)
            score = tl.dot(q, tl.trans(k), input_precision="ieee")  # (BT, BS)
            dp = tl.dot(dout, tl.trans(v), input_precision="ieee")  # (BT, BS)
            if D2 > 0:
                k2, v2 = tl.load(K + (at_k + d2), in_k2, 0.0), tl.load(V + (at_v + d2), in_k2, 0.0)  # (BS, D2)
                score = tl.dot(q2, tl.trans(k2), score, input_precision="ieee")  # (BT, BS)
                dp = tl.dot(dout2, tl.trans(v2), dp, input_precision="ieee")  # (BT, BS)
            p = find_shares(score, base, scale, MASK, BIAS, mask_strides, bias_strides, t, s, T, S,
                            edge, edge and CAUSAL, MASK_ROWS, BIAS_ROWS)  # (BT, BS)  # fmt: skip
            ds = (p * (dp - delta)).to(K.dtype.element_ty)  # (BT, BS)
            # dq += ds k
            dq = tl.dot(ds, k, dq, input_precision="ieee")  # (BT, D1)
            if D2 > 0:
                dq2 = tl.dot(ds, k2, dq2, input_precision="ieee")  # (BT, D2)
            K += BS * (k_strides[2] * UNIT)
            V += BS * (v_strides[2] * UNIT)

    at_dq = DQ + offset_of(dq_strides, b, h, t0, UNIT) + t_row * (dq_strides[2] * UNIT)  # (BT, 1)
    tl.store(at_dq + d, (dq * scale).to(DQ.dtype.element_ty), in_q)
    if D2 > 0:
        tl.store(at_dq + d2, (dq2 * scale).to(DQ.dtype.element_ty), in_q2)


@triton.jit
def bias_kernel(
    Q, K, V, DOUT, DELTA, BASE,  # as in keys_kernel
    DBIAS,  # the shape of the bias
    MASK, BIAS,
    q_strides, k_strides, v_strides, dout_strides, dbias_strides, mask_strides, bias_strides,
    B, H, T, S, ROWS, scale,
    OVER_B: tl.constexpr, OVER_H: tl.constexpr, OVER_T: tl.constexpr, OVER_S: tl.constexpr,  # axes to sum over
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
    UNIT: tl.constexpr, CAUSAL: tl.constexpr, MASK_ROWS: tl.constexpr, BIAS_ROWS: tl.constexpr,
):  # fmt: skip
    t_blocks, s_blocks = tl.cdiv(T, BT), tl.cdiv(S, BS)
    # The axes that are not summed over tell programs apart, the others are walked along; each of the two is a number
    # whose digits are batch row, head, block of queries and block of keys.
    own_h, own_t, own_s = 1 if OVER_H else H, 1 if OVER_T else t_blocks, 1 if OVER_S else s_blocks
    rest_b, rest_h = B if OVER_B else 1, H if OVER_H else 1
    rest_t, rest_s = t_blocks if OVER_T else 1, s_blocks if OVER_S else 1
    own = tl.program_id(0)
    my_s, my_t = own % own_s, own // own_s % own_t
    my_h, my_b = own // (own_s * own_t) % own_h, own // (own_s * own_t * own_h)
    t_row, s_row = tl.arange(0, BT)[:, None], tl.arange(0, BS)[:, None]  # (BT, 1), (BS, 1)
    d, d2 = tl.arange(0, D1)[None, :], D1 + tl.arange(0, max(D2, 1))[None, :]  # (1, D1), (1, D2)
    total = tl.zeros([BT, BS], tl.float32)  # (BT, BS)
    for i in range(rest_b * rest_h * rest_t * rest_s):
        b = (my_b + i // (rest_s * rest_t * rest_h)).to(tl.int64)
        h = (my_h + i // (rest_s * rest_t) % rest_h).to(tl.int64)
        t0, s0 = (my_t + i // rest_s % rest_t) * BT, (my_s + i % rest_s) * BS
        t, s = t0 + tl.arange(0, BT), s0 + tl.arange(0, BS)  # (BT,), (BS,)
        in_t, in_s = (t < T)[:, None], (s < S)[:, None]  # (BT, 1), (BS, 1)
        # offset_of, written out: called four times in this loop it costs two instructions a trip on sm_90
        at_q = Q + ((b * q_strides[0] + h * q_strides[1] + t0.to(tl.int64) * q_strides[2]) * UNIT
                    + t_row * (q_strides[2] * UNIT))  # (BT, 1)  # fmt: skip
        at_dout = DOUT + ((b * dout_strides[0] + h * dout_strides[1] + t0.to(tl.int64) * dout_strides[2]) * UNIT
                          + t_row * (dout_strides[2] * UNIT))  # (BT, 1)  # fmt: skip
        at_k = K + ((b * k_strides[0] + h * k_strides[1] + s0.to(tl.int64) * k_strides[2]) * UNIT
                    + s_row * (k_strides[2] * UNIT))  # (BS, 1)  # fmt: skip
        at_v = V + ((b * v_strides[0] + h * v_strides[1] + s0.to(tl.int64) * v_strides[2]) * UNIT
                    + s_row * (v_strides[2] * UNIT))  # (BS, 1)  # fmt: skip
        q, dout = tl.load(at_q + d, in_t & (d < D), 0.0), tl.load(at_dout + d, in_t & (d < D), 0.0)  # (BT, D1)
        k, v = tl.load(at_k + d, in_s & (d < D), 0.0), tl.load(at_v + d, in_s & (d < D), 0.0)  # (BS, D1)
        score = tl.dot(q, tl.trans(k), input_precision="ieee")  # (BT, BS)
        dp = tl.dot(dout, tl.trans(v), input_precision="ieee")  # (BT, BS)
        if D2 > 0:
            q, dout = tl.load(at_q + d2, in_t & (d2 < D), 0.0), tl.load(at_dout + d2, in_t & (d2 < D), 0.0)  # (BT, D2)
            k, v = tl.load(at_k + d2, in_s & (d2 < D), 0.0), tl.load(at_v + d2, in_s & (d2 < D), 0.0)  # (BS, D2)
            score = tl.dot(q, tl.trans(k), score, input_precision="ieee")  # (BT, BS)
            dp = tl.dot(dout, tl.trans(v), dp, input_precision="ieee")  # (BT, BS)
        base = tl.load(BASE + (b * H + h) * ROWS + t)[:, None]  # (BT, 1)
        delta = tl.load(DELTA + (b * H + h) * ROWS + t)[:, None]  # (BT, 1)
        p = find_shares(score, base, scale,
                        None if MASK is None else MASK + b * mask_strides[0] + h * mask_strides[1],
                        BIAS + b * bias_strides[0] + h * bias_strides[1], mask_strides, bias_strides, t, s, T, S,
                        True, CAUSAL, MASK_ROWS, BIAS_ROWS)  # (BT, BS)  # fmt: skip
        total += p * (dp - delta)

    t, s = my_t * BT + tl.arange(0, BT), my_s * BS + tl.arange(0, BS)  # (BT,), (BS,)
    DBIAS += my_b.to(tl.int64) * dbias_strides[0] + my_h.to(tl.int64) * dbias_strides[1]
    if OVER_T and OVER_S:
        tl.store(DBIAS, tl.sum(tl.sum(total, 1), 0).to(DBIAS.dtype.element_ty))
    elif OVER_T:
        tl.store(DBIAS + s * dbias_strides[3], tl.sum(total, 0).to(DBIAS.dtype.element_ty), s < S)
    elif OVER_S:
        tl.store(DBIAS + t * dbias_strides[2], tl.sum(total, 1).to(DBIAS.dtype.element_ty), t < T)
    else:
        at = DBIAS + t[:, None] * dbias_strides[2] + s[None, :] * dbias_strides[3]  # (BT, BS)
        tl.store(at, total.to(DBIAS.dtype.element_ty), (t < T)[:, None] & (s < S)[None, :])


@triton.jit
def find_shares(
    score, base, scale, MASK, BIAS, mask_strides, bias_strides, t, s, T, S,
    EDGE: tl.constexpr, CAUSAL: tl.constexpr, MASK_ROWS: tl.constexpr, BIAS_ROWS: tl.constexpr,
):  # fmt: skip
    """p (BT, BS) from the products q·k: exp(score - lse), and 0 for a pair out of sight; EDGE: also beyond the last."""
    if BIAS is not None:
        bias = load_pairs(BIAS, bias_strides, t, s, t < T, s < S, 0.0, BIAS_ROWS, EDGE).to(tl.float32)
        p = tl.exp2((score * scale + bias - base) * LOG2_E)  # (BT, BS)
    else:
        p = tl.exp2(score * (scale * LOG2_E) - base)  # (BT, BS)
    if EDGE:
        visible = (s < S)[None, :]  # (1, BS)
        if CAUSAL:
            visible = visible & (s[None, :] <= t[:, None] + S - T)  # (BT, BS)
        p = tl.where(visible, p, 0.0)
    if MASK is not None:
        p = tl.where(load_pairs(MASK, mask_strides, t, s, t < T, s < S, 0, MASK_ROWS, EDGE) != 0, p, 0.0)
    return p


def config(D: int, dtype: str, chip: int) -> tuple[dict[str, Any], ...]:
    """Block sizes and launch options of the kernels of the keys, of the queries and of the bias, in this order.

    Each keeps its own block of results in float32 registers, the kernel of the keys two of them; what it walks along
    comes in thinner blocks. chip: 90 for sm_90 and so on, 0 for AMD's.
    """
    if dtype == "float32":  # no tensor cores
        side = 32 if D <= 64 else 16
        return (dict(BT=side, BS=side, num_warps=8, num_stages=1),) * 3
    newer = chip // 10 in (9, 10)  # they multiply from shared memory; sm_80 and its like from registers
    own = 128 if D <= (128 if newer else 96) else 64
    other = 64 if newer and D <= 96 else 32
    warps = 8 if chip else 4
    return (
        dict(BT=other, BS=own, num_warps=warps, num_stages=2),
        dict(BT=own, BS=other, num_warps=warps, num_stages=2),
        dict(BT=64, BS=64, num_warps=4 if newer or not chip else 8, num_stages=2),
    )


@arrays
def attention_backward(
    dout: Array, q: Array, k: Array, v: Array, *, mask: Array | None = None, bias: Array | None = None,
    causal: bool = False, scale: float | None = None, out: Array | None = None, lse: Array | None = None,
    wanted: tuple[bool, bool, bool, bool] | None = None, blocks: tuple[dict[str, Any], ...] | None = None,
) -> tuple[Array | None, Array | None, Array | None, Array | None]:  # fmt: skip
    """The gradients of `attention` for its q, k, v and bias, given that of its output.

        dv = pᵀ dout    ds = p (dout vᵀ - δ)    dq = scale · ds k    dk = scale · dsᵀ q    dbias = ds
        p = exp(score - lse)                    δ = Σ dout · out over the width of a head

    dout, q (B, H, T, D)   k, v (B, H, S, D)   ->   dq, dk, dv and dbias
    mask, bias, causal, scale   as in `attention`
    out, lse  both results of `attention(..., with_lse=True)` for these arguments; without them it runs once more
    wanted    which gradients are needed, of q, k, v and bias, all unless given. The others are None, but dk and dv come
              from one kernel: both do if either is wanted
    blocks    launch options of the three kernels instead of those of `config`
    dq, dk and dv have tokens outermost in memory, so splitting heads goes backward without a copy; dbias has the shape
    and dtype of the bias, summed over the axes along which it was broadcast, and is None where there is no bias. A
    query that may see no key gives no gradient and has none. The same input gives the same bits every time.
    A bias of the lowest float32 for ALL keys of a query is more than lse can hold: hide those keys with the mask.
    Raises OpsError for what the kernels cannot take.
    """
    B, H, T, D, S = sizes(q, k, v)
    if lse is None or out is None:
        out, lse = attention(q, k, v, mask=mask, bias=bias, causal=causal, scale=scale, with_lse=True)
    check_forward(q, dout, out, lse)
    scale = D**-0.5 if scale is None else scale
    to_q, to_k, to_v, to_bias = wanted or (True,) * 4
    dq, (dk, dv) = _tokens_outermost(B, H, T, D, q), (_tokens_outermost(B, H, S, D, q) for _ in range(2))
    q, k, v, out, dout = (rows_of(x) for x in (q, k, v, out, dout))
    unit = 8 if all(step % 8 == 0 for x in (q, k, v, out, dout, dq) for step in x.stride()[:3]) else 1
    in_units = [tuple(step // unit for step in x.stride()[:3]) for x in (q, k, v, dout, out, dq, dk)]
    pairs = tuple(broadcast_strides(*x, (B, H, T, S)) for x in ((mask, "mask"), (bias, "bias")))
    D1, D2 = parts(D)
    how = dict(D=D, D1=D1, D2=D2, UNIT=unit, CAUSAL=causal, MASK_ROWS=pairs[0][2] != 0, BIAS_ROWS=pairs[1][2] != 0)
    of_keys, of_queries, of_bias = blocks or config(D, name_of(q.dtype), chip())
    ROWS = triton.cdiv(T, 128) * 128
    delta, base = (empty((B, H, ROWS), q, "float32") for _ in range(2))
    read = q, k, v, dout, delta, base
    if dq.numel() and any((to_q, to_k, to_v, to_bias)):
        prepare_kernel[(ROWS // 64 * B * H,)](
            out, dout, lse.contiguous(), delta, base, in_units[4], in_units[3], H, T, ROWS,
            LOG2_E.value if bias is None else 1.0, D=D, WIDTH=triton.next_power_of_2(D), BT=64, UNIT=unit,
        )  # fmt: skip
    if dq.numel() and to_q:
        queries_kernel[(triton.cdiv(T, of_queries["BT"]) * B * H,)](
            *read, dq, mask, bias, *in_units[:4], in_units[5], *pairs, H, T, S, ROWS, scale, **how, **of_queries
        )
    if dk.numel() and (to_k or to_v):
        keys_kernel[(triton.cdiv(S, of_keys["BS"]) * B * H,)](
            *read, dk, dv, mask, bias, *in_units[:4], in_units[6], *pairs, H, T, S, ROWS, scale, **how, **of_keys
        )
    dbias = empty(tuple(bias.shape), bias) if bias is not None and to_bias else None
    if bias is not None and dbias is not None and dbias.numel():
        over = [n == 1 for n in (1,) * (4 - len(bias.shape)) + tuple(bias.shape)]  # the axes to sum over
        blocks_of = (B, H, triton.cdiv(T, of_bias["BT"]), triton.cdiv(S, of_bias["BS"]))
        programs = math.prod(1 if summed else n for n, summed in zip(blocks_of, over, strict=True))
        bias_kernel[(programs,)](
            *read, dbias, mask, bias, *in_units[:4], broadcast_strides(dbias, "bias", (B, H, T, S)), *pairs,
            B, H, T, S, ROWS, scale, *over, **how, **of_bias,
        )  # fmt: skip
    both = (dk, dv) if to_k or to_v else (None, None)
    return dq if to_q else None, *both, dbias


def _tokens_outermost(B: int, H: int, rows: int, D: int, like: Array) -> Array:
    """(B, H, rows, D), stored as (B, rows, H, D): merging or splitting heads is a view."""
    return empty((B, rows, H, D), like).swapaxes(1, 2)


def check_forward(q: Array, dout: Array, out: Array, lse: Array) -> None:
    """OpsError where the gradient of the output, the output or its log-sum-exp are not those of these queries."""
    for name, x in (("dout", dout), ("out", out)):
        if tuple(x.shape) != tuple(q.shape) or name_of(x.dtype) != name_of(q.dtype):
            raise OpsError(
                f"attention_backward: {name} is {name_of(x.dtype)} {tuple(x.shape)}, and should be as q,"
                f" {name_of(q.dtype)} {tuple(q.shape)}"
            )
    if tuple(lse.shape) != tuple(q.shape[:3]) or name_of(lse.dtype) != "float32":
        raise OpsError(
            f"attention_backward: lse is {name_of(lse.dtype)} {tuple(lse.shape)}, and should be float32"
            f" {tuple(q.shape[:3])}: what attention gives with with_lse=True"
        )
