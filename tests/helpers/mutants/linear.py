"""Ways to break kernels/linear.py."""

FILE = "linear.py"
TESTS = ["test_kernel_linear.py"]
MUTANTS = [
    ("forward: activation left out", "y = activate(z, act)", "y = z"),
    ("forward: a feature too many", "(f[None, :] < F)", "(f[None, :] <= F)", "linear_kernel"),
    ("tiles: the last group as tall as the others", "tl.minimum(tl.cdiv(M, BLOCK_M) - top, GROUP)", "GROUP"),
    ("rows: past the last one", "tl.minimum(row, rows - 1).to", "row.to"),
    ("rows: unit forgotten", "row[:, None] * (stride * V)", "row[:, None] * stride"),
    (
        "sum of the last trip",
        "        w = tl.load(w_at + start)  # [BLOCK_F, BLOCK_C]\n        acc = tl.dot(x, tl.trans(w), acc,",
        "        w = tl.load(w_at + start)\n        acc = tl.dot(x, tl.trans(w),",
        "tile_product",
    ),
    ("gated: gate and up swapped", "(activate(gate, act) * up)", "(activate(up, act) * gate)"),
    ("gated: activation left out", "(activate(gate, act) * up)", "(gate * up)"),
    ("gated: tail of up left out", "tl.load(u_at + whole, inside, 0.0)", "tl.load(u_at + whole, inside & False, 0.0)"),
    ("gated: unit forgotten", "whole = C * V //", "whole = C //", "gated_linear_kernel"),
    # ---- both ways
    ("slope of z without its bias", "acc += tl.load(B + f, f < F, 0.0)", "acc += 0 * tl.load(B + f, f < F, 0.0)"),
    # ---- backward
    ("slope left out", "(dy * slope(z, act))", "dy"),
    ("dy left out", "(dy * slope(z, act))", "(slope(z, act))"),
    ("dz: dy read with F for a stride", "DY + row * sdy", "DY + row * F"),
    ("tail of C left out", "if TAIL:", "if False:", "tile_product"),
    ("tail without a mask", "c[None, :] < C * V", "c[None, :] < C * V + 1", "tile_product"),
    ("unit forgotten", "whole = C * V //", "whole = C //", "tile_product"),
    ("dz: a feature too many", "(f[None, :] < F)", "(f[None, :] <= F)", "dz_kernel"),
    ("dz: a token too many", "(m[:, None] < M)", "(m[:, None] <= M)", "dz_kernel"),
    (
        "product: sum of the last block",
        'acc = tl.dot(a, b, acc, input_precision="ieee")\n        b_at',
        'acc = tl.dot(a, b, input_precision="ieee")\n        b_at',
    ),
    ("product: b stands still", "        b_at += BLOCK_K * (sb * V)\n", ""),
    ("product: a stands still", "            a_at += BLOCK_K\n", ""),
    ("product: turned a stands still", "            a_at += BLOCK_K * (sa * V)\n", ""),
    ("product: unit forgotten in b's step", "b_at += BLOCK_K * (sb * V)", "b_at += BLOCK_K * sb"),
    ("product: unit forgotten in a's step", "a_at += BLOCK_K * (sa * V)", "a_at += BLOCK_K * sa"),
    ("product: tail left out", "    if TAIL:\n        in_k", "    if False:\n        in_k"),
    ("product: tail one too long", "in_k = whole + k < K", "in_k = whole + k <= K"),
    ("product: tail one too short", "in_k = whole + k < K", "in_k = whole + k < K - 1"),
    ("product: a column too many", "in_j, in_r = (j < J)", "in_j, in_r = (j <= J)"),
    ("product: a row too many", "(r < R)[:, None] & in_j)", "(r <= R)[:, None] & in_j)"),
    ("product: turned a past its rows", "(j < J)[None, :], (r < R)", "(j < J)[None, :], (r <= R)"),
    ("product: turned a not turned", "a = tl.trans(tl.load(a_at, in_r, 0.0))  #", "a = tl.load(a_at, in_r, 0.0)  #"),
    ("product: written with a stride of R", "OUT + r.to(tl.int64)[:, None] * J", "OUT + r.to(tl.int64)[:, None] * R"),
    ("product: too few programs", 'triton.cdiv(J, how["BLOCK_J"]),)', 'max(1, J // how["BLOCK_J"]),)'),
    ("tail forgotten by the wrapper", 'K % how["BLOCK_K"] > 0', "False"),
    (
        "dw of dy, without the slope",
        "product(dz, as_rows(x), turned=True",
        "product(as_rows(dout), as_rows(x), turned=True",
    ),
    ("dx and dw swapped", "to_x, to_w, to_b = wanted or", "to_w, to_x, to_b = wanted or"),
    ("db without being asked", "if to_b and b is not None", "if b is not None"),
    ("shapes not looked at", "check_shapes(op, x, act, b, w=w)", "None"),
    ("dtypes not looked at", "check_floats(op, x=x, dout=dout, w=w, b=b)", "None"),
    ("shape of dout not looked at", "if tuple(dout.shape) != fitting:", "if False:"),
]
EQUIVALENT = {}
