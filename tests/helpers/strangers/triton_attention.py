"""A stranger's attention, right, and written otherwise than ours: for the workbench to judge, whole and broken."""

import torch
import triton
import triton.language as tl


@triton.jit
def fwd(
    Q, K, V, M, A, OUT, L,
    sqb, sqh, sqm, sqd, skb, skh, skn, skd, svb, svh, svn, svd, sob, soh, som,
    smb, smh, smm, smn, sab, sah, sam, san,
    n_heads, n_q, n_k, d, sm_scale,
    IS_CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * BLOCK_M
    z = tl.program_id(1) // n_heads
    y = tl.program_id(1) % n_heads
    rm = start + tl.arange(0, BLOCK_M)
    rd = tl.arange(0, BLOCK_D)
    q = tl.load(
        Q + z * sqb + y * sqh + rm[:, None] * sqm + rd[None, :] * sqd, (rm < n_q)[:, None] & (rd < d)[None, :], 0.0
    )
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    top = tl.full((BLOCK_M,), -1e30, tl.float32)
    den = tl.zeros((BLOCK_M,), tl.float32)
    for n in range(0, n_k, BLOCK_N):
        rn = n + tl.arange(0, BLOCK_N)
        inside = (rn < n_k)[:, None] & (rd < d)[None, :]
        k = tl.load(K + z * skb + y * skh + rn[:, None] * skn + rd[None, :] * skd, inside, 0.0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * sm_scale
        pair = (rm < n_q)[:, None] & (rn < n_k)[None, :]
        if A is not None:
            s += tl.load(A + z * sab + y * sah + rm[:, None] * sam + rn[None, :] * san, pair, 0.0).to(tl.float32)
        seen = pair
        if IS_CAUSAL:
            seen = seen & (rn[None, :] <= rm[:, None] + n_k - n_q)
        if M is not None:
            seen = seen & (tl.load(M + z * smb + y * smh + rm[:, None] * smm + rn[None, :] * smn, pair, 0) != 0)
        s = tl.where(seen, s, float("-inf"))
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp(s - new[:, None])
        fix = tl.exp(top - new)
        den = den * fix + tl.sum(p, 1)
        v = tl.load(V + z * svb + y * svh + rn[:, None] * svn + rd[None, :] * svd, inside, 0.0)
        acc = acc * fix[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        top = new
    acc = acc / tl.where(den == 0, 1.0, den)[:, None]
    where = OUT + z * sob + y * soh + rm[:, None] * som + rd[None, :]
    tl.store(where, acc.to(OUT.dtype.element_ty), (rm < n_q)[:, None] & (rd < d)[None, :])
    if L is not None:
        lse = tl.where(den == 0, float("-inf"), top + tl.log(den))
        tl.store(L + tl.program_id(1) * n_q + rm, lse, rm < n_q)


def attention(q, k, v, *, mask=None, bias=None, causal=False, scale=None, return_lse=False):
    b, h, n_q, d = q.shape
    n_k = k.shape[2]
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((b, h, n_q), dtype=torch.float32, device=q.device) if return_lse else None
    m = None if mask is None else mask.expand(b, h, n_q, n_k)
    a = None if bias is None else bias.expand(b, h, n_q, n_k)
    none = (0, 0, 0, 0)
    fwd[(triton.cdiv(n_q, 32), b * h)](
        q, k, v, m, a, o, lse, *q.stride(), *k.stride(), *v.stride(), *o.stride()[:3],
        *(none if m is None else m.stride()), *(none if a is None else a.stride()),
        h, n_q, n_k, d, d**-0.5 if scale is None else scale,
        IS_CAUSAL=causal and n_q > 1, BLOCK_M=32, BLOCK_N=64, BLOCK_D=max(16, triton.next_power_of_2(d)),
    )  # fmt: skip
    return (o, lse) if return_lse else o
