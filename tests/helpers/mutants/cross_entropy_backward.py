"""Ways to break kernels/cross_entropy_backward.py."""

FILE = "cross_entropy_backward.py"
TESTS = ["test_kernel_backward_rows.py"]
MUTANTS = [
    ("the right word left out", "(share - (v[None, :] == target[:, None]).to(tl.float32))", "share"),
    ("the word after the right one", "(v[None, :] == target[:, None])", "(v[None, :] == target[:, None] + 1)"),
    ("pushed the wrong way", "(share - (v", "(-share + (v"),
    ("share not divided", "/ total[:, None]  #", "  #"),
    ("factor left out", ".to(tl.float32)) * factor", ".to(tl.float32)) * 1.0"),
    ("number of all rows", "tl.maximum(tl.sum(count, 0), 1)", "tl.maximum(rows, 1)"),
    ("the loss's gradient left out", "tl.load(DLOSS).to(tl.float32) / tl", "1.0 / tl"),
    ("ignored rows not zero", "dx = tl.where(kept[:, None], dx, 0.0)", "dx = dx + 0.0"),
    ("ignored rows not written", "(row < rows)[:, None] & (v < V)[None, :])", "here)"),
    ("the last tile of targets counted", "count += kept", "count = kept"),
    ("padding counted as targets", "row < rows, ignore_index).to(tl.int64)", "row < rows, 0).to(tl.int64)"),
    ("shares of other logits", "add_block(m, total, x)\n\n", "add_block(m, total, x * 1.001)\n\n"),
    ("written with x's stride", "row[:, None] * (dx_stride * UNIT)", "row[:, None] * (stride * UNIT)"),
    ("unit forgotten", "x_rows = X + row * (stride * UNIT)", "x_rows = X + row * stride"),
    (
        "a word too many written",
        "(row < rows)[:, None] & (v < V)[None, :])",
        "(row < rows)[:, None] & (v <= V)[None, :])",
    ),
    ("a row too many", "kept = (row < rows) & (target", "kept = (row <= rows) & (target"),
    ("targets of any range", "if lowest < 0 or highest >= V:", "if False:"),
    ("lowest target not looked at", "if lowest < 0 or highest >= V:", "if highest >= V:"),
    ("a copy written instead of the logits", "if flat.data_ptr() != logits.data_ptr():", "if False:"),
    ("the logits written over without being asked", "dx = empty(tuple(logits.shape), logits)", "dx = logits"),
    ("the base not finite", "base = finite(m)", "base = m * 1.0"),
]
EQUIVALENT = {
    "a row too many": "the target of a row beyond the last is loaded as one that is ignored",
    "the base not finite": "a kept row with nothing but -inf in it has no gradient: nan either way, and others are 0",
}
