"""What the tests of every kernel share: tensors that lie awkwardly in memory, and how wrong a result may be.

    q = draw(rng, (2, 3, 33, 80), "bfloat16", device, "permuted")
    no_worse(ours, exact, reference, cap=0.05, what="attention")

`exact` is the float64 answer, `reference` what torch makes of the same input in the same dtype.
"""

import numpy as np
import torch

LAYOUTS = ("plain", "padded", "permuted", "offset", "strided")

# Where the reference is right by luck (a single row, a sum of one term), twice its error is no allowance at all. So
# there is a floor: this many rounding steps of the dtype at the largest exact value.
FLOOR = {"float32": 4.0, "float16": 0.5, "bfloat16": 0.5}
# The error's root mean square over the answer's: catches many errors, each below what the reference's worst allows.
RMS = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 5e-3}


def draw(rng, shape, dtype, device="cpu", layout="plain", pad=3):
    """Normal numbers (int8: rounded, 40 wide) of `shape`; `layout` says how they lie in memory.

        plain      contiguous
        padded     every row is `pad` elements longer than it looks
        permuted   the last axis but one lies outermost, rows padded: (B, H, T, D) stored as (T, B, H, D + pad)
        offset     starts in the middle of its storage, rows padded
        strided    every second element of a row

    Around the numbers lies NaN (integers: the smallest value), so reading one of those ruins the result. Give q, k, v
    and out different layouts or pads: then no stride of one fits another.
    """
    dtype = named(dtype)
    numbers = torch.from_numpy(np.asarray(rng.standard_normal(shape)))
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        numbers = (40 * numbers).round().clamp(limits.min, limits.max)
    home = room(tuple(shape), dtype, device, layout, pad)
    home.copy_(numbers.to(dtype))
    return home


def room(shape, dtype, device="cpu", layout="plain", pad=3):
    """A tensor of `shape` laid out as `draw` says; it and the memory around it full of NaN: an output to write to."""
    dtype = named(dtype)
    nothing = float("nan") if dtype.is_floating_point else torch.iinfo(dtype).min
    if not shape or layout == "plain":
        return torch.full(shape, nothing, dtype=dtype, device=device)
    *outer, width = shape
    if layout == "permuted" and outer:
        stored = torch.full((outer[-1], *outer[:-1], width + pad), nothing, dtype=dtype, device=device)
        return torch.movedim(stored, 0, -2)[..., :width]
    if layout == "offset":
        rows = int(np.prod(outer, dtype=int))
        stored = torch.full((7 + rows * (width + pad) + 7,), nothing, dtype=dtype, device=device)
        return stored[7:-7].view(*outer, width + pad)[..., :width]
    if layout == "strided":
        return torch.full((*outer, 2 * width), nothing, dtype=dtype, device=device)[..., ::2]
    assert layout in LAYOUTS, f"layout is {layout!r}, not one of {LAYOUTS}"
    return torch.full((*outer, width + pad), nothing, dtype=dtype, device=device)[..., :width]


def named(dtype):
    """torch.float16 for "float16" and for itself."""
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def no_worse(ours, exact, reference, cap, what, rms=None, times=2):
    """Fail unless `ours` is as near to `exact` (float64) as `reference` (torch, same dtype) gives reason to expect.

    1. the same shape, dtype and non-finite elements;
    2. largest error <= `times` x that of the reference + FLOOR rounding steps of the dtype at the largest exact value;
    3. root mean square of the error <= `rms` (from RMS unless given) x that of the exact answer;
    4. largest error <= `cap`: a reference that is itself far off must not excuse us.
    """
    found, dtype = (str(x.dtype).removeprefix("torch.") for x in (ours, reference))
    assert found == dtype, f"{what}: dtype is {found}, and the reference's is {dtype}"
    ours, reference, exact = double(ours), double(reference), np.asarray(exact, np.float64)
    assert ours.shape == exact.shape == reference.shape, (
        f"{what}: shapes are {ours.shape} ours, {exact.shape} exact, {reference.shape} reference"
    )
    _same_where_not_finite(ours, exact, what)
    finite = np.isfinite(exact)
    if not finite.any():
        return
    with np.errstate(invalid="ignore"):  # inf - inf
        error, allowed = (np.where(finite, np.abs(x - exact), 0) for x in (ours, reference))
    step = torch.finfo(getattr(torch, dtype)).eps * np.abs(exact[finite]).max()
    bound = times * allowed.max() + FLOOR[dtype] * step
    worst = np.unravel_index(error.argmax(), error.shape)
    where = (
        f"{what} ({dtype}): at {tuple(map(int, worst))} ours is {ours[worst]:.9g}, exactly {exact[worst]:.9g},"
        f" the reference has {reference[worst]:.9g}; error {error[worst]:.3g}"
    )
    assert error[worst] <= bound, (
        f"{where} is above {bound:.3g} = {times} x the reference's {allowed.max():.3g} + floor"
    )
    assert error[worst] <= cap, f"{where} is above the cap {cap:.3g}"
    limit = RMS[dtype] if rms is None else rms
    ratio = np.sqrt(np.mean(error[finite] ** 2)) / max(np.sqrt(np.mean(exact[finite] ** 2)), 1e-300)
    assert ratio <= limit, f"{where}; root mean square of all errors is {ratio:.3g} of the answer's, above {limit:.3g}"


def _same_where_not_finite(ours, exact, what):
    """Infinities and NaN stand where the exact answer has them, and nowhere else."""
    differ = ~(np.isfinite(ours) & np.isfinite(exact)) & ~((ours == exact) | (np.isnan(ours) & np.isnan(exact)))
    if differ.any():
        first = tuple(int(axis[0]) for axis in np.nonzero(differ))
        raise AssertionError(
            f"{what}: at {first} ours is {ours[first]}, exactly {exact[first]} ({differ.sum()} of {differ.size} such"
            " elements; NaN in ours usually means that no program wrote there, or that one read past a row)"
        )


def double(x):
    """float64 in NumPy: of a tensor on any device and of any dtype, or of an array."""
    return x.detach().cpu().to(torch.float64).numpy() if isinstance(x, torch.Tensor) else np.asarray(x, np.float64)


def same_bits(ours, wanted, what):
    """Fail unless two arrays are equal (NaN to NaN), naming the first element that differs and how many do."""
    assert ours.dtype == wanted.dtype, f"{what}: dtype is {ours.dtype}, not {wanted.dtype}"
    ours, wanted = double(ours), double(wanted)
    assert ours.shape == wanted.shape, f"{what}: shape is {ours.shape}, not {wanted.shape}"
    differ = ~((ours == wanted) | (np.isnan(ours) & np.isnan(wanted)))
    if differ.any():
        first = tuple(int(axis[0]) for axis in np.nonzero(differ))
        found, needed = float(ours[first]), float(wanted[first])
        raise AssertionError(f"{what}: at {first} {found!r}, not {needed!r}; {differ.sum()} of {differ.size} differ")
