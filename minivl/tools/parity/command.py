"""`minivl diff`: where two runs of a model part, and why."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ...console import complain
from ...errors import MinivlError
from .report import RULE

EPILOG = f"""A and B are kinds: numpy, plain, torch, triton, float64, int8, weight-only, bfloat16, torch-bfloat16,
torch-float16, transformers, transformers-bfloat16 ...; or a folder, an id on the Hub, demo, demo-bridgetower (these run
on numpy); or KIND@FOLDER. With one checkpoint alone it is held against transformers, or, where that is not installed,
against float64. {RULE} Exit status: 0 same, 1 different, 2 wrong usage or no comparison."""


def options(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("a", metavar="A", help="the reference: a kind, a folder or an id")
    add("b", metavar="B", nargs="?", help="what is held against it")
    add("--model", metavar="FOLDER", help="the checkpoint of sides that name none (default: the other side's, or demo)")
    for side in "ab":
        about = f"change a setting of {side.upper()}'s configuration, as vision_config.layer_norm_eps=1e-5"
        add(f"--set-{side}", action="append", default=[], metavar="PATH=VALUE", help=about)
    add("--picture", metavar="FILE", help="what the model looks at (default: seeded noise)")
    add("--text", help="what it reads (default: seeded words)")
    add("--seed", dest="noise", type=int, default=0, metavar="N", help="of the noise and the words (default: 0)")
    add("--all", action="store_true", help="go on behind the first difference")
    add("--json", action="store_true", help="print one JSON object")
    add("--html", metavar="FILE", help="write the report as a page too")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; the exit status."""
    from . import difference, sides

    try:
        if arguments.b is None and sides.is_kind(arguments.a):
            complain(
                f"diff {arguments.a}: wanted what to compare it with, found nothing; give B, or a checkpoint alone"
            )
            return 2
        how: dict[str, Any] = {
            "set_a": _settings(arguments.set_a),
            "set_b": _settings(arguments.set_b),
            "picture": arguments.picture,
            "text": arguments.text,
            "seed": arguments.noise,
            "to_the_end": arguments.all,
        }
        if arguments.b is None:
            report = difference.parity(arguments.a, **how)
        else:
            report = difference.diff(arguments.a, arguments.b, model=arguments.model, **how)
    except MinivlError as problem:
        complain(str(problem))
        return 2
    print(json.dumps(report.to_dict()) if arguments.json else str(report), flush=True)
    if arguments.html:
        with open(arguments.html, "w", encoding="utf-8") as file:
            file.write(report.html())
    return 0 if report.same else 1


def _settings(words: list[str]) -> dict[str, Any]:
    """{"path": value} of PATH=VALUE, the value as JSON where it is that."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise MinivlError(f"setting {word!r}: wanted PATH=VALUE, as vision_config.layer_norm_eps=1e-5")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
