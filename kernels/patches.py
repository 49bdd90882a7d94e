r"""The patch embedding: a picture's patches through one linear layer, without cutting the picture up; its gradients.

    y[n, f] = Σ_k patch[n, k] · w[f, k] + b[f]          k counts channel, row and column of a pixel in its patch
    dw[f, k] = Σ_n dy[n, f] · patch[n, k]
    dpatch[n, k] = Σ_f dy[n, f] · w[f, k]               which goes to the one pixel that patch[n, k] was
    db[f] = Σ_n dy[n, f]

In words: a convolution whose stride is its size is a matrix product of all patches with the weights. The plain version
first copies the picture into the matrix `patch`.

The trick: that matrix need not exist. Element (n, k) of it is a pixel, and where it lies is arithmetic: with P x P
patches, `columns` of them side by side,

    k = (channel · P + i) · P + j          n = (picture · rows + r) · columns + q
    address = picture · sb + channel · sc + (r · P + i) · sy + q · P + j

so each kernel is a plain matrix product: y and dw read the picture through these addresses (`corner_of` plus
`pixel_of`), dpixels is written through them. Patches do not overlap, so no two programs write one pixel; what lies
beyond the last whole patch gets zeros. P is a constant of the compiled kernel: the divisions become multiplications,
and Triton sees that runs of pixels lie side by side (16 bytes a load where P is a multiple of 8; 4 bytes for P = 14).

    memory      y: pixels and w once for each tile that needs them, mostly from the L2 cache; y once. The copy would
                write the pixels and read them again: 2 x 3 x 224 x 224 numbers a picture.
                dw: dy and the pixels likewise, dw once. dpixels: dy and w likewise, dpixels once, and before that its
                zeros if some pixels belong to no patch
    schedule    y: one program takes BLOCK_N patches x BLOCK_C features and walks over k, 3 P² long, BLOCK_K at a time.
                The weights' rows are the fast axis of the grid, so that neighbours share their pixels.
                dw: BLOCK_C features x BLOCK_K pixels of a patch, walking over all patches, BLOCK_N at a time.
                dpixels: BLOCK_N patches x BLOCK_K pixels, walking over the features

The plain versions are `patch_embed` in minivl/ops/plain.py and `patch_embed_backward` in minivl/ops/backward.py.
"""

from typing import Any

from minivl.errors import InputError
from minivl.kernels.activations import check_floats
from minivl.kernels.column_sums import column_sums
from minivl.kernels.launch import INTERPRETED, Array, arrays, empty, name_of, tl, triton
from minivl.kernels.rows import as_rows, check_width, unit_of

Tile = dict[str, Any]


def config(patches: int, C: int, K: int, dtype: str) -> Tile:
    """The tile that ships for `patches` patches of K numbers that become C."""
    if dtype == "float32":  # no tensor cores: every product is a multiply-add
        how = dict(BLOCK_N=64, BLOCK_C=64, BLOCK_K=32, num_warps=8, num_stages=2)
    else:
        how = dict(BLOCK_N=64, BLOCK_C=128, BLOCK_K=64, num_warps=4, num_stages=3)
    return how | _interpreted(patches, C, K)


def backward_config(patches: int, C: int, K: int, dtype: str) -> Tile:
    """The tile of both products of the backward pass."""
    if dtype == "float32":
        how = dict(BLOCK_N=32, BLOCK_C=64, BLOCK_K=64, num_warps=8, num_stages=2)
    else:
        how = dict(BLOCK_N=64, BLOCK_C=64, BLOCK_K=64, num_warps=4, num_stages=3)
    return how | _interpreted(patches, C, K)


def _interpreted(patches: int, C: int, K: int) -> Tile:
    """Larger blocks for the interpreter, whose cost is per operation and not per element; nothing on a GPU."""
    if not INTERPRETED:
        return {}
    sizes = (min(512, max(16, triton.next_power_of_2(size))) for size in (patches, C, K))
    return dict(zip(("BLOCK_N", "BLOCK_C", "BLOCK_K"), sizes, strict=True), num_warps=4, num_stages=1)


@triton.jit
def corner_of(n, rows, columns, sb, sy, P: tl.constexpr, UNIT: tl.constexpr):
    """Where the first pixel of patch n lies in its picture's memory, before its channel.   n [BLOCK_N] -> [BLOCK_N]"""
    q, r, picture = n % columns, n // columns % rows, n // (columns * rows)  # [BLOCK_N]
    return picture.to(tl.int64) * (sb * UNIT) + r * P * (sy * UNIT) + q * P


@triton.jit
def pixel_of(k, sc, sy, P: tl.constexpr, UNIT: tl.constexpr):
    """How far from its patch's first pixel the k-th lies.   k [BLOCK_K] -> [BLOCK_K]"""
    return k // (P * P) * (sc * UNIT) + k // P % P * (sy * UNIT) + k % P


@triton.jit
def patches_kernel(
    X, W, B, OUT,  # (pictures, channels, Y, X), (C, K), (C,) or None, (count, C)
    count, rows, columns, sb, sc, sy,  # strides in units of UNIT pixels, neighbours in a row lie side by side
    C: tl.constexpr, K: tl.constexpr, P: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    f = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)  # [BLOCK_C]
    corner = corner_of(n, rows, columns, sb, sy, P, UNIT)  # [BLOCK_N]

    acc = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)  # [BLOCK_N, BLOCK_C]
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)  # [BLOCK_K]
        pixel = pixel_of(k, sc, sy, P, UNIT)  # [BLOCK_K]
        x = tl.load(X + corner[:, None] + pixel[None, :], (n < count)[:, None] & (k < K)[None, :], 0.0)
        w = tl.load(W + f[None, :] * K + k[:, None], (f < C)[None, :] & (k < K)[:, None], 0.0)  # [BLOCK_K, BLOCK_C]
        acc = tl.dot(x, w, acc, input_precision="ieee")

    if B is not None:
        acc += tl.load(B + f, f < C, 0.0).to(tl.float32)[None, :]
    here = (n < count)[:, None] & (f < C)[None, :]  # [BLOCK_N, BLOCK_C]
    tl.store(OUT + n[:, None].to(tl.int64) * C + f[None, :], acc.to(OUT.dtype.element_ty), here)


@triton.jit
def patch_weights_kernel(
    DY, X, DW,  # (count, C), rows dy_stride · UNIT apart; (pictures, channels, Y, X); (C, K)
    count, rows, columns, dy_stride, sb, sc, sy,  # strides in units of UNIT, neighbours in a row lie side by side
    C: tl.constexpr, K: tl.constexpr, P: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    f = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [BLOCK_C]
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)  # [BLOCK_K]
    pixel = pixel_of(k, sc, sy, P, UNIT)  # [BLOCK_K]
    acc = tl.zeros([BLOCK_C, BLOCK_K], tl.float32)  # [BLOCK_C, BLOCK_K]
    for start in range(0, count, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)  # [BLOCK_N]
        in_n = (n < count)[:, None]  # [BLOCK_N, 1]
        at_dy = DY + n.to(tl.int64)[:, None] * (dy_stride * UNIT) + f[None, :]
        dy = tl.load(at_dy, in_n & (f < C)[None, :], 0.0)  # [BLOCK_N, BLOCK_C]
        at_x = X + corner_of(n, rows, columns, sb, sy, P, UNIT)[:, None] + pixel[None, :]
        x = tl.load(at_x, in_n & (k < K)[None, :], 0.0)  # [BLOCK_N, BLOCK_K]
        acc = tl.dot(tl.trans(dy), x, acc, input_precision="ieee")
    here = (f < C)[:, None] & (k < K)[None, :]  # [BLOCK_C, BLOCK_K]
    tl.store(DW + f[:, None] * K + k[None, :], acc.to(DW.dtype.element_ty), here)


@triton.jit
def patch_pixels_kernel(
    DY, W, DX,  # (count, C), rows dy_stride · UNIT apart; (C, K); (pictures, channels, Y, X)
    count, rows, columns, dy_stride, sb, sc, sy,  # strides in units of UNIT, neighbours in a row lie side by side
    C: tl.constexpr, K: tl.constexpr, P: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)  # [BLOCK_K]
    dy_rows = DY + n.to(tl.int64)[:, None] * (dy_stride * UNIT)  # [BLOCK_N, 1]
    acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)  # [BLOCK_N, BLOCK_K]
    for start in range(0, C, BLOCK_C):
        f = start + tl.arange(0, BLOCK_C)  # [BLOCK_C]
        dy = tl.load(dy_rows + f[None, :], (n < count)[:, None] & (f < C)[None, :], 0.0)  # [BLOCK_N, BLOCK_C]
        w = tl.load(W + f[:, None] * K + k[None, :], (f < C)[:, None] & (k < K)[None, :], 0.0)  # [BLOCK_C, BLOCK_K]
        acc = tl.dot(dy, w, acc, input_precision="ieee")
    at = DX + corner_of(n, rows, columns, sb, sy, P, UNIT)[:, None] + pixel_of(k, sc, sy, P, UNIT)[None, :]
    tl.store(at, acc.to(DX.dtype.element_ty), (n < count)[:, None] & (k < K)[None, :])


@triton.jit
def zero_kernel(OUT, count, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    tl.store(OUT + i, tl.zeros([BLOCK], OUT.dtype.element_ty), i < count)


@arrays
def patch_embed(pixels: Array, w: Array, b: Array | None = None, *, tile: Tile | None = None) -> Array:
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


@arrays
def patch_embed_backward(
    dout: Array, pixels: Array, w: Array, b: Array | None = None, *, wanted: tuple[bool, bool, bool] | None = None,
    tile: Tile | None = None,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    """The gradients of `patch_embed` for pixels, w and b.

    dout (B, N, C)   pixels (B, 3, Y, X)   w (C, 3, P, P)   b (C,)   ->   of the shapes of the last three
    wanted    which of the three are needed, all unless given; the others are None, and so is db where there is no b
    """
    check_floats("patch_embed_backward", pixels=pixels, dout=dout, w=w, b=b)
    (pictures, channels, height, width), (C, _, P, _) = pixels.shape, w.shape
    rows, columns, K = height // P, width // P, channels * P * P
    if w.shape[1] != channels or tuple(dout.shape) != (pictures, rows * columns, C):
        raise InputError(
            f"patch_embed_backward: dout {tuple(dout.shape)}, pixels {tuple(pixels.shape)} and w {tuple(w.shape)} do"
            " not fit each other"
        )
    check_width("patch_embed_backward", C, b=b)
    count, dy = pictures * rows * columns, as_rows(dout)
    tile = tile or backward_config(count, C, K, name_of(pixels.dtype))
    sizes = dict(C=C, K=K, P=P, **tile)
    of_patches = (triton.cdiv(K, tile["BLOCK_K"]), triton.cdiv(count, tile["BLOCK_N"]))
    to_pixels, to_w, to_b = wanted or (True, True, True)
    dpixels = empty(tuple(pixels.shape), pixels) if to_pixels else None
    dw = empty(tuple(w.shape), w) if to_w else None
    if dpixels is not None and dpixels.numel() > count * K:
        zero_kernel[(triton.cdiv(dpixels.numel(), 4096),)](dpixels, dpixels.numel(), BLOCK=4096)
    if dpixels is not None and count:
        numbers, unit = _strides(dy, dpixels)
        kernel, weights = patch_pixels_kernel, w.reshape(C, K).contiguous()
        kernel[of_patches](dy, weights, dpixels, count, rows, columns, *numbers, UNIT=unit, **sizes)
    if to_w:
        x = pixels if pixels.stride(3) == 1 else pixels.contiguous()
        numbers, unit = _strides(dy, x)
        grid = (of_patches[0], triton.cdiv(C, tile["BLOCK_C"]))
        patch_weights_kernel[grid](dy, x, dw, count, rows, columns, *numbers, UNIT=unit, **sizes)
    return dpixels, dw, column_sums(dy) if to_b and b is not None else None


def _strides(dy: Array, x: Array) -> tuple[list[int], int]:
    """Row stride of dy and the three of a picture in units of UNIT, and UNIT."""
    strides = dy.stride(0), x.stride(0), x.stride(1), x.stride(2)
    unit = unit_of(*strides)
    return [stride // unit for stride in strides], unit
