r"""What a linear layer, and the curve after it, hand back: gradients of its input, its weights and its bias.

    y = act(z)          z = x wᵀ + b                    x (M, C)   w (F, C)   b (F,)
    dz = dy · act'(z)                                   (M, F)
    dx = dz w           dx_mc = Σ_f dz_mf w_fc          (M, C)
    dw = dzᵀ x          dw_fc = Σ_m dz_mf x_mc          (F, C)
    db = Σ_m dz_mf                                      (F,)

In words: every product that went forward over c goes back over f to reach x, and over the tokens to reach w.

The trick is in the first line: z is nowhere, because linear.py applied the curve while z was in registers. So
`dz_kernel` computes the product once more, as linear.py does, and multiplies by the slope (activations_backward.py)
while it is in registers again. That is a third product where two would do, and for it M x F numbers are neither written
in the forward pass nor kept until the backward pass.

The other two are one kernel, out = a b, since neither needs a transposed copy: the rows of w and of x already run along
the result's rows, and dz is read as it lies (dx) or as its transpose (dw; the tile is turned around on the chip). Each
program walks its sum from end to end, so no order is left to chance. Strides: as in linear.py.

    memory      dz: x and w as linear.py, dy once, dz written once. Each product: its inputs once for each tile that
                needs them, mostly from the L2 cache; its result once. db reads dz once more (column_sums.py).
    schedule    one program makes BLOCK_R x BLOCK_J of the result and walks over k, BLOCK_K at a time;
                ⌈R / BLOCK_R⌉ · ⌈J / BLOCK_J⌉ programs

The plain versions are `linear_backward` and `linear_act_backward` in minivl/ops/backward.py.
"""

from minivl.errors import InputError
from minivl.kernels import linear
from minivl.kernels.activations import check_floats
from minivl.kernels.activations_backward import slope
from minivl.kernels.column_sums import column_sums
from minivl.kernels.launch import INTERPRETED, arrays, empty, name_of, tl, triton
from minivl.kernels.linear import check_shapes, rows_at, tile_of
from minivl.kernels.rows import as_rows, unit_of

TILES = {  # 16-bit numbers, or float32, for which there are no tensor cores
    True: dict(BLOCK_R=128, BLOCK_J=128, BLOCK_K=64, GROUP=8, num_warps=8, num_stages=3),
    False: dict(BLOCK_R=64, BLOCK_J=64, BLOCK_K=32, GROUP=8, num_warps=4, num_stages=3),
}


def config(R, J, K, dtype):
    """The tile for a product (R, K) (K, J). The interpreter's cost is per program: there it is as large as helps."""
    if INTERPRETED:
        sizes = (min(256, max(16, triton.next_power_of_2(size))) for size in (R, J, K))
        return dict(zip(("BLOCK_R", "BLOCK_J", "BLOCK_K"), sizes, strict=True), GROUP=8)
    return TILES[dtype != "float32"]


@triton.jit
def dz_kernel(
    X, W, B, DY, DZ,  # (M, C), (F, C), (F,) or None, (M, F) twice
    M, F, C, sx, sw, sdy,  # C and the row strides of X and W are divided by V
    act: tl.constexpr, V: tl.constexpr, TAIL: tl.constexpr,  # TAIL: whether BLOCK_C leaves some of C over
    BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """dy · act'(x wᵀ + b); up to the bias as in linear.py."""
    m, f = tile_of(tl.program_id(0), M, F, BLOCK_M, BLOCK_F, GROUP)
    c = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    x_at = rows_at(X, m, M, sx, V, c)  # [BLOCK_M, BLOCK_C]
    w_at = rows_at(W, f, F, sw, V, c)  # [BLOCK_F, BLOCK_C]
    whole = C * V // BLOCK_C * BLOCK_C

    z = tl.zeros([BLOCK_M, BLOCK_F], tl.float32)
    for start in range(0, whole, BLOCK_C):
        z = tl.dot(tl.load(x_at + start), tl.trans(tl.load(w_at + start)), z, input_precision="ieee")
    if TAIL:
        inside = whole + c[None, :] < C * V
        x = tl.load(x_at + whole, inside, 0.0)
        z = tl.dot(x, tl.trans(tl.load(w_at + whole, inside, 0.0)), z, input_precision="ieee")

    if B is not None:
        z += tl.load(B + f, f < F, 0.0).to(tl.float32)[None, :]
    kept = (m[:, None] < M) & (f[None, :] < F)
    row = m.to(tl.int64)[:, None]
    dy = tl.load(DY + row * sdy + f[None, :], kept, 0.0).to(tl.float32)
    tl.store(DZ + row * F + f[None, :], (dy * slope(z, act)).to(DZ.dtype.element_ty), kept)


@triton.jit
def product_kernel(
    A, B, OUT,  # (R, K), or (K, R) where TURNED; (K, J); (R, J)
    R, J, K, sa, sb,  # J, A's width and both row strides are divided by V
    TURNED: tl.constexpr, V: tl.constexpr, TAIL: tl.constexpr,  # TAIL: whether BLOCK_K leaves some of K over
    BLOCK_R: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    J = J * V
    if TURNED:
        R = R * V
    else:
        K = K * V
    r, j = tile_of(tl.program_id(0), R, J, BLOCK_R, BLOCK_J, GROUP)
    k = tl.arange(0, BLOCK_K)  # [BLOCK_K]
    b_at = B + k.to(tl.int64)[:, None] * (sb * V) + j[None, :]  # [BLOCK_K, BLOCK_J]
    in_j, in_r = (j < J)[None, :], (r < R)[None, :]
    if TURNED:
        a_at = A + k.to(tl.int64)[:, None] * (sa * V) + r[None, :]  # [BLOCK_K, BLOCK_R]
    else:
        a_at = rows_at(A, r, R, sa, V, k)  # [BLOCK_R, BLOCK_K]

    acc = tl.zeros([BLOCK_R, BLOCK_J], tl.float32)
    whole = K // BLOCK_K * BLOCK_K
    for _ in range(0, whole, BLOCK_K):
        b = tl.load(b_at, in_j, 0.0)  # [BLOCK_K, BLOCK_J]
        if TURNED:
            a = tl.trans(tl.load(a_at, in_r, 0.0))  # [BLOCK_R, BLOCK_K]
            a_at += BLOCK_K * (sa * V)
        else:
            a = tl.load(a_at)  # [BLOCK_R, BLOCK_K]
            a_at += BLOCK_K
        acc = tl.dot(a, b, acc, input_precision="ieee")
        b_at += BLOCK_K * (sb * V)
    if TAIL:
        in_k = whole + k < K
        b = tl.load(b_at, in_k[:, None] & in_j, 0.0)
        if TURNED:
            a = tl.trans(tl.load(a_at, in_k[:, None] & in_r, 0.0))
        else:
            a = tl.load(a_at, in_k[None, :], 0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    place = OUT + r.to(tl.int64)[:, None] * J + j[None, :]
    tl.store(place, acc.to(OUT.dtype.element_ty), (r < R)[:, None] & in_j)


def product(a, b, turned=False, tile=None):
    """a b, or aᵀ b, of matrices whose rows lie in one piece each.   a (R, K), turned (K, R)   b (K, J) -> (R, J)"""
    (K, J), R = b.shape, a.shape[1 if turned else 0]
    out = empty((R, J), a)
    if out.numel():
        how = tile or config(R, J, K, name_of(a.dtype))
        V = unit_of(J, a.shape[1], a.stride(0), b.stride(0))
        sizes = (R // V, J // V, K) if turned else (R, J // V, K // V)
        product_kernel[(triton.cdiv(R, how["BLOCK_R"]) * triton.cdiv(J, how["BLOCK_J"]),)](
            a, b, out, *sizes, a.stride(0) // V, b.stride(0) // V, turned, V, K % how["BLOCK_K"] > 0, **how
        )
    return out


@arrays
def linear_backward(dout, x, w, b=None, *, wanted=(True, True, True), tile=None):
    """What x, w and b of `linear` should change by.

    dout (..., F)   x (..., C)   w (F, C)   b (F,)   ->   dx (..., C), dw (F, C), db (F,)
    wanted    which of the three are needed: None stands for the others, and for db where there is no b
    tile      block sizes, warps and stages of the two products; those of `config` unless given
    """
    _check("linear_backward", dout, x, w, b, None)
    return _products(as_rows(dout), x, w, b, wanted, tile)


@arrays
def linear_act_backward(dout, x, w, b=None, *, act, wanted=(True, True, True), tile=None, dz_tile=None):
    """The same for `linear` with the curve `act` after it, which is passed first, found again from x, w and b.

    act       one of activations.py
    dz_tile   block sizes, warps and stages of the product before the curve; those of linear.py unless given
    """
    _check("linear_act_backward", dout, x, w, b, act)
    (F, C), dout, flat, weights = w.shape, as_rows(dout), as_rows(x), as_rows(w)
    M = flat.shape[0]
    dz = empty((M, F), x)
    if dz.numel():
        how = dz_tile or linear.config(M, F, C, name_of(x.dtype))
        V = unit_of(C, flat.stride(0), weights.stride(0))
        dz_kernel[(triton.cdiv(M, how["BLOCK_M"]) * triton.cdiv(F, how["BLOCK_F"]),)](
            flat, weights, None if b is None else b.contiguous(), dout, dz,
            M, F, C // V, flat.stride(0) // V, weights.stride(0) // V, dout.stride(0),
            act, V, C % how["BLOCK_C"] > 0, **how,
        )  # fmt: skip
    return _products(dz, x, w, b, wanted, tile)


def _check(op, dout, x, w, b, act):
    """Raise InputError or OpsError, naming the argument, unless everything fits x (..., C) and w (F, C)."""
    check_shapes(op, x, act, b, w=w)
    check_floats(op, x=x, dout=dout, w=w, b=b)
    wanted = (*x.shape[:-1], w.shape[0])
    if tuple(dout.shape) != wanted:
        raise InputError(f"{op}: dout has shape {tuple(dout.shape)}, and {wanted} fits x {tuple(x.shape)}")


def _products(dz, x, w, b, wanted, tile):
    """dz (M, F), x (..., C), w (F, C), b (F,) or None   ->   dx (..., C), dw (F, C), db (F,), or None each"""
    to_x, to_w, to_b = wanted
    return (
        product(dz, as_rows(w), tile=tile).reshape(*x.shape) if to_x else None,
        product(dz, as_rows(x), turned=True, tile=tile) if to_w else None,
        column_sums(dz) if to_b and b is not None else None,
    )
