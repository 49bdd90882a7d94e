"""Ways to break kernels/cross_entropy.py."""

FILE = "cross_entropy.py"
TESTS = ["test_kernel_cross_entropy.py"]
MUTANTS = [
    ("loss: x of the target left out", "loss = (m - x_target) +", "loss = m +"),
    ("loss: maximum left out", "loss = (m - x_target) +", "loss = (0.0 - x_target) +"),
    ("loss: logarithm left out", "tl.log(tl.where(kept, total, 1.0))", "0.0"),
    ("loss: ignored rows count", "tl.where(kept, loss, 0.0), row < rows", "loss, row < rows"),
    ("loss: mean over all rows", "tl.maximum(number, 1)", "tl.maximum(rows, 1)", "mean_loss_kernel"),
    ("loss: 0 where nothing is kept", 'float("nan"))', "0.0)"),
    ("loss: the last rows alone", "total += tl.load(LOSS", "total = tl.load(LOSS"),
    ("highest target not looked at", "if lowest < 0 or highest >= V:", "if lowest < 0:"),
    # ---- backward
    ("the right word left out", "(share - (v[None, :] == target[:, None]).to(tl.float32))", "share"),
    ("the word after the right one", "(v[None, :] == target[:, None])", "(v[None, :] == target[:, None] + 1)"),
    ("pushed the wrong way", "(share - (v", "(-share + (v"),
    ("share not divided", "/ total[:, None]  #", "  #"),
    ("factor left out", ".to(tl.float32)) * factor", ".to(tl.float32)) * 1.0"),
    ("number of all rows", "tl.maximum(number, 1)", "tl.maximum(rows, 1)", "factor_kernel"),
    ("the loss's gradient left out", "tl.load(DLOSS).to(tl.float32) / tl", "1.0 / tl"),
    ("ignored rows not zero", "dx = tl.where(kept[:, None], dx, 0.0)", "dx = dx + 0.0"),
    ("ignored rows not written", "(row < rows)[:, None] & (v < V)[None, :])", "here)"),
    ("the last tile of targets counted", "count += kept", "count = kept"),
    ("padding counted as targets", "row < rows, ignore_index).to(tl.int64)", "row < rows, 0).to(tl.int64)"),
    (
        "shares of other logits",
        "factor = tl.load(FACTOR)",
        "factor, total = tl.load(FACTOR), total * 1.001",
        "cross_entropy_backward_kernel",
    ),
    ("written with x's stride", "row[:, None] * (dx_stride * UNIT)", "row[:, None] * (stride * UNIT)"),
    ("unit forgotten", "row * (stride * UNIT)", "row * stride", "cross_entropy_backward_kernel"),
    (
        "a word too many written",
        "(row < rows)[:, None] & (v < V)[None, :])",
        "(row < rows)[:, None] & (v <= V)[None, :])",
    ),
    ("a row too many", "return row, target, (row < rows) &", "return row, target, (row <= rows) &"),
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
