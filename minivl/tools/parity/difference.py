"""minivl.diff: two sides run on the same inputs, compared activation by activation, and the first difference explained.

minivl.diff("numpy", "torch", model="demo")
minivl.diff("demo", "transformers")                      ours on NumPy against transformers
minivl.diff(model, their_module)                         models that are loaded already
minivl.diff("numpy", "numpy", model=folder, set_b={"vision_config.layer_norm_eps": 1e-5})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import __version__
from ...api.pretrained import Pretrained
from ...errors import InputError, OpsError
from ...weights import places
from . import families, sides, theirs
from .diagnosis import diagnose
from .flow import compare
from .inputs import looked_at, seeded
from .ours import Ours
from .report import Report, Run
from .theirs import Theirs


def diff(
    a: Any,
    b: Any,
    inputs: Mapping[str, Any] | None = None,
    *,
    model: Any = None,
    set_a: Mapping[str, Any] | None = None,
    set_b: Mapping[str, Any] | None = None,
    picture: Any = None,
    text: str | None = None,
    seed: int = 0,
    to_the_end: bool = False,
) -> Report:
    """Compare two sides.

    a, b      "numpy", "torch", "triton", "float64", "int8", "weight-only", "bfloat16", "torch-bfloat16", ...,
              "transformers"; a folder, an id on the Hub, "demo" or "demo-bridgetower" (NumPy's side of that
              checkpoint); "torch@FOLDER"; or a model of minivl or of transformers
    inputs    what the model is called with (pixel_values, input_ids, attention_mask, labels ...); without them a
              picture and a text, or noise and random words made from `seed`
    model     the checkpoint of sides that name none; otherwise that of the other side, or "demo"
    set_a, set_b   settings of the configuration, {"text_config.activation_function": "relu"}
    to_the_end     go on behind the first difference

    All models that the files hold are compared, one for each head of a BridgeTower. Raises InputError for a side that
    does not exist and what from_pretrained raises.
    """
    folders = _checkpoints(a, b, model)
    families = _families(a, b, folders)
    report = Report(_label(a, set_a), _label(b, set_b), _label(folders[0] or folders[1], None))
    for family in families:
        side_a, side_b = (_side(*one) for one in ((a, folders[0], family, set_a), (b, folders[1], family, set_b)))
        config = side_a.model.config if isinstance(side_a, Ours) else side_a.config
        given = inputs or _inputs(family, config, folders[0] or folders[1], picture, text, seed)
        rows, parting = compare(side_a, side_b, given, to_the_end=to_the_end)
        run = Run(family.__name__, rows)
        if parting is not None:
            run.first, run.worst, run.diagnosis = parting.row, parting.worst, diagnose(parting)
        report.runs.append(run)
    report.versions = versions(report.a, report.b)
    return report


def _checkpoints(a: Any, b: Any, model: Any) -> tuple[Any, Any]:
    """The checkpoint of each side; None for a model that is loaded."""
    named = [sides.split(one)[1] if isinstance(one, str) else None for one in (a, b)]
    shared = model or next((name for name in named if name), None)
    for one in (a, b):
        if not isinstance(one, str) and not isinstance(one, Pretrained) and not hasattr(one, "state_dict"):
            raise InputError(f"side {one!r}: wanted a word, a folder or a model, found {type(one).__name__}")
    loaded = [not isinstance(one, str) for one in (a, b)]
    if shared is None and any(loaded) and not all(loaded):
        raise InputError("model: wanted the checkpoint of the side that is not a loaded model, found nothing")
    found = [None if is_loaded else name or shared or "demo" for is_loaded, name in zip(loaded, named, strict=True)]
    return found[0], found[1]


def _families(a: Any, b: Any, folders: tuple[Any, Any]) -> list[type[Pretrained]]:
    for side in (a, b):
        if isinstance(side, Pretrained):
            return [type(side)]
        if not isinstance(side, str):
            return [Theirs(side, "").family]
    held: list[list[type[Pretrained]]] = [families.held(places.find(folder)) for folder in folders]
    both = [family for family in held[0] if family in held[1]]
    if not both:
        names = [family.__name__ for one in held for family in one]
        raise InputError(f"sides {a!r} and {b!r}: wanted two checkpoints of one family, found {', '.join(names)}")
    return both


def _side(side: Any, place: Any, family: type[Pretrained], settings: Mapping[str, Any] | None) -> Any:
    if isinstance(side, Pretrained):
        return Ours(side, _label(side, None))
    if not isinstance(side, str):
        return Theirs(side, _label(side, None))
    return sides.make(sides.split(side)[0], place, family, settings or {})


def _label(side: Any, settings: Mapping[str, Any] | None) -> str:
    if isinstance(side, Pretrained):
        return f"minivl on {side.ops.name}"
    if side is not None and hasattr(side, "state_dict"):
        return "transformers"
    words = [str(side or "a loaded model"), *(f"{name}={value}" for name, value in (settings or {}).items())]
    return " ".join(words)


def _inputs(family: type[Pretrained], config: Any, place: Any, picture: Any, text: str | None, seed: int) -> Any:
    if picture is None and text is None:
        return seeded(family, config, seed)
    if place is None:
        raise InputError("picture and text: wanted a checkpoint whose processor reads them, found a loaded model")
    return looked_at(family, config, place, picture, text)


def versions(*used: Any) -> str:
    """minivl's version, and those of the packages that took part."""
    import sys

    words = [f"minivl {__version__}", f"numpy {sys.modules['numpy'].__version__}"]
    for name in ("torch", "transformers", "triton"):
        if any(name in str(side) for side in used) and name in sys.modules:
            words.append(f"{name} {sys.modules[name].__version__}")
    return ", ".join(words)


def parity(checkpoint: Any, **how: Any) -> Report:
    """The parity test of a checkpoint: ours on NumPy against transformers, or against float64 where that is missing."""
    try:
        theirs.package()
    except OpsError:
        return diff("float64", "numpy", model=checkpoint, **how)
    return diff("numpy", "transformers", model=checkpoint, **how)
