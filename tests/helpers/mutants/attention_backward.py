"""Ways to break kernels/attention_backward.py."""

FILE = "attention_backward.py"
TESTS = ["test_kernel_attention_backward.py"]
MUTANTS = [
    ("δ left out of the score's gradient", "ds = (p * (dp - delta)).to(Q.dtype", "ds = (p * dp).to(Q.dtype"),
    ("δ of the queries' kernel left out", "ds = (p * (dp - delta)).to(K.dtype", "ds = (p * dp).to(K.dtype"),
    ("δ of the bias's kernel left out", "total += p * (dp - delta)", "total += p * dp"),
    ("δ of one head over another's", "DELTA += head.to(tl.int64) * ROWS", "DELTA += h * ROWS"),
    ("lse of one head for all batch rows", "BASE += head.to(tl.int64) * ROWS", "BASE += h * ROWS"),
    ("lse in powers of two with a bias as well", "LOG2_E.value if bias is None else 1.0", "LOG2_E.value"),
    ("lse never in powers of two", "LOG2_E.value if bias is None else 1.0", "1.0"),
    (
        "a query that sees nothing divides zero by zero",
        'tl.where(lse == float("-inf"), float("inf"), lse * factor)',
        "lse * factor",
    ),
    ("prepared rows are not filled up", 'in_t, float("-inf"))  # (BT,)', "in_t, 0.0)  # (BT,)"),
    ("dk not scaled", "tl.where(keep, dk * scale, 0.0)", "tl.where(keep, dk, 0.0)"),
    ("dk's second part not scaled", "tl.where(keep, dk2 * scale, 0.0)", "tl.where(keep, dk2, 0.0)"),
    ("dq not scaled", "(dq * scale).to", "(dq * 1.0).to"),
    ("dq's second part not scaled", "(dq2 * scale).to", "(dq2 * 1.0).to"),
    ("dv scaled", "tl.where(keep, dv, 0.0)", "tl.where(keep, dv * scale, 0.0)"),
    (
        "dp without the second part, keys",
        "dp = tl.dot(v2, tl.trans(dout2), dp,",
        "dp = tl.dot(v2 * 0, tl.trans(dout2), dp,",
    ),
    (
        "dp without the second part, queries",
        "dp = tl.dot(dout2, tl.trans(v2), dp,",
        "dp = tl.dot(dout2 * 0, tl.trans(v2), dp,",
    ),
    (
        "dp without the second part, bias",
        "dp = tl.dot(dout, tl.trans(v), dp,",
        "dp = tl.dot(dout * 0, tl.trans(v), dp,",
    ),
    ("score without the second part, keys", "tl.dot(k2, tl.trans(q2), score,", "tl.dot(k2 * 0, tl.trans(q2), score,"),
    (
        "K's stride used for V, keys",
        "V + s_row * (v_strides[2] * UNIT)  # (BS, 1)\n    k, v",
        "V + s_row * (k_strides[2] * UNIT)  # (BS, 1)\n    k, v",
    ),
    (
        "K's stride used for V, queries",
        "s_row * (v_strides[2] * UNIT)  # (BS, 1)  within",
        "s_row * (k_strides[2] * UNIT)  # (BS, 1)  within",
    ),
    ("K's stride moves V on", "V += BS * (v_strides[2] * UNIT)", "V += BS * (k_strides[2] * UNIT)"),
    (
        "Q's stride used for dout, keys",
        "t_row * (dout_strides[2] * UNIT)  # (BT, 1)  within",
        "t_row * (q_strides[2] * UNIT)  # (BT, 1)  within",
    ),
    ("Q's stride moves dout on", "DOUT += BT * (dout_strides[2] * UNIT)", "DOUT += BT * (q_strides[2] * UNIT)"),
    ("dout's stride used for out", "row[:, None] * (out_strides[2] * UNIT)", "row[:, None] * (dout_strides[2] * UNIT)"),
    (
        "causal: the diagonal of the keys sees one more",
        "p = tl.where(s[:, None] <= t[None, :] + S - T, p",
        "p = tl.where(s[:, None] <= t[None, :] + S - T + 1, p",
    ),
    (
        "causal: the diagonal of the queries sees one less",
        "(s[None, :] <= t[:, None] + S - T)",
        "(s[None, :] < t[:, None] + S - T)",
    ),
    (
        "causal: first query with first key, keys",
        "p = tl.where(s[:, None] <= t[None, :] + S - T, p",
        "p = tl.where(s[:, None] <= t[None, :], p",
    ),
    (
        "causal: a block of queries counted as whole too early",
        "tl.maximum(s0 + BS - 1 + T - S, 0)",
        "tl.maximum(s0 + T - S, 0)",
    ),
    (
        "causal: the first block of queries left out",
        "tl.minimum(tl.maximum(s0 + T - S, 0), T) // BT * BT",
        "tl.cdiv(tl.minimum(tl.maximum(s0 + T - S, 0), T), BT) * BT",
    ),
    ("tail of the keys one too long", "visible = (s < S)[None, :]", "visible = (s <= S)[None, :]"),
    ("tail of the keys reads beyond the last", "in_d & (s < S)[:, None], in_d2", "in_d & (s <= S)[:, None], in_d2"),
    ("tail of the keys left out", "seen if edge else whole, BS", "whole, BS"),
    (
        "tail of the queries reads beyond the last",
        "(t < T)[:, None] & (d < D), (t < T)",
        "(t <= T)[:, None] & (d < D), (t < T)",
    ),
    ("tail of the queries left out", "T if below else whole, BT", "T // BT * BT if below else whole, BT"),
    (
        "mask ignored for one query, keys",
        "p = tl.where(tl.load(at, in_s[:, None] & (t < T)[None, :], 0) != 0, p, 0.0)",
        "p = tl.where((tl.load(at, in_s[:, None] & (t < T)[None, :], 0) != 0) | (t == 1)[None, :], p, 0.0)",
    ),
    (
        "mask of keys ignored at the end",
        "(tl.load(MASK + s * mask_strides[3], in_s, 0) != 0)[:, None]",
        "in_s[:, None]",
    ),
    (
        "mask ignored by queries and bias",
        "tl.where(load_pairs(MASK, mask_strides, t, s, t < T, s < S, 0, MASK_ROWS, EDGE) != 0, p, 0.0)",
        "p",
    ),
    (
        "mask's strides changed over",
        "MASK + t[None, :] * mask_strides[2] + s[:, None] * mask_strides[3]",
        "MASK + t[None, :] * mask_strides[3] + s[:, None] * mask_strides[2]",
    ),
    ("mask of the first batch row for the bias", "MASK + b * mask_strides[0] + h", "MASK + h"),
    (
        "bias of the first head for its own gradient",
        "b * bias_strides[0] + h * bias_strides[1], mask_strides",
        "b * bias_strides[0], mask_strides",
    ),
    (
        "bias scaled, keys",
        "(score * scale + bias - base) * LOG2_E)  # (BS, BT)",
        "((score + bias) * scale - base) * LOG2_E)  # (BS, BT)",
    ),
    ("bias's gradient scaled", "total += p * (dp - delta)", "total += scale * p * (dp - delta)"),
    ("bias's gradient of the last block only", "total += p * (dp - delta)", "total = p * (dp - delta)"),
    ("bias's gradient not summed over the batch", "rest_b, rest_h = B if OVER_B else 1,", "rest_b, rest_h = 1,"),
    ("bias's gradient not summed over the heads", "H if OVER_H else 1\n", "1\n"),
    ("bias's gradient summed over one block of queries", "t_blocks if OVER_T else 1,", "1,"),
    ("bias's gradient summed over one block of keys", "s_blocks if OVER_S else 1\n", "1\n"),
    ("bias's gradient of one head under another's", "own // (own_s * own_t) % own_h", "own // (own_s * own_t)"),
    ("strides not in units", "for step in x.stride()[:3]) else 1", "for step in x.stride()[:2]) else 1"),
    ("δ from 16-bit products", "out.to(tl.float32) * dout.to(tl.float32)", "(out * dout).to(tl.float32)"),
]
EQUIVALENT = {}
