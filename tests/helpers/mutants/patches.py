"""Ways to break kernels/patches.py."""

FILE = "patches.py"
TESTS = ["test_kernel_patches.py"]
MUTANTS = [
    ("forward: the last pixels alone", "acc = tl.dot(x, w, acc,", "acc = tl.dot(x, w,"),
    ("forward: bias left out", "acc += tl.load(B + f", "acc += 0 * tl.load(B + f"),
    ("forward: a patch too many", "here = (n < count)[:, None]", "here = (n <= count)[:, None]"),
    (
        "forward: a feature too many",
        "(n < count)[:, None] & (f < C)[None, :]",
        "(n < count)[:, None] & (f <= C)[None, :]",
        "patches_kernel",
    ),
    ("forward: a pixel too many", "& (k < K)[None, :], 0.0)", "& (k <= K)[None, :], 0.0)", "patches_kernel"),
    ("forward: w read as if contiguous", "w.reshape(C, K).contiguous()", "w", "patch_embed"),
    # ---- both ways
    (
        "rows and columns of patches swapped",
        "q, r, picture = n % columns, n // columns",
        "r, q, picture = n % columns, n // columns",
    ),
    ("every picture the first", "picture.to(tl.int64) * (sb * UNIT) + ", ""),
    ("rows of pixels side by side", "k // P % P * (sy * UNIT)", "k // P % P * P"),
    ("channels as one", "k // (P * P) * (sc * UNIT) + ", ""),
    ("unit forgotten", "r * P * (sy * UNIT)", "r * P * sy"),
    # ---- backward
    ("dw of the last patches alone", "acc = tl.dot(tl.trans(dy), x, acc,", "acc = tl.dot(tl.trans(dy), x,"),
    ("dw: a patch too many", "in_n = (n < count)", "in_n = (n <= count)"),
    ("dw: a pixel too many", "in_n & (k < K)[None, :]", "in_n & (k <= K)[None, :]"),
    ("dw: a feature too many read", "in_n & (f < C)[None, :]", "in_n & (f <= C)[None, :]"),
    (
        "dw: unit forgotten in dy",
        "n.to(tl.int64)[:, None] * (dy_stride * UNIT) + f",
        "n.to(tl.int64)[:, None] * dy_stride + f",
    ),
    ("dw: a feature too many written", "here = (f < C)[:, None]", "here = (f <= C)[:, None]"),
    ("dpixels of the last features alone", "acc = tl.dot(dy, w, acc,", "acc = tl.dot(dy, w,"),
    (
        "dpixels: a feature too many",
        "(n < count)[:, None] & (f < C)[None, :]",
        "(n < count)[:, None] & (f <= C)[None, :]",
        "patch_pixels_kernel",
    ),
    (
        "dpixels: a row of w too many",
        "(f < C)[:, None] & (k < K)[None, :], 0.0)  # [BLOCK_C",
        "(f <= C)[:, None] & (k < K)[None, :], 0.0)  # [BLOCK_C",
    ),
    (
        "dpixels: a patch too many written",
        "(n < count)[:, None] & (k < K)[None, :])",
        "(n <= count)[:, None] & (k < K)[None, :])",
    ),
    (
        "dpixels: a pixel too many written",
        "(n < count)[:, None] & (k < K)[None, :])",
        "(n < count)[:, None] & (k <= K)[None, :])",
    ),
    ("pixels of no patch left as they are", "if dpixels is not None and dpixels.numel() > count * K:", "if False:"),
    (
        "zeros one too few",
        "tl.zeros([BLOCK], OUT.dtype.element_ty), i < count)",
        "tl.zeros([BLOCK], OUT.dtype.element_ty), i < count - 1)",
    ),
    (
        "zeros one too many",
        "tl.zeros([BLOCK], OUT.dtype.element_ty), i < count)",
        "tl.zeros([BLOCK], OUT.dtype.element_ty), i <= count)",
    ),
    (
        "a picture's own strides for dpixels",
        "numbers, unit = _strides(dy, dpixels)",
        "numbers, unit = _strides(dy, pixels)",
    ),
    (
        "neighbours taken to lie side by side",
        "x = pixels if pixels.stride(3) == 1 else pixels.contiguous()",
        "x = pixels",
        "patch_embed_backward",
    ),
    ("w read as if contiguous", "w.reshape(C, K).contiguous()", "w", "patch_embed_backward"),
    ("db without being asked", "column_sums(dy) if to_b and b is not None", "column_sums(dy) if b is not None"),
    ("shapes not compared", "if w.shape[1] != channels or", "if False and"),
]
EQUIVALENT = {}
