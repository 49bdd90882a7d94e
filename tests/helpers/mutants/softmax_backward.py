"""Ways to break kernels/softmax_backward.py."""

FILE = "softmax_backward.py"
TESTS = ["test_kernel_backward_rows.py"]
MUTANTS = [
    ("the mean not taken off", "(dy - mean[:, None])", "dy"),
    ("the mean not divided", "mean = u / total", "mean = u"),
    ("mean of dy, unweighted", "tl.sum(e * dy, 1)", "tl.sum(dy, 1)"),
    ("u not shrunk", "u * shrink + tl", "u + tl"),
    ("total not shrunk", "total * shrink + tl", "total + tl"),
    ("shrunk by the new maximum", "tl.exp(m - base)", "tl.exp(m_new - base)"),
    ("maximum of the last block", "m_new = tl.maximum(m, tl.max(x, 1))", "m_new = tl.max(x, 1)"),
    ("maximum not kept", "        m = m_new\n", ""),
    ("a row of -inf is nan", "base = finite(m)  # [ROWS]\n    total", "base = m\n    total"),
    ("a row of -inf divides by 0", "total = tl.where(total == 0.0, 1.0, total)", "total = total * 1.0"),
    ("shares not divided", "/ total[:, None] * (dy", "* (dy"),
    ("dy read with x's stride", "DY + row[:, None] * (dy_stride * UNIT)", "DY + row[:, None] * (x_stride * UNIT)"),
    ("unit forgotten", "X + row[:, None] * (x_stride * UNIT)", "X + row[:, None] * x_stride"),
    ("a row too many", "in_rows = (row < rows)", "in_rows = (row <= rows)"),
    ("strides swapped", "rows, dout.stride(0) // unit, flat.stride(0)", "rows, flat.stride(0) // unit, dout.stride(0)"),
]
EQUIVALENT = {}
