"""Ways to break kernels/attention.py."""

FILE = "attention.py"
TESTS = ["test_kernel_attention.py"]
MUTANTS = [
    ("log-sum-exp in powers of two", "tl.log2(l) * LN_2  #", "tl.log2(l)  #"),
    ("log-sum-exp without the largest score", "lse = m * (scale if FOLDED else 1.0) + ", "lse = "),
    ("log-sum-exp of the unscaled score", "m * (scale if FOLDED else 1.0)", "m"),
    ("log-sum-exp of one head over another's", "LSE + head.to(tl.int64) * T + t", "LSE + h * T + t"),
    ("tail one key too long", "visible = (s < S)[None, :]", "visible = (s <= S)[None, :]"),
    ("tail one key too short", "visible = (s < S)[None, :]", "visible = (s < S - 1)[None, :]"),
    ("tail left out", "seen if edge else whole, BS", "whole, BS"),
    ("tail reads rows beyond the last", "in_d & (s < S)[:, None], in_d2", "in_d & (s < S + 1)[:, None], in_d2"),
    ("second part's tail reads rows beyond the last", "in_d2 & (s < S)[:, None]", "in_d2 & (s < S + 1)[:, None]"),
    ("second part reads beyond the head", "d < D, d2 < D ", "d < D, d2 < D + 1 "),
    ("first part of a narrow head reads beyond it", "d < D, d2 < D ", "d < D + 1, d2 < D "),
    ("causal shifted by one, sees one more", "<= t[:, None] + S - T)", "<= t[:, None] + S - T + 1)"),
    ("causal shifted by one, sees one less", "<= t[:, None] + S - T)", "< t[:, None] + S - T)"),
    ("causal lines up the first query with the first key", "<= t[:, None] + S - T)", "<= t[:, None])"),
    (
        "causal: a block counted as seen whole too early",
        "tl.maximum(t0 + 1 + S - T, 0)",
        "tl.maximum(t0 + BS + S - T, 0)",
    ),
    ("causal: the diagonal stops a key early", "tl.maximum(t0 + BT + S - T, 0)", "tl.maximum(t0 + BT + S - T - 1, 0)"),
    (
        "mask ignored in the last row",
        "tl.where(keep != 0, score,",
        "tl.where((keep != 0) | (t == T - 1)[:, None], score,",
    ),
    ("mask of the first batch row for all", "MASK += b * mask_strides[0] + h", "MASK += h"),
    ("mask not moved on with the keys", "                MASK += BS * mask_strides[3]\n", ""),
    ("mask of a head for all heads", "b * mask_strides[0] + h * mask_strides[1]", "b * mask_strides[0]"),
    ("bias not moved on with the keys", "                BIAS += BS * bias_strides[3]\n", ""),
    (
        "bias after the scale",
        "if not FOLDED:\n                score *= scale",
        "if False:\n                score *= scale",
    ),
    ("K's stride used for V", "V + (at_v + d)", "V + (at_k + d)"),
    ("K's stride used for V's second part", "V + (at_v + d2)", "V + (at_k + d2)"),
    ("K's stride moves V on", "V += BS * (v_strides[2] * UNIT)", "V += BS * (k_strides[2] * UNIT)"),
    ("V's stride used for the output", "UNIT) + t_row * (o_strides[2]", "UNIT) + t_row * (v_strides[2]"),
    ("old total not scaled down", "l = l * r + tl.sum(p, 1)", "l = l + tl.sum(p, 1)"),
    ("old output not scaled down", "tl.dot(p, v, o * r[:, None]", "tl.dot(p, v, o"),
    ("second part of the output not scaled down", "tl.dot(p, v2, o2 * r[:, None]", "tl.dot(p, v2, o2"),
    ("second part not divided by the total", "(o2 * share)", "(o2 * 1.0)"),
    (
        "second part of the head left out of the score",
        "tl.dot(q2, tl.trans(k2), score,",
        "tl.dot(q2 * 0, tl.trans(k2), score,",
    ),
    ("a query without keys gives nan", "tl.where(l == 0, 1.0, l)", "l"),
    ("largest score not kept from block to block", "tl.maximum(m, tl.max(score, 1))", "tl.max(score, 1)"),
    ("a bias of -inf gives nan", "or MASK is not None or BIAS is not None:", "or MASK is not None:"),
    ("strides not in units", "for step in x.stride()[:3]) else 1", "for step in x.stride()[:2]) else 1"),
    ("the largest score subtracted but for the first block", "base = m_new  #", "base = tl.maximum(m_new, -1e30)  #"),
    (
        "16-bit shares rounded before they are added up",
        "tl.sum(p, 1)",
        "tl.sum(p.to(V.dtype.element_ty).to(tl.float32), 1)",
    ),
]
EQUIVALENT = {
    "the largest score subtracted but for the first block": "whatever is subtracted cancels out, until it overflows",
}
