"""Ways to break kernels/column_sums.py."""

FILE = "column_sums.py"
TESTS = ["test_kernel_column_sums.py"]
MUTANTS = [
    ("the last tile alone", "total += tl.load", "total = tl.load"),
    ("a row too many", "here = (row < end)", "here = (row <= end)"),
    ("a row too few", "here = (row < end)", "here = (row < end - 1)"),
    ("a column too many", "(c < C)[None, :]  # [ROWS", "(c <= C)[None, :]  # [ROWS"),
    ("a column too many written", "OUT.dtype.element_ty), c < C)", "OUT.dtype.element_ty), c <= C)"),
    ("a chunk beyond the last row", "end = tl.minimum((part + 1) * chunk, rows)", "end = (part + 1) * chunk"),
    ("every chunk sums from the first row", "for start in range(part * chunk, end", "for start in range(0, end"),
    ("chunks over each other", "OUT + part * C + c", "OUT + c"),
    ("unit forgotten", "row[:, None] * (stride * UNIT)", "row[:, None] * stride"),
    ("chunks rounded before the end", 'dtype if parts == 1 else "float32"', "dtype"),
    ("the first chunk for all", "if parts == 1 else column_sums(", "if True else column_sums("),
    ("a chunk more than there may be", "triton.cdiv(triton.cdiv(rows, step), most)", "triton.cdiv(rows, step) // most"),
    ("no rows, no sums", "parts = max(1, triton.cdiv(rows, chunk))", "parts = triton.cdiv(rows, chunk)"),
]
EQUIVALENT = {}
