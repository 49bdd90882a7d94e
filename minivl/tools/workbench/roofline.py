"""The least time that the work of a kernel takes on a chip, by the data sheets: a bound, and never a measurement.

    memory   every byte of the arguments and results once / bytes per second
    tensor   multiply-adds of the formula / (cores · multiply-adds per clock of a core · clock)
    special  exponentials of the formula / (cores · special functions per clock of a core · clock)

The largest is the bound. Real kernels take longer: nothing here knows of waiting, of caches or of clocks under load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...kernels.checking.chips import CHIPS


@dataclass(frozen=True)
class Sheet:
    """What a data sheet says of a whole chip; the rates of one core stand in kernels/checking/chips.py."""

    model: str
    cores: int
    gigahertz: float  # boost
    gigabytes: float  # per second


SHEETS = {
    "sm_80": Sheet("A100 SXM 80 GB", 108, 1.41, 2039),
    "sm_86": Sheet("A40", 84, 1.74, 696),
    "sm_89": Sheet("L40S", 142, 2.52, 864),
    "sm_90": Sheet("H100 SXM", 132, 1.83, 3350),
    "sm_100": Sheet("B200", 148, 1.86, 8000),
    "sm_120": Sheet("RTX PRO 6000", 188, 2.6, 1792),
    "gfx90a": Sheet("MI250, one of its two dies", 104, 1.7, 1638),
    "gfx942": Sheet("MI300X", 304, 2.1, 5300),
}


def roofline(chip: str, products: int, special: int, least_bytes: int, dtype: str) -> dict[str, Any]:
    """Microseconds that each resource needs at least, and which of them is the bound."""
    sheet, core = SHEETS[chip], CHIPS[chip]
    clocks = sheet.cores * sheet.gigahertz * 1e3  # of all cores, in a microsecond
    rate = core.fp32 if dtype == "float32" else core.products  # float32 has no tensor cores here
    times = {
        "memory": least_bytes / (sheet.gigabytes * 1e3),
        "fp32" if dtype == "float32" else "tensor": products / (clocks * rate),
        "special": special / (clocks * core.special),
    }
    times = {name: time for name, time in times.items() if time}
    return {
        "chip": sheet.model,
        "multiply-adds": products,
        "special functions": special,
        "least bytes": least_bytes,
        "multiply-adds per byte": round(products / least_bytes, 1) if least_bytes else None,
        "balance": round(clocks * rate / (sheet.gigabytes * 1e3), 1),  # multiply-adds per byte where the two are even
        "microseconds": {name: round(time, 3) for name, time in times.items()},
        "bound": max(times, key=lambda name: times[name]) if times else None,
    }
