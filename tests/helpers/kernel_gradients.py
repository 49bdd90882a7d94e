"""What the tests of the backward kernels share: torch's gradients, and the rule that ours are held to.

The exact gradients are torch's in float64; ours may be three times as far from them as torch's in our dtype.
"""

import numpy as np
import torch
from kernel_checks import RMS, double, no_worse

CAP = {"float32": 5e-5, "float16": 0.03, "bfloat16": 0.2}  # times the largest exact number, where that is above 1
PRODUCT_CAP = {"float32": 3e-5, "float16": 0.02, "bfloat16": 0.15}
PRODUCT_RMS = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 6e-3}


def autograd(function, dout, inputs, dtype):
    """torch's gradients of function(*inputs) in a dtype: one for each input but integers, None for None."""
    given = [x.detach().to(dtype).requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs]
    out = function(*given)
    places = [x for x in given if x is None or x.is_floating_point()]
    leaves = [x for x in places if x is not None]
    found = iter(torch.autograd.grad(out, leaves, dout.to(dtype).expand(out.shape), allow_unused=True))
    return [None if x is None else next(found) for x in places]


def hold(got, function, dout, inputs, what, terms=(0, 0, 0, 0), caps=CAP, rms=RMS):
    """Every gradient of `got` against torch's: float64, and the dtype of the inputs; None exactly where the input is.

    terms   for each, the size of the numbers that it is a sum of: where they cancel, errors are measured by them
    """
    dtype = str(dout.dtype).removeprefix("torch.")
    exact, reference = (autograd(function, dout, inputs, kind) for kind in (torch.float64, dout.dtype))
    assert len(got) == len(exact)
    for number, (ours, true, theirs) in enumerate(zip(got, exact, reference, strict=True)):
        assert (ours is None) == (true is None), f"gradient {number} of {what}"
        if true is None:
            continue
        true = double(true)
        cap = caps[dtype] * max(1.0, np.abs(true[np.isfinite(true)]).max(initial=0))
        limit = rms[dtype] * max(1.0, terms[number] / max(size(true), 1e-300))
        no_worse(ours, true, theirs, cap, f"gradient {number} of {what}", limit, times=3)


def hold_products(got, function, dout, inputs, what):
    """`hold` for gradients that are products of matrices: tighter, and every term is of the size of dout."""
    hold(got, function, dout, inputs, what, (size(dout),) * len(inputs), PRODUCT_CAP, PRODUCT_RMS)


def size(x):
    """The root mean square of what is finite."""
    x = double(x)
    return np.sqrt(np.mean(x[np.isfinite(x)] ** 2)) if np.isfinite(x).any() else 0.0
