"""Commands run as a user runs them."""

from pathlib import Path

from minivl.cli import main

PICTURES = Path("tutorials/pictures")


CIRCLE = PICTURES / "red_circle.png"


def run(capsys, *arguments):
    """(exit status, lines of standard output, lines of standard error without the note about the demo)"""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out.splitlines(), [line for line in err.splitlines() if "toy world" not in line]
