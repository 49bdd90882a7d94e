r"""A linear layer with its activation in one kernel, T5's gated half of an MLP in another, and the gradients.

    linear          y = act(z)                       z = x wᵀ + b         x (M, C)   w (F, C)   b (F,)   ->   y (M, F)
    gated_linear    y = act(x gᵀ) · (x uᵀ)                                g, u (F, C)

    dz = dy · act'(z)                                (M, F)
    dx = dz w          dx_mc = Σ_f dz_mf w_fc        (M, C)
    dw = dzᵀ x         dw_fc = Σ_m dz_mf x_mc        (F, C)
    db = Σ_m dz_mf                                   (F,)

In words: forward, every token is multiplied by the weight matrix, and what follows is done at once. Backward, a product
that summed over c forward sums over f to give dx, and over the tokens to give dw.

The product in tiles (`tile_product`): one program owns BLOCK_M tokens and BLOCK_F features and walks along C,

    acc[m, f] += Σ_c x[m, c] w[f, c]        c = start ... start + BLOCK_C          in float32, on tensor cores

The trick is in three places. Bias and activation need only acc[m, f] itself, so they are done while acc is in
registers: an MLP's hidden layer is written once, where product, bias and GELU as three kernels would write it three
times and read it twice. A token past the last one reads the last one again instead of being masked, and the ragged end
of C has a step of its own, so the loop has no mask at all. And programs that run at the same time should share what
they read: they are numbered down GROUP tiles before they move one to the right, so that G x G tiles need 2 G strips of
x and w from memory instead of G² + 1.

Backward, z was never written, so `dz_kernel` computes the product again and multiplies by the derivative (`slope` in
activations.py) while it is in registers. That is a third product where two would do; for it M x F numbers are neither
written in the forward pass nor kept until the backward pass. The other two products are one kernel, out = a b: the rows
of w and x already run along the result's rows, so neither is transposed in memory, and dz is read as it lies (dx) or
transposed on the chip (dw). Each program walks its sum from end to end, so the same numbers give the same bits.

Row strides are given divided by V, the largest power of two (up to 16) that divides them, and multiplied by it again in
the kernel: Triton only asks of a number whether 16 divides it, and from a stride of 88 it would conclude that a row
may begin anywhere, and load 2 bytes at a time.

    memory      y, dz: x ⌈F / BLOCK_F⌉ times and w ⌈M / BLOCK_M⌉ times, mostly from the L2 cache; the result once, and
                for dz also dy once. dx, dw: their inputs once for each tile that needs them, mostly from the L2 cache;
                the result once. db reads dz once more (column_sums.py)
    schedule    y, dz: one program makes BLOCK_M x BLOCK_F results, ⌈M / BLOCK_M⌉ · ⌈F / BLOCK_F⌉ programs.
                dx, dw: BLOCK_R x BLOCK_J results, walking over k, BLOCK_K at a time

The plain versions are `linear`, `linear_act` and `gated_linear` in minivl/ops/plain.py, and the functions of the same
names with `_backward` in minivl/ops/backward.py.
"""

import math
from inspect import unwrap
from typing import Any

from minivl.errors import InputError
from minivl.kernels.activations import SMOOTH, activate, check_floats, slope
from minivl.kernels.activations import config as elementwise
from minivl.kernels.column_sums import column_sums
from minivl.kernels.launch import INTERPRETED, Array, arrays, empty, name_of, tl, triton
from minivl.kernels.rows import as_rows, unit_of

Tile = dict[str, Any]
Wanted = tuple[bool, bool, bool]


@triton.jit
def tile_of(program, M, F, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, GROUP: tl.constexpr):
    """The tile of a program: down GROUP tiles, then one to the right; the last group may be less tall.

    -> its tokens [BLOCK_M], its features [BLOCK_F]
    """
    across = tl.cdiv(F, BLOCK_F)
    top = program // (GROUP * across) * GROUP
    height = tl.minimum(tl.cdiv(M, BLOCK_M) - top, GROUP)
    inside = program % (GROUP * across)
    m = (top + inside % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    f = inside // height * BLOCK_F + tl.arange(0, BLOCK_F)
    return m, f


@triton.jit
def rows_at(P, row, rows, stride, V: tl.constexpr, c):
    """Pointers [row, c] into a matrix of `rows` rows, stride · V apart; past the last row, to the last."""
    row = tl.minimum(row, rows - 1).to(tl.int64)
    return P + row[:, None] * (stride * V) + c[None, :]


@triton.jit
def tile_product(
    X, W, B, m, f, M, F, C, sx, sw,
    V: tl.constexpr, TAIL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """x wᵀ + b (None: no bias) for the tokens m and the features f.   -> [BLOCK_M, BLOCK_F]"""
    c = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    x_at = rows_at(X, m, M, sx, V, c)  # [BLOCK_M, BLOCK_C]
    w_at = rows_at(W, f, F, sw, V, c)  # [BLOCK_F, BLOCK_C]
    whole = C * V // BLOCK_C * BLOCK_C

    acc = tl.zeros([BLOCK_M, BLOCK_F], tl.float32)
    for start in range(0, whole, BLOCK_C):
        x = tl.load(x_at + start)  # [BLOCK_M, BLOCK_C]
        w = tl.load(w_at + start).to(x.dtype)  # [BLOCK_F, BLOCK_C]  int8 rows are widened: see weight_only.py
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
    if TAIL:
        inside = whole + c[None, :] < C * V
        x = tl.load(x_at + whole, inside, 0.0)
        w = tl.load(w_at + whole, inside, 0).to(x.dtype)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")

    if B is not None:
        acc += tl.load(B + f, f < F, 0.0).to(tl.float32)[None, :]
    return acc


@triton.jit
def linear_kernel(
    X, W, B, Y,  # (M, C), (F, C), (F,) or None, (M, F)
    M, F, C, sx, sw,  # C and the row strides of X and W are divided by V
    act: tl.constexpr, V: tl.constexpr, TAIL: tl.constexpr,  # TAIL: whether BLOCK_C leaves some of C over
    BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """act(x wᵀ + b)"""
    m, f = tile_of(tl.program_id(0), M, F, BLOCK_M, BLOCK_F, GROUP)
    z = tile_product(X, W, B, m, f, M, F, C, sx, sw, V, TAIL, BLOCK_M, BLOCK_F, BLOCK_C)  # [BLOCK_M, BLOCK_F]
    y = activate(z, act)  # [BLOCK_M, BLOCK_F]
    kept = (m[:, None] < M) & (f[None, :] < F)
    row = m.to(tl.int64)[:, None]
    tl.store(Y + row * F + f[None, :], y.to(Y.dtype.element_ty), kept)


@triton.jit
def dz_kernel(
    X, W, B, DY, DZ,  # (M, C), (F, C), (F,) or None, (M, F) twice
    M, F, C, sx, sw, sdy,  # C and the row strides of X and W are divided by V
    act: tl.constexpr, V: tl.constexpr, TAIL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """dy · act'(x wᵀ + b)"""
    m, f = tile_of(tl.program_id(0), M, F, BLOCK_M, BLOCK_F, GROUP)
    z = tile_product(X, W, B, m, f, M, F, C, sx, sw, V, TAIL, BLOCK_M, BLOCK_F, BLOCK_C)  # [BLOCK_M, BLOCK_F]
    kept = (m[:, None] < M) & (f[None, :] < F)
    row = m.to(tl.int64)[:, None]
    dy = tl.load(DY + row * sdy + f[None, :], kept, 0.0).to(tl.float32)  # [BLOCK_M, BLOCK_F]
    tl.store(DZ + row * F + f[None, :], (dy * slope(z, act)).to(DZ.dtype.element_ty), kept)


@triton.jit
def gated_linear_kernel(
    X, G, U, Y,  # (M, C), (F, C), (F, C), (M, F)
    M, F, C, sx, sg, su,  # C and the three row strides are divided by V
    act: tl.constexpr, V: tl.constexpr, TAIL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    m, f = tile_of(tl.program_id(0), M, F, BLOCK_M, BLOCK_F, GROUP)
    c = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    x_at = rows_at(X, m, M, sx, V, c)  # [BLOCK_M, BLOCK_C]
    g_at = rows_at(G, f, F, sg, V, c)  # [BLOCK_F, BLOCK_C]
    u_at = rows_at(U, f, F, su, V, c)  # [BLOCK_F, BLOCK_C]
    whole = C * V // BLOCK_C * BLOCK_C

    gate = tl.zeros([BLOCK_M, BLOCK_F], tl.float32)
    up = tl.zeros([BLOCK_M, BLOCK_F], tl.float32)
    for start in range(0, whole, BLOCK_C):
        x = tl.load(x_at + start)  # [BLOCK_M, BLOCK_C]  read once for both products
        gate = tl.dot(x, tl.trans(tl.load(g_at + start)), gate, input_precision="ieee")
        up = tl.dot(x, tl.trans(tl.load(u_at + start)), up, input_precision="ieee")
    if TAIL:
        inside = whole + c[None, :] < C * V
        x = tl.load(x_at + whole, inside, 0.0)
        gate = tl.dot(x, tl.trans(tl.load(g_at + whole, inside, 0.0)), gate, input_precision="ieee")
        up = tl.dot(x, tl.trans(tl.load(u_at + whole, inside, 0.0)), up, input_precision="ieee")

    kept = (m[:, None] < M) & (f[None, :] < F)
    y = (activate(gate, act) * up).to(Y.dtype.element_ty)
    tl.store(Y + m.to(tl.int64)[:, None] * F + f[None, :], y, kept)


@triton.jit
def product_kernel(
    A, B, ADD, OUT,  # (R, K), or (K, R) where TURNED; (K, J); (R, J) or None, added to the product; (R, J)
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
    place = r.to(tl.int64)[:, None] * J + j[None, :]  # [BLOCK_R, BLOCK_J]
    here = (r < R)[:, None] & in_j
    if ADD is not None:
        acc += tl.load(ADD + place, here, 0.0).to(tl.float32)
    tl.store(OUT + place, acc.to(OUT.dtype.element_ty), here)


@triton.jit
def gated_slopes_kernel(DY, Z, U, DZ, DU, count, act: tl.constexpr, BLOCK: tl.constexpr):
    """The gradients of both factors of y = act(z) · u:   dz = dy · u · act'(z)          du = dy · act(z)"""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    dy = tl.load(DY + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    z = tl.load(Z + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    u = tl.load(U + i, i < count, 0.0).to(tl.float32)  # [BLOCK]
    tl.store(DZ + i, (dy * u * slope(z, act)).to(DZ.dtype.element_ty), i < count)
    tl.store(DU + i, (dy * activate(z, act)).to(DU.dtype.element_ty), i < count)


# What ships: (gated, 16-bit numbers, at most so many tokens) -> the tile. tests/kernels/test_compiled.py compiles all.
TILES = {
    (False, True, 16): dict(BLOCK_M=16, BLOCK_F=64, BLOCK_C=128, GROUP=1, num_warps=4, num_stages=4),
    (False, True, 64): dict(BLOCK_M=64, BLOCK_F=64, BLOCK_C=64, GROUP=1, num_warps=4, num_stages=4),
    (False, True, math.inf): dict(BLOCK_M=128, BLOCK_F=128, BLOCK_C=64, GROUP=8, num_warps=8, num_stages=3),
    (False, False, math.inf): dict(BLOCK_M=64, BLOCK_F=64, BLOCK_C=32, GROUP=8, num_warps=4, num_stages=3),
    (True, True, 64): dict(BLOCK_M=64, BLOCK_F=64, BLOCK_C=64, GROUP=1, num_warps=4, num_stages=3),
    (True, True, math.inf): dict(BLOCK_M=128, BLOCK_F=64, BLOCK_C=64, GROUP=8, num_warps=8, num_stages=3),
    (True, False, math.inf): dict(BLOCK_M=64, BLOCK_F=32, BLOCK_C=32, GROUP=8, num_warps=4, num_stages=3),
}
BACKWARD_TILES = {  # of product_kernel: for 16-bit numbers, and for float32, which tensor cores do not take
    True: dict(BLOCK_R=128, BLOCK_J=128, BLOCK_K=64, GROUP=8, num_warps=8, num_stages=3),
    False: dict(BLOCK_R=64, BLOCK_J=64, BLOCK_K=32, GROUP=8, num_warps=4, num_stages=3),
}


def config(M: int, F: int, C: int, dtype: str, gated: bool = False) -> Tile:
    """The tile for a product of this shape. The interpreter's cost is per program: there it is as large as helps."""
    if INTERPRETED:
        M, F, C = (min(256, max(16, triton.next_power_of_2(size))) for size in (M, F, C))
        return dict(BLOCK_M=M, BLOCK_F=F, BLOCK_C=C, GROUP=8)
    return next(
        tile for (g, short, most), tile in TILES.items() if (g, short) == (gated, dtype != "float32") and M <= most
    )


def backward_config(R: int, J: int, K: int, dtype: str) -> Tile:
    """The tile for a product (R, K) (K, J) of the backward pass."""
    if INTERPRETED:
        R, J, K = (min(256, max(16, triton.next_power_of_2(size))) for size in (R, J, K))
        return dict(BLOCK_R=R, BLOCK_J=J, BLOCK_K=K, GROUP=8)
    return BACKWARD_TILES[dtype != "float32"]


def check_shapes(what: str, x: Array, act: str | None = None, bias: Array | None = None, **weights: Array) -> None:
    """Raise InputError, naming the argument, unless everything fits x (..., C) and the first weight (F, C)."""
    if act is not None and act not in SMOOTH:
        raise InputError(f"{what}: act is {act!r}, and the activations are {', '.join(SMOOTH)}, or None")
    first = next(iter(weights.values()))
    wanted = dict.fromkeys(weights, (first.shape[0], x.shape[-1]))
    wanted["b"] = tuple(first.shape[:1])
    for name, given in (weights | dict(b=bias)).items():
        if given is not None and tuple(given.shape) != wanted[name]:
            raise InputError(
                f"{what}: {name} has shape {tuple(given.shape)}, and {wanted[name]} fits x {tuple(x.shape)}"
            )


@arrays
def linear(x: Array, w: Array, b: Array | None = None, act: str | None = None, *, tile: Tile | None = None) -> Array:
    """act(x wᵀ + b), in one kernel.

    x (..., C)   w (F, C)   b (F,)   ->   (..., F), all of one dtype: float32, float16 or bfloat16
    act     None or a name of activations.py
    tile    block sizes, warps and stages; those of `config` unless given
    """
    check_shapes("linear", x, act, b, w=w)
    check_floats("linear", x=x, w=w, b=b)
    y = empty((*x.shape[:-1], w.shape[0]), x)
    if y.numel():
        _launch(linear_kernel, x, w, b, (y,), (), act, tile)
    return y


def _launch(
    kernel: Any, x: Array, w: Array, b: Array | None, results: tuple[Array, ...], strides: tuple[int, ...],
    act: str | None, tile: Tile | None,
) -> None:  # fmt: skip
    """Launch linear_kernel or dz_kernel, which take the same but for the arrays and strides at the end."""
    (F, C), flat, w = w.shape, as_rows(x), as_rows(w)
    M, V = flat.shape[0], unit_of(C, flat.stride(0), w.stride(0))
    how = tile or config(M, F, C, name_of(x.dtype))
    kernel[(triton.cdiv(M, how["BLOCK_M"]) * triton.cdiv(F, how["BLOCK_F"]),)](
        flat, w, None if b is None else b.contiguous(), *results,
        M, F, C // V, flat.stride(0) // V, w.stride(0) // V, *strides, act, V, C % how["BLOCK_C"] > 0, **how,
    )  # fmt: skip


@arrays
def linear_act(x: Array, w: Array, b: Array | None = None, *, act: str, tile: Tile | None = None) -> Array:
    """`linear` with the arguments of the op `linear_act`."""
    return unwrap(linear)(x, w, b, act, tile=tile)


@arrays
def gated_linear(x: Array, gate: Array, up: Array, *, act: str | None, tile: Tile | None = None) -> Array:
    """act(x gateᵀ) · (x upᵀ), in one kernel: the first half of T5's MLP (gated GELU is act="gelu_tanh").

    x (..., C)   gate, up (F, C)   ->   (..., F)         act and tile as in `linear`
    """
    check_shapes("gated_linear", x, act, gate=gate, up=up)
    check_floats("gated_linear", x=x, gate=gate, up=up)
    (F, C), flat, gate, up = gate.shape, as_rows(x), as_rows(gate), as_rows(up)
    M = flat.shape[0]
    y = empty((*x.shape[:-1], F), x)
    if not y.numel():
        return y
    V = unit_of(C, flat.stride(0), gate.stride(0), up.stride(0))
    how = tile or config(M, F, C, name_of(x.dtype), gated=True)
    gated_linear_kernel[(triton.cdiv(M, how["BLOCK_M"]) * triton.cdiv(F, how["BLOCK_F"]),)](
        flat, gate, up, y, M, F, C // V, flat.stride(0) // V, gate.stride(0) // V, up.stride(0) // V,
        act, V, C % how["BLOCK_C"] > 0, **how,
    )  # fmt: skip
    return y


@arrays
def linear_backward(
    dout: Array, x: Array, w: Array, b: Array | None = None, act: str | None = None, *, wanted: Wanted | None = None,
    tile: Tile | None = None, dz_tile: Tile | None = None,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    """The gradients of `linear` for x, w and b; with an activation, z is computed again from them.

    dout (..., F)   x (..., C)   w (F, C)   b (F,)   ->   dx (..., C), dw (F, C), db (F,)
    wanted    which of the three are needed, all unless given; the others are None, and so is db where there is no b
    tile      block sizes, warps and stages of the products dx and dw; those of `backward_config` unless given
    dz_tile   the same of the product z; those of `config` unless given
    """
    return _backward("linear_backward", dout, x, w, b, act, wanted, tile, dz_tile)


@arrays
def linear_act_backward(
    dout: Array, x: Array, w: Array, b: Array | None = None, *, act: str, wanted: Wanted | None = None,
    tile: Tile | None = None, dz_tile: Tile | None = None,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    """`linear_backward` with the arguments of the op `linear_act`."""
    return _backward("linear_act_backward", dout, x, w, b, act, wanted, tile, dz_tile)


@arrays
def gated_linear_backward(
    dout: Array, x: Array, gate: Array, up: Array, *, act: str, wanted: Wanted | None = None
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of `gated_linear` for x, gate and up; both halves are computed again from them.

    dout (..., F)   x (..., C)   gate, up (F, C)   ->   dx (..., C), dgate (F, C), dup (F, C)
    wanted    which of the three are needed, all unless given; the others are None
    """
    check_shapes("gated_linear_backward", x, act, gate=gate, up=up)
    check_floats("gated_linear_backward", x=x, dout=dout, gate=gate, up=up)
    fitting = (*x.shape[:-1], gate.shape[0])
    if tuple(dout.shape) != fitting:
        found = f"dout has shape {tuple(dout.shape)}"
        raise InputError(f"gated_linear_backward: {found}, and {fitting} fits x {tuple(x.shape)}")
    flat, gate, up = as_rows(x), as_rows(gate), as_rows(up)
    z, u = empty((flat.shape[0], gate.shape[0]), x), empty((flat.shape[0], gate.shape[0]), x)
    if z.numel():
        _launch(linear_kernel, flat, gate, None, (z,), (), None, None)
        _launch(linear_kernel, flat, up, None, (u,), (), None, None)
    dz, du = gated_slopes(dout.contiguous(), z, u, act)
    to_x, to_gate, to_up = wanted or (True, True, True)
    return (
        product(du, up, add=product(dz, gate)).reshape(*x.shape) if to_x else None,
        product(dz, flat, turned=True) if to_gate else None,
        product(du, flat, turned=True) if to_up else None,
    )


def gated_slopes(dout: Array, z: Array, u: Array, act: str) -> tuple[Array, Array]:
    """The gradients of act(z) · u for z and u, all of them (M, F) and contiguous."""
    dz, du, count = empty(tuple(z.shape), z), empty(tuple(z.shape), z), z.numel()
    if count:
        how = elementwise()
        gated_slopes_kernel[(triton.cdiv(count, how["BLOCK"]),)](dout, z, u, dz, du, count, act, **how)
    return dz, du


def _backward(
    op: str, dout: Array, x: Array, w: Array, b: Array | None, act: str | None, wanted: Wanted | None,
    tile: Tile | None, dz_tile: Tile | None,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    """Check, then dz if there is an activation, then the products that are wanted."""
    check_shapes(op, x, act, b, w=w)
    check_floats(op, x=x, dout=dout, w=w, b=b)
    fitting = (*x.shape[:-1], w.shape[0])
    if tuple(dout.shape) != fitting:
        raise InputError(f"{op}: dout has shape {tuple(dout.shape)}, and {fitting} fits x {tuple(x.shape)}")
    to_x, to_w, to_b = wanted or (True, True, True)
    dz = as_rows(dout)
    if act is not None and (to_x or to_w or to_b and b is not None):
        dy, dz = dz, empty(tuple(dz.shape), x)
        if dz.numel():
            _launch(dz_kernel, x, w, b, (dy, dz), (dy.stride(0),), act, dz_tile)
    return (
        product(dz, as_rows(w), tile=tile).reshape(*x.shape) if to_x else None,
        product(dz, as_rows(x), turned=True, tile=tile) if to_w else None,
        column_sums(dz) if to_b and b is not None else None,
    )


def product(a: Array, b: Array, turned: bool = False, tile: Tile | None = None, add: Array | None = None) -> Array:
    """a b, or aᵀ b, plus `add`, of matrices whose rows lie in one piece each.

    a (R, K), turned (K, R)   b (K, J)   add (R, J), contiguous   ->   (R, J)
    """
    (K, J), R = b.shape, a.shape[1 if turned else 0]
    out = empty((R, J), a)
    if out.numel():
        how = tile or backward_config(R, J, K, name_of(a.dtype))
        V = unit_of(J, a.shape[1], a.stride(0), b.stride(0))
        sizes = (R // V, J // V, K) if turned else (R, J // V, K // V)
        product_kernel[(triton.cdiv(R, how["BLOCK_R"]) * triton.cdiv(J, how["BLOCK_J"]),)](
            a, b, add, out, *sizes, a.stride(0) // V, b.stride(0) // V, turned, V, K % how["BLOCK_K"] > 0, **how
        )
    return out
