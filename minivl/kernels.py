"""Doorway to the Triton kernels, whose files live in the top-level folder kernels/.

A checkout keeps that folder beside minivl/, a wheel carries it inside. With a `__path__` this module is a package, so
`minivl.kernels.attention` works in both. Nothing named plain `kernels` is ever imported: that name belongs to another
project's package, which transformers imports when it can see it.
"""

from pathlib import Path

_here = Path(__file__).resolve().parent
_inside, _beside = _here / "kernels", _here.parent / "kernels"
__path__ = [str(_inside if _inside.is_dir() else _beside)]
