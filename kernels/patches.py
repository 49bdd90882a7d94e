r"""A picture's patches through one linear layer, without ever cutting the picture up.

    y[n, f] = Σ_k patch[n, k] · w[f, k] + b[f]          k counts channel, row and column of a pixel in its patch

In words: a convolution whose stride is its size is a matrix product of all patches with the weights. The plain version
first copies the picture into the matrix `patch`.

The trick: that matrix need not exist. Element (n, k) of it is a pixel, and where it lies is arithmetic: with P x P
patches, `columns` of them side by side,

    k = (channel · P + i) · P + j          n = (picture · rows + r) · columns + q
    address = picture · sb + channel · sc + (r · P + i) · sy + q · P + j

so the kernel is a plain matrix product whose left tile is loaded from these addresses. P is a constant of the compiled
kernel: the divisions become multiplications, and Triton sees that runs of pixels lie side by side (16 bytes a load
where P is a multiple of 8; P = 14 allows 4 bytes).

    memory      pixels and w once for each tile that needs them, mostly from the L2 cache; y once. The copy would
                write the pixels and read them again: 2 x 3 x 224 x 224 numbers a picture.
    schedule    one program takes BLOCK_N patches x BLOCK_C features and walks over k, 3 P² long, BLOCK_K at a time.
                The weights' rows are the fast axis of the grid, so that neighbours share their pixels.

The plain version is `patch_embed` in minivl/ops/numpy.py.
"""

from minivl.errors import InputError
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import INTERPRETED, arrays, empty, name_of, tl, triton
from minivl.kernels.rows import check_width, unit_of


def config(patches, C, K, dtype):
    """The tile that ships for `patches` patches of K numbers that become C."""
    if INTERPRETED:  # which pays per operation, not per element
        sizes = (min(512, max(16, triton.next_power_of_2(size))) for size in (patches, C, K))
        return dict(zip(("BLOCK_N", "BLOCK_C", "BLOCK_K"), sizes, strict=True), num_warps=4, num_stages=1)
    if dtype == "float32":  # no tensor cores: every product is a multiply-add
        return dict(BLOCK_N=64, BLOCK_C=64, BLOCK_K=32, num_warps=8, num_stages=2)
    return dict(BLOCK_N=64, BLOCK_C=128, BLOCK_K=64, num_warps=4, num_stages=3)


@triton.jit
def patches_kernel(
    X, W, B, OUT,  # (pictures, channels, Y, X), (C, K), (C,) or None, (count, C)
    count, rows, columns, sb, sc, sy,  # strides in units of UNIT pixels, neighbours in a row lie side by side
    C: tl.constexpr, K: tl.constexpr, P: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    f = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)  # [BLOCK_C]
    q, r, picture = n % columns, n // columns % rows, n // (columns * rows)  # [BLOCK_N]
    corner = picture.to(tl.int64) * (sb * UNIT) + r * P * (sy * UNIT) + q * P  # [BLOCK_N]  first pixel of each patch

    acc = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)  # [BLOCK_N, BLOCK_C]
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)  # [BLOCK_K]
        pixel = k // (P * P) * (sc * UNIT) + k // P % P * (sy * UNIT) + k % P  # [BLOCK_K]
        x = tl.load(X + corner[:, None] + pixel[None, :], (n < count)[:, None] & (k < K)[None, :], 0.0)
        w = tl.load(W + f[None, :] * K + k[:, None], (f < C)[None, :] & (k < K)[:, None], 0.0)  # [BLOCK_K, BLOCK_C]
        acc = tl.dot(x, w, acc, input_precision="ieee")

    if B is not None:
        acc += tl.load(B + f, f < C, 0.0).to(tl.float32)[None, :]
    here = (n < count)[:, None] & (f < C)[None, :]  # [BLOCK_N, BLOCK_C]
    tl.store(OUT + n[:, None].to(tl.int64) * C + f[None, :], acc.to(OUT.dtype.element_ty), here)


@arrays
def patch_embed(pixels, w, b=None, tile=None):
    """Cut the picture into P x P patches and take each through one linear layer.

    pixels (B, 3, Y, X)   w (C, 3, P, P)   b (C,)   ->   (B, N, C) with N = (Y // P)·(X // P), in reading order
    """
    check_floats("patch_embed", pixels=pixels, w=w, b=b)
    (pictures, channels, height, width), (C, wanted, P, _) = pixels.shape, w.shape
    if channels != wanted:
        raise InputError(f"patch_embed: pixels have {channels} channels, the weights are for {wanted}")
    check_width("patch_embed", C, b=b)
    rows, columns, K = height // P, width // P, channels * P * P
    out, count = empty((pictures, rows * columns, C), pixels), pictures * rows * columns
    if not count:
        return out
    x = pixels if pixels.stride(3) == 1 else pixels.contiguous()
    tile, strides = tile or config(count, C, K, name_of(x.dtype)), (x.stride(0), x.stride(1), x.stride(2))
    unit = unit_of(*strides)
    patches_kernel[(triton.cdiv(C, tile["BLOCK_C"]), triton.cdiv(count, tile["BLOCK_N"]))](
        x, w.reshape(C, K).contiguous(), None if b is None else b.contiguous(), out,
        count, rows, columns, *(stride // unit for stride in strides),
        C=C, K=K, P=P, UNIT=unit, **tile,
    )  # fmt: skip
    return out
