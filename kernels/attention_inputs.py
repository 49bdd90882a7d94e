"""What the attention kernels ask of their arguments: checked here, and turned into the strides that they walk with."""

from minivl.errors import OpsError
from minivl.kernels.launch import Array, name_of

WIDEST = 256  # numbers of a head that the kernels keep in registers


def sizes(q: Array, k: Array, v: Array) -> tuple[int, int, int, int, int]:
    """B, H, T, D and S; OpsError where q, k and v do not fit each other or the kernels."""
    dtypes = [name_of(x.dtype) for x in (q, k, v)]
    if dtypes[0] not in ("float32", "float16", "bfloat16") or len(set(dtypes)) > 1:
        raise OpsError(
            f"attention: q, k and v are {', '.join(dtypes)}, and the kernels take float32, float16 or bfloat16,"
            " the same for all three: convert them"
        )
    B, H, T, D = q.shape
    S = k.shape[2]
    if tuple(k.shape) != (B, H, S, D) or tuple(v.shape) != (B, H, S, D):
        raise OpsError(
            f"attention: q is {tuple(q.shape)}, so k and v should be ({B}, {H}, S, {D}), and are {tuple(k.shape)} and"
            f" {tuple(v.shape)}"
        )
    if not 0 < D <= WIDEST:
        raise OpsError(f"attention: heads are {D} wide, and the kernels hold 1 to {WIDEST} numbers: use the torch ops")
    return B, H, T, D, S


def rows_of(x: Array) -> Array:
    """x itself if the numbers of a row lie side by side, which the kernels count on; else a copy whose rows do."""
    return x if x.stride()[-1] == 1 else x.contiguous()


def broadcast_strides(x: Array | None, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a mask or bias as it broadcasts to (B, H, T, S): 0 along an axis of which it has only one."""
    if x is None:
        return (0, 0, 0, 0)
    kind = name_of(x.dtype)
    if name == "mask" and kind != "bool":
        raise OpsError(f"attention: mask is {kind}, and should be bool, True where a key is kept: compare it with 0")
    if name == "bias" and "float" not in kind:
        raise OpsError(f"attention: bias is {kind}, and should be a float type: it is added to the scores")
    missing = 4 - len(x.shape)
    lengths, steps = (1,) * missing + tuple(x.shape), (0,) * missing + tuple(x.stride())
    if missing < 0 or any(n not in (1, full) for n, full in zip(lengths, shape, strict=True)):
        raise OpsError(
            f"attention: {name} is {tuple(x.shape)}, which does not broadcast to (B, H, T, S) = {tuple(shape)}"
        )
    return tuple(0 if n == 1 else step for n, step in zip(lengths, steps, strict=True))
