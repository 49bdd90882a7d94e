"""Ways to break kernels/decode_attention.py."""

FILE = "decode_attention.py"
TESTS = ["test_kernel_decode_attention.py"]
MUTANTS = [
    ("log-sum-exp in powers of two", "m + tl.log2(l) * LN_2", "m + tl.log2(l)"),
    ("log-sum-exp without the largest score", "m + tl.log2(l) * LN_2", "tl.log2(l) * LN_2"),
    ("one key too many", "keep = s < length", "keep = s <= length"),
    ("one key too few", "keep = s < length", "keep = s < length - 1"),
    ("length of the first row for all", "tl.load(LENGTHS + b)", "tl.load(LENGTHS)"),
    (
        "a length beyond the cache believed",
        "tl.minimum(S, tl.load(LENGTHS + b).to(tl.int32))",
        "tl.load(LENGTHS + b).to(tl.int32)",
    ),
    ("chunks overlap", "tl.minimum(first + CHUNK, length)", "tl.minimum(first + CHUNK + 1, length)"),
    ("chunks stop a key early", "tl.minimum(first + CHUNK, length)", "tl.minimum(first + CHUNK - BS, length)"),
    (
        "every chunk reads the first one's keys",
        "h * k_strides[1] + first.to(tl.int64) * k_strides[2]",
        "h * k_strides[1]",
    ),
    ("K's stride used for V", "at_v = row[:, None] * (v_strides", "at_v = row[:, None] * (k_strides"),
    ("K's stride moves V on", "V += BS * (v_strides[2]", "V += BS * (k_strides[2]"),
    ("mask ignored in the last row", "keep &= tl.load(", "keep &= (b == 2) | tl.load("),
    ("mask of the first row for all", "MASK += b * mask_strides[0] + h", "MASK += h"),
    ("mask taken from the chunk's beginning", "MASK + s * mask_strides[3]", "MASK + row * mask_strides[3]"),
    ("bias taken from the chunk's beginning", "BIAS + s * bias_strides[3]", "BIAS + row * bias_strides[3]"),
    ("bias of the first head for all", "b * bias_strides[0] + h * bias_strides[1]", "b * bias_strides[0]"),
    ("scale left out", "tl.sum(k * q[None, :], 1) * scale", "tl.sum(k * q[None, :], 1)"),
    ("old total not scaled down", "l = l * r + tl.sum(p, 0)", "l = l + tl.sum(p, 0)"),
    ("old output not scaled down", "o = o * r + ", "o = o + "),
    ("chunks joined without scaling their totals", "tl.sum(l_i * r, 0)", "tl.sum(l_i, 0)"),
    ("chunks joined without scaling their outputs", "tl.sum(o_i * r[:, None], 0)", "tl.sum(o_i, 0)"),
    ("the last chunk left out", "part * 2 + 1, i < chunks, 0.0", "part * 2 + 1, i < chunks - 1, 0.0"),
    ("a row without keys gives nan", "tl.where(l == 0, 1.0, l)", "l"),
    ("a chunk without keys gives nan", 'tl.where(m_new == float("-inf"), 0.0, m_new)', "m_new"),
    ("a head's output in another's place", "head % H * o_strides[1]", "head % H * o_strides[0]"),
    ("a lowest float32 overflows", "(score - base) * LOG2_E", "score * LOG2_E - base * LOG2_E"),
    ("strides not in units", "for step in x.stride()[:3]) else 1", "for step in x.stride()[:2]) else 1"),
    (
        "largest score not kept from block to block",
        "tl.maximum(m, tl.max(score, 0))",
        "tl.maximum(m * 0 + tl.max(score, 0), tl.max(score, 0))",
    ),
]
EQUIVALENT = {}
