"""Ways to break kernels/linear_backward.py."""

FILE = "linear_backward.py"
TESTS = ["test_kernel_backward_products.py"]
MUTANTS = [
    ("slope of z without its bias", "z += tl.load(B + f, f < F, 0.0)", "z += 0 * tl.load(B + f, f < F, 0.0)"),
    ("slope left out", "(dy * slope(z, act))", "dy"),
    ("dy left out", "(dy * slope(z, act))", "(slope(z, act))"),
    ("dz: dy read with F for a stride", "DY + row * sdy", "DY + row * F"),
    ("dz: tail of C left out", "    if TAIL:\n        inside = whole + c", "    if False:\n        inside = whole + c"),
    ("dz: tail without a mask", "inside = whole + c[None, :] < C * V", "inside = whole + c[None, :] < C * V + 1"),
    ("dz: unit forgotten", "whole = C * V // BLOCK_C", "whole = C // BLOCK_C"),
    (
        "dz: a feature too many",
        "kept = (m[:, None] < M) & (f[None, :] < F)",
        "kept = (m[:, None] < M) & (f[None, :] <= F)",
    ),
    ("dz: a token too many", "kept = (m[:, None] < M)", "kept = (m[:, None] <= M)"),
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
        "return _products(dz, x, w, b, wanted, tile)",
        "return _products(dout, x, w, b, wanted, tile)",
    ),
    ("dx and dw swapped", "to_x, to_w, to_b = wanted", "to_w, to_x, to_b = wanted"),
    ("db without being asked", "if to_b and b is not None", "if b is not None"),
    ("shapes not looked at", "check_shapes(op, x, act, b, w=w)", "None"),
    ("dtypes not looked at", "check_floats(op, x=x, dout=dout, w=w, b=b)", "None"),
    ("shape of dout not looked at", "if tuple(dout.shape) != wanted:", "if False:"),
]
EQUIVALENT = {}
