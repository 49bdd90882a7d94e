"""Ways to break kernels/softmax.py."""

FILE = "softmax.py"
TESTS = ["test_kernel_softmax.py"]
MUTANTS = [
    ("narrow: maximum not taken off", "tl.exp(x - finite(tl.max(x, 1))[:, None])", "tl.exp(x)"),
    ("narrow: a row of -inf is nan", "finite(tl.max(x, 1))", "tl.max(x, 1)"),
    ("narrow: a row of -inf divides by 0", "y / tl.where(total == 0.0, 1.0, total)[:, None]", "y / total[:, None]"),
    ("narrow: a row too many", "here = (row < rows)[:, None] & (c < C)", "here = (row <= rows)[:, None] & (c < C)"),
    ("narrow: a column too many", "here = (row < rows)[:, None] & (c < C)", "here = (row < rows)[:, None] & (c <= C)"),
    ("wide: shares not divided", "y = tl.exp(x - base[:, None]) / total[:, None]", "y = tl.exp(x - base[:, None])"),
    ("wide: a row too many", "in_rows = (row < rows)", "in_rows = (row <= rows)", "softmax_wide_kernel"),
    ("wide rows in one block", "softmax_kernel if C <= tile", "softmax_kernel if True or C <= tile"),
    # ---- backward
    ("the mean not taken off", "(dy - mean[:, None])", "dy"),
    ("the mean not divided", "mean = u / total", "mean = u"),
    ("mean of dy, unweighted", "tl.sum(e * dy, 1)", "tl.sum(dy, 1)"),
    ("u not shrunk", "u * shrink + tl", "u + tl"),
    ("total not shrunk", "total * shrink + tl", "total + tl"),
    ("shrunk by the new maximum", "tl.exp(m - base)", "tl.exp(m_new - base)"),
    ("maximum of the last block", "m_new = tl.maximum(m, tl.max(x, 1))", "m_new = tl.max(x, 1)"),
    ("maximum not kept", "        m = m_new\n", ""),
    ("a row of -inf is nan", "base = finite(m_new)", "base = m_new"),
    (
        "a row of -inf divides by 0",
        "total = tl.where(total == 0.0, 1.0, total)",
        "total = total * 1.0",
        "softmax_backward_kernel",
    ),
    ("shares not divided", "/ total[:, None] * (dy", "* (dy"),
    ("dy read with x's stride", "DY + row[:, None] * (dy_stride * UNIT)", "DY + row[:, None] * (x_stride * UNIT)"),
    ("unit forgotten", "X + row[:, None] * (x_stride * UNIT)", "X + row[:, None] * x_stride"),
    ("a row too many", "in_rows = (row < rows)", "in_rows = (row <= rows)", "softmax_backward_kernel"),
    ("strides swapped", "rows, dout.stride(0) // unit, flat.stride(0)", "rows, flat.stride(0) // unit, dout.stride(0)"),
]
EQUIVALENT = {}
