"""Ways to break kernels/layer_norm_backward.py."""

FILE = "layer_norm_backward.py"
TESTS = ["test_kernel_backward_rows.py"]
MUTANTS = [
    ("w left out of dx", "g = dy * w  #", "g = dy  #"),
    ("mean of g not taken out", "        if CENTRE:\n            dx -=", "        if False:\n            dx -="),
    ("share along n not taken out", "dx = g - n * (tl.sum(g * n, 1) * (1.0 / C))[:, None]", "dx = g"),
    ("share along n of dy", "tl.sum(g * n, 1)", "tl.sum(dy * n, 1)"),
    ("mean over BLOCK", "tl.sum(g * n, 1) * (1.0 / C)", "tl.sum(g * n, 1) * (1.0 / BLOCK)"),
    ("mean of g over BLOCK", "(tl.sum(g, 1) * (1.0 / C))", "(tl.sum(g, 1) * (1.0 / BLOCK))"),
    ("dx without 1/σ", "        dx *= rstd[:, None]\n", ""),
    (
        "1/σ on what the sum carries too",
        "load_rows(DSUM, None, row, c, here, dsum_stride, 0, UNIT)",
        "load_rows(DSUM, None, row, c, here, dsum_stride, 0, UNIT) * rstd[:, None]",
    ),
    ("RMS norm centred", "        if CENTRE:\n            n, _, rstd", "        if True:\n            n, _, rstd"),
    ("RMS norm: eps outside", "(1.0 / C) + eps)  # [ROWS]", "(1.0 / C)) + eps  # [ROWS]"),
    ("residual not added again", "load_rows(X, Z, row", "load_rows(X, None, row"),
    ("what the sum carries left out", "dx += load_rows(DSUM, None, row, c, here, dsum_stride, 0, UNIT)", "dx += 0.0"),
    ("what the sum carries read with x's stride", "here, dsum_stride, 0, UNIT", "here, x_stride, 0, UNIT"),
    ("dy read with x's stride", "here, dy_stride, 0, UNIT", "here, x_stride, 0, UNIT"),
    ("dw of g", "tl.where(here, dy * n, 0.0)", "tl.where(here, g * n, 0.0)"),
    ("dw of x", "tl.where(here, dy * n, 0.0)", "tl.where(here, dy * x, 0.0)"),
    ("dw of the last rows only", "dw += tl.where", "dw = tl.where"),
    ("db of the last rows only", "        db += dy\n", "        db = dy\n"),
    ("db of g", "        db += dy\n", "        db += g\n"),
    ("dw and db swapped", "sums + FOR_W * C, tl.sum(db, 0)", "sums + FOR_W * C, tl.sum(dw, 0)"),
    ("every program's sums in one place", "sums = SUMS + part * ((FOR_W + FOR_B) * C) + c", "sums = SUMS + c"),
    ("a row too many in a chunk", "here = (row < end)[:, None]", "here = (row <= end)[:, None]"),
    ("a row too few in a chunk", "here = (row < end)[:, None]", "here = (row < end - 1)[:, None]"),
    ("a column too many", "(c < C)[None, :]  # [ROWS, BLOCK]\n        x =", "(c <= C)[None, :]\n        x ="),
    ("a chunk that ends beyond the last row", "end = tl.minimum((part + 1) * chunk, rows)", "end = (part + 1) * chunk"),
    ("chunks that overlap", "for start in range(part * chunk, end", "for start in range(part, end"),
    ("w beyond the row", "W + column, column < C, 0.0", "W + column, column <= C, 0.0"),
    ("w read as if contiguous", "*given, w.contiguous(), dx", "*given, w, dx"),
    ("dx of the wrong rows", "DX + row[:, None] * C", "DX + (row - part * chunk)[:, None] * C"),
    ("dw where db is asked for", "both[for_w] if for_b", "both[0] if for_b"),
    ("wide rows let through", "    if C > WIDEST:", "    if False:"),
]
EQUIVALENT = {}
