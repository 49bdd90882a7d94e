r"""Attention of one new query against a cache of keys, with the keys split over many programs.

In words: while a model writes, every step asks one question of all keys so far. attention.py would give that one query
a program of its own, which would walk the whole cache alone while the rest of the chip stands idle. Here the cache is
cut into chunks; a program answers from its chunk, and a second, small kernel puts the answers together.

Formula, for chunk i of the keys s < length of the row (letters as in attention.py):

    m_i = max score_s      l_i = Σ exp(score_s - m_i)      o_i = Σ exp(score_s - m_i) v_s          over the chunk
    m   = max_i m_i        l   = Σ_i exp(m_i - m) l_i      o   = Σ_i exp(m_i - m) o_i / l          over the chunks
    lse = m + ln l         natural logarithm; -inf, and o = 0, where the row has no key to see

Trick: the running softmax of attention.py does not care in which order blocks are added, so they need not be added by
one program. m_i, l_i and o_i are all that has to be remembered of a chunk.

    - With a single query there is no product of matrices: k is multiplied with q number by number and added up, which
      keeps pace with the memory. So no width has to be split, only covered by the next power of two; what is masked
      away is not fetched.
    - Rows of a batch may be of different `lengths`; chunks beyond a row's length end at once.

Bytes: k and v up to each row's length, once; D + 2 numbers per chunk are written and read again.

Schedule: first kernel, program (chunk, head and batch row), BS keys at a time; second kernel, program (head and batch
row), all its chunks at once.

Source: Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference".
"""

import math
from typing import Any

from minivl.errors import OpsError
from minivl.kernels.attention_inputs import broadcast_strides, rows_of, sizes
from minivl.kernels.launch import Array, arrays, empty, name_of, tl, triton

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))


@triton.jit
def chunk_kernel(
    Q, K, V, PART_O, PART_ML,  # (B, H, 1, D), (B, H, S, D) twice, (B·H, chunks, D), (B·H, chunks, 2): m_i and l_i
    LENGTHS, MASK, BIAS,  # (B,), broadcast to (B, H, 1, S) twice; None where there is none
    q_strides, k_strides, v_strides,  # of axes 0, 1, 2; k's and v's in units of UNIT numbers
    mask_strides, bias_strides,
    H, S, scale,
    D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, CHUNK: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(1), tl.program_id(0)
    b, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    length = S
    if LENGTHS is not None:
        length = tl.minimum(S, tl.load(LENGTHS + b).to(tl.int32))
    first = chunk * CHUNK
    d = tl.arange(0, BD)  # (BD,)
    q = tl.load(Q + b * q_strides[0] + h * q_strides[1] + d, d < D, 0.0).to(tl.float32)  # (BD,)
    K += (b * k_strides[0] + h * k_strides[1] + first.to(tl.int64) * k_strides[2]) * UNIT
    V += (b * v_strides[0] + h * v_strides[1] + first.to(tl.int64) * v_strides[2]) * UNIT
    if MASK is not None:
        MASK += b * mask_strides[0] + h * mask_strides[1]
    if BIAS is not None:
        BIAS += b * bias_strides[0] + h * bias_strides[1]
    row = tl.arange(0, BS)  # (BS,)
    at_k = row[:, None] * (k_strides[2] * UNIT) + d[None, :]  # (BS, BD)
    at_v = row[:, None] * (v_strides[2] * UNIT) + d[None, :]  # (BS, BD)

    m = tl.full([1], float("-inf"), tl.float32)  # (1,)
    l = tl.zeros([1], tl.float32)  # (1,)  # noqa: E741
    o = tl.zeros([BD], tl.float32)  # (BD,)
    for s0 in range(first, tl.minimum(first + CHUNK, length), BS):
        s = s0 + row  # (BS,)
        keep = s < length  # (BS,)
        inside = keep[:, None] & (d < D)[None, :]  # (BS, BD)
        k = tl.load(K + at_k, inside, 0.0).to(tl.float32)  # (BS, BD)
        v = tl.load(V + at_v, inside, 0.0).to(tl.float32)  # (BS, BD)
        score = tl.sum(k * q[None, :], 1) * scale  # (BS,)
        if BIAS is not None:
            score += tl.load(BIAS + s * bias_strides[3], keep, 0.0).to(tl.float32)
        if MASK is not None:
            keep &= tl.load(MASK + s * mask_strides[3], keep, 0) != 0
        score = tl.where(keep, score, float("-inf"))
        m_new = tl.maximum(m, tl.max(score, 0))  # (1,)
        base = tl.where(m_new == float("-inf"), 0.0, m_new)  # no key seen yet: -inf minus -inf would be nan
        p = tl.exp2((score - base) * LOG2_E)  # (BS,)
        r = tl.exp2((m - base) * LOG2_E)  # (1,)
        l = l * r + tl.sum(p, 0)  # (1,)  # noqa: E741
        o = o * r + tl.sum(p[:, None] * v, 0)  # (BD,)
        m = m_new
        K += BS * (k_strides[2] * UNIT)
        V += BS * (v_strides[2] * UNIT)

    part = head.to(tl.int64) * tl.num_programs(1) + chunk
    tl.store(PART_O + part * D + d, o, d < D)
    one = tl.arange(0, 1)  # (1,)
    tl.store(PART_ML + part * 2 + one, m)
    tl.store(PART_ML + part * 2 + 1 + one, l)


@triton.jit
def join_kernel(
    PART_O, PART_ML, OUT, LSE,  # (B·H, chunks, D), (B·H, chunks, 2), (B, H, 1, D), (B, H, 1)
    o_strides, H, chunks, D: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BC)  # (BC,)  the chunks
    d = tl.arange(0, BD)  # (BD,)
    part = head * chunks + i  # (BC,)
    m_i = tl.load(PART_ML + part * 2, i < chunks, float("-inf"))  # (BC,)
    l_i = tl.load(PART_ML + part * 2 + 1, i < chunks, 0.0)  # (BC,)
    o_i = tl.load(PART_O + part[:, None] * D + d[None, :], (i < chunks)[:, None] & (d < D)[None, :], 0.0)  # (BC, BD)
    m = tl.max(m_i, 0)
    base = tl.where(m == float("-inf"), 0.0, m)
    r = tl.exp2((m_i - base) * LOG2_E)  # (BC,)  0 for a chunk without keys
    l = tl.sum(l_i * r, 0)  # noqa: E741
    o = tl.sum(o_i * r[:, None], 0) / tl.where(l == 0, 1.0, l)  # (BD,)
    at_o = OUT + head // H * o_strides[0] + head % H * o_strides[1] + d
    tl.store(at_o, o.to(OUT.dtype.element_ty), d < D)
    if LSE is not None:
        tl.store(LSE + head, m + tl.log2(l) * LN_2)  # -inf where no key was seen


def config(S: int) -> dict[str, Any]:
    """The shipped sizes: keys of a block and of a chunk; at most 64 chunks, which the second kernel holds at once."""
    chunk = max(256, triton.next_power_of_2(triton.cdiv(S, 64)))
    return dict(BS=32, CHUNK=chunk, num_warps=4)


@arrays
def decode_attention(
    q: Array, k: Array, v: Array, *, lengths: Array | None = None, mask: Array | None = None, bias: Array | None = None,
    scale: float | None = None, with_lse: bool = False, blocks: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """One query per head takes its share of a cache of values; `attention` with T = 1, and a length for each row.

        softmax(q kᵀ · scale + bias) v          scale = 1/√D unless given (T5 gives 1)

    q (B, H, 1, D)   k, v (B, H, S, D)   ->   (B, H, 1, D); with_lse: also (B, H, 1) float32, ln Σ exp(score).
    lengths  (B,) integer: row b sees its first lengths[b] keys, and none beyond S; None: all S
    mask     bool, True keeps a key, broadcastable to (B, H, 1, S)
    bias     float, added to the scores, broadcastable likewise
    blocks   sizes and launch options instead of those of `config`
    A row that may see no key gives zeros. Raises OpsError for what the kernel cannot take.
    """
    B, H, T, D, S = sizes(q, k, v)
    if T != 1:
        raise OpsError(f"decode_attention: q has {T} queries, and the kernel takes one per head: use attention")
    if lengths is not None and (tuple(lengths.shape) != (B,) or not name_of(lengths.dtype).startswith("int")):
        found = f"{name_of(lengths.dtype)} {tuple(lengths.shape)}"
        raise OpsError(f"decode_attention: lengths are {found}, and should be integers ({B},)")
    q, k, v = rows_of(q), rows_of(k), rows_of(v)
    lengths = None if lengths is None else lengths.contiguous()
    unit = 8 if all(step % 8 == 0 for x in (k, v) for step in x.stride()[:3]) else 1
    k_strides, v_strides = (tuple(step // unit for step in x.stride()[:3]) for x in (k, v))
    options = dict(blocks or config(S))
    chunks = max(1, triton.cdiv(S, options["CHUNK"]))
    BD = triton.next_power_of_2(D)
    part_o, part_ml = empty((B * H, chunks, D), q, "float32"), empty((B * H, chunks, 2), q, "float32")
    out = empty((B, H, 1, D), q)
    lse = empty((B, H, 1), q, "float32") if with_lse else None
    mask_strides, bias_strides = (broadcast_strides(*x, (B, H, 1, S)) for x in ((mask, "mask"), (bias, "bias")))
    if out.numel():
        chunk_kernel[(B * H, chunks)](
            q, k, v, part_o, part_ml, lengths, mask, bias, q.stride()[:3], k_strides, v_strides,
            mask_strides, bias_strides, H, S, D**-0.5 if scale is None else scale, D=D, BD=BD, UNIT=unit, **options,
        )  # fmt: skip
        join_kernel[(B * H,)](
            part_o, part_ml, out, lse, out.stride(), H, chunks, D=D, BD=BD, BC=triton.next_power_of_2(chunks)
        )
    return (out, lse) if with_lse else out
