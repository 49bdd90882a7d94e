"""Where the numbers in numpy_ops.gelu come from: the odd polynomial p with  x/2 · (1 + tanh(p(x)))  closest to GELU.

    python tests/helpers/fit_gelu.py

The p that would be exact is atanh(erf(x/√2)), a smooth odd function. It is fitted by least squares, reweighted towards
the points where the GELU is worst until the largest error stops falling (Lawson's algorithm). Only NumPy and the
standard library are used.
"""

import math

import numpy as np

REACH, TERMS, ROUNDS = 5.5, 7, 60


def fit(reach: float = REACH, terms: int = TERMS, rounds: int = ROUNDS) -> tuple[float, np.ndarray]:
    """The largest error of the GELU and the coefficients of x, x³, x⁵, ..."""
    x = reach * (0.5 + 0.5 * np.cos(np.linspace(0, math.pi, 4001)))[:-1]
    exact = x / 2 * np.array([math.erf(v / math.sqrt(2)) for v in x])
    tail = np.array([math.erfc(v / math.sqrt(2)) for v in x])
    target = 0.5 * np.log((2 - tail) / tail)  # atanh(erf), written so that it survives erf being almost 1
    powers = np.stack([x ** (2 * i + 1) for i in range(terms)], axis=1)
    slope = 0.5 * x * (1 - np.tanh(target) ** 2)  # how much an error of p moves the GELU
    weight, best = np.ones_like(x), (math.inf, np.zeros(terms))
    for _ in range(rounds):
        scaled = weight * slope + 1e-12
        coefficients = np.linalg.lstsq(powers * scaled[:, None], target * scaled, rcond=None)[0]
        error = np.abs(x / 2 * np.tanh(powers @ coefficients) - exact)
        best = min(best, (float(error.max()), coefficients), key=lambda pair: pair[0])
        weight = weight * (0.2 + error / error.max())
        weight /= weight.max()
    return best


if __name__ == "__main__":
    worst, numbers = fit()
    print(f"largest error {worst:.2e}; highest power first:")
    for number in numbers[::-1]:
        print(f"    {number!r},".replace("np.float64(", "").replace(")", ""))
