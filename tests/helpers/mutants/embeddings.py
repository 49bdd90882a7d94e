"""Ways to break kernels/embeddings.py."""

FILE = "embeddings.py"
TESTS = ["test_kernel_embeddings.py"]
MUTANTS = [
    ("forward: ids outside the table", "as_rows(table)\n    check_ids(flat, V)", "as_rows(table)"),
    ("forward: unit forgotten", "id[:, None] * (stride * UNIT)", "id[:, None] * stride"),
    ("forward: a column too many", "(id < V)[:, None] & (c < C)", "(id < V)[:, None] & (c <= C)"),
    ("forward: too few programs", 'triton.cdiv(count, tile["ROWS"]), triton', 'max(1, count // tile["ROWS"]), triton'),
    ("survey: the first block of ids alone", "i = program * BLOCK +", "i = program * 0 +"),
    ("survey: lowest id not looked at", "if min(lowest) < 0 or max", "if max"),
    ("survey: highest id not looked at", "if min(lowest) < 0 or max(highest) >= V:", "if min(lowest) < 0:"),
    ("survey: one id too many", "max(highest) >= V:", "max(highest) > V:"),
    # ---- backward
    ("the last token of a word alone", "acc += tl.load(DY", "acc = tl.load(DY"),
    ("one token too few", "range(0, tl.max(number, 0))", "range(0, tl.max(number, 0) - 1)"),
    ("tokens of the first row for all", "ORDER + first + i", "ORDER + i"),
    ("tokens of a shorter word past its last", "here = (i < number)[:, None]", "here = (i <= number)[:, None]"),
    ("ids not smaller but at most v", "(id < v), ahead", "(id <= v), ahead"),
    ("ids beyond the last looked at", "found = tl.where((ahead <= count) & (id", "found = tl.where((id"),
    ("halving stops a step early", "for i in range(STEPS)", "for i in range(STEPS - 1)"),
    ("a step too large", "(1 << STEPS) >> (i + 1)", "(1 << STEPS) >> i"),
    ("one look-up too few", "STEPS=count.bit_length()", "STEPS=(count - 1).bit_length()"),
    (
        "sorted ids taken for their tokens",
        "return ids.sort(stable=True)",
        "return ids.sort(stable=True)[0], ids.long()",
    ),
    ("rows nobody read left out", "here = (v < V)[:, None] & (c", "here = ((v < V) & (number > 0))[:, None] & (c"),
    ("a row too many", "here = (v < V)", "here = (v <= V)"),
    ("a column too many", "(c < C)[None, :]  # [ROWS, BLOCK]\n    tl.store", "(c <= C)[None, :]\n    tl.store"),
    ("unit forgotten", "t[:, None] * (stride * UNIT)", "t[:, None] * stride"),
    ("ids outside the table", "    if count:\n        check_ids", "    if False:\n        check_ids"),
    ("shapes not compared", "if tuple(dout.shape) != (*ids.shape, C):", "if False:"),
]
EQUIVALENT = {
    "ids beyond the last looked at": "past the last id the load gives 2**31 - 1, which no row of a table reaches",
}
