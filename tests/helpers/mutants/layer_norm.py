"""Ways to break kernels/layer_norm.py."""

FILE = "layer_norm.py"
TESTS = ["test_kernel_layer_norm.py"]
MUTANTS = [
    ("eps left out", "tl.rsqrt(tl.where(var < 0, 0.0, var) + eps)", "tl.rsqrt(tl.where(var < 0, 0.0, var) + 1e-5)"),
    (
        "eps outside the root",
        "tl.rsqrt(tl.where(var < 0, 0.0, var) + eps)",
        "1 / (tl.sqrt(tl.where(var < 0, 0.0, var)) + eps)",
    ),
    ("negative variance let through", "tl.where(var < 0, 0.0, var)", "var"),
    ("nan variance dropped", "tl.where(var < 0, 0.0, var)", "tl.where(var > 0, var, 0.0)"),
    ("variance not corrected", "var = power - rest * rest", "var = power"),
    ("variance corrected twice", "var = power - rest * rest", "var = power - 2 * rest * rest"),
    (
        "unbiased variance",
        "one_over_deviation(tl.sum(s * s, 1) * (1.0 / C), rest, eps)",
        "one_over_deviation(tl.sum(s * s, 1) * (1.0 / max(C - 1, 1)), rest, eps)",
    ),
    (
        "padding counted into the variance",
        "s = tl.where((c < C)[None, :], x - pivot[:, None], 0.0)  # [ROWS, BLOCK]\n    rest",
        "s = x - pivot[:, None]\n    rest",
    ),
    ("mean without what rounding left", "rstd[:, None], pivot + rest, rstd", "rstd[:, None], pivot, rstd"),
    ("result without what rounding left", "return (s - rest[:, None]) * rstd", "return s * rstd"),
    ("mean over BLOCK", "pivot = tl.sum(x, 1) * (1.0 / C)", "pivot = tl.sum(x, 1) * (1.0 / 2048)"),
    ("z read with x's stride", "row[:, None] * (z_stride * UNIT)", "row[:, None] * (x_stride * UNIT)"),
    (
        "x read as if contiguous",
        "x = tl.load(X + row[:, None] * (x_stride * UNIT)",
        "x = tl.load(X + row[:, None] * (x_stride * UNIT * 0 + 1408)",
    ),
    ("unit forgotten", "X + row[:, None] * (x_stride * UNIT)", "X + row[:, None] * x_stride"),
    ("w taken for b", "tl.load(B + column", "tl.load(W + column"),
    ("b left out", "    if B is not None:\n        y += tl.load(B + column, column < C, 0.0).to(tl.float32)\n", ""),
    ("w left out", "y = normed * tl.load(W + column, column < C, 0.0).to(tl.float32)", "y = normed"),
    ("sum stored normed", "tl.store(SUM + place, x.to(", "tl.store(SUM + place, normed.to("),
    (
        "sum rounded before it is normalised",
        "here, 0.0).to(tl.float32)\n    return x",
        "here, 0.0).to(tl.float32)\n        x = x.to(X.dtype.element_ty).to(tl.float32)\n    return x",
    ),
    (
        "last row not written",
        "here = (row < rows)[:, None] & (c < C)[None, :]",
        "here = (row < rows - 1)[:, None] & (c < C)[None, :]",
    ),
    (
        "a row too many",
        "here = (row < rows)[:, None] & (c < C)[None, :]",
        "here = (row <= rows)[:, None] & (c < C)[None, :]",
    ),
    (
        "last column not written",
        "here = (row < rows)[:, None] & (c < C)[None, :]",
        "here = (row < rows)[:, None] & (c < C - 1)[None, :]",
    ),
    (
        "a column too many",
        "here = (row < rows)[:, None] & (c < C)[None, :]",
        "here = (row < rows)[:, None] & (c <= C)[None, :]",
    ),
    ("statistics unmasked", "tl.store(MEAN + row, mean, row < rows)", "tl.store(MEAN + row, mean)"),
    (
        "rstd of the first row for all",
        "tl.store(RSTD + row, rstd, row < rows)",
        "tl.store(RSTD + row, tl.sum(tl.where(row % 2 == 0, rstd, 0.0), 0) + rstd * 0, row < rows)",
    ),
    (
        "mean and rstd swapped",
        "        store_statistics(MEAN, RSTD, mean, rstd, row, rows)\n    else",
        "        store_statistics(MEAN, RSTD, rstd, mean, row, rows)\n    else",
    ),
    (
        "RMS norm: eps outside",
        "rstd = tl.rsqrt(tl.sum(x * x, 1) * (1.0 / C) + eps)",
        "rstd = tl.rsqrt(tl.sum(x * x, 1) * (1.0 / C)) + eps",
    ),
    (
        "RMS norm: mean over BLOCK",
        "rstd = tl.rsqrt(tl.sum(x * x, 1) * (1.0 / C) + eps)",
        "rstd = tl.rsqrt(tl.sum(x * x, 1) * (1.0 / BLOCK) + eps)",
    ),
    (
        "programs overlap",
        "row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]\n    c =",
        "row = tl.program_id(0).to(tl.int64) + tl.arange(0, ROWS)  # [ROWS]\n    c =",
    ),
    ("too few programs", 'triton.cdiv(rows, tile["ROWS"])', 'max(1, rows // tile["ROWS"])'),
    ("wide: pivot over C", "pivot = tl.sum(first, 1) * (1.0 / BLOCK)", "pivot = tl.sum(first, 1) * (1.0 / C)"),
    ("wide: no pivot", "pivot = tl.sum(first, 1) * (1.0 / BLOCK)", "pivot = tl.sum(first, 1) * 0.0"),
    (
        "wide: padding counted",
        "s = tl.where((c < C)[None, :], x - pivot[:, None], 0.0)  # [ROWS, BLOCK]\n        total",
        "s = x - pivot[:, None]\n        total",
    ),
    ("wide: only the last block summed", "total += s\n", "total = s\n"),
    ("wide: squares of the last block", "squares += s * s", "squares = s * s"),
    (
        "wide: first block not summed",
        "  # [ROWS, BLOCK]\n    for start in range(0, C, BLOCK)",
        "  # [ROWS, BLOCK]\n    for start in range(BLOCK, C, BLOCK)",
    ),
    (
        "wide: tail not summed",
        "  # [ROWS, BLOCK]\n    for start in range(0, C, BLOCK)",
        "  # [ROWS, BLOCK]\n    for start in range(0, C // BLOCK * BLOCK, BLOCK)",
    ),
    (
        "wide: tail not written",
        "row, rows)\n\n    for start in range(0, C, BLOCK)",
        "row, rows)\n\n    for start in range(0, C // BLOCK * BLOCK, BLOCK)",
    ),
    (
        "wide: mean without the rest",
        "store_statistics(MEAN, RSTD, pivot + rest, rstd, row, rows)",
        "store_statistics(MEAN, RSTD, pivot, rstd, row, rows)",
    ),
    (
        "wide: result without the rest",
        "normed = (x - pivot[:, None] - rest[:, None]) * rstd",
        "normed = (x - pivot[:, None]) * rstd",
    ),
    (
        "wide: RMS norm centred",
        "rest = tl.sum(total, 1) * (1.0 / C) if CENTRE else tl.zeros([ROWS], tl.float32)",
        "rest = tl.sum(total, 1) * (1.0 / C)",
    ),
    ("wide: pivot and rest in one", "(x - pivot[:, None] - rest[:, None])", "(x - (pivot + rest)[:, None])"),
    (
        "strides swapped",
        "rows, strides[0] // unit, strides[1] // unit, eps",
        "rows, strides[1] // unit, strides[0] // unit, eps",
    ),
    ("w read as if contiguous", "flat, more, w.contiguous(),", "flat, more, w,"),
    ("b read as if contiguous", "None if b is None else b.contiguous(), out", "b, out"),
]
EQUIVALENT = {}
