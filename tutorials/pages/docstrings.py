"""Docstrings as they are: plain words, and formulas and shapes in columns, no markup."""

import re

MARKUP = re.compile(r"([\\*`|_<>])")
CODE = re.compile(r"(`[^`\n]+`)")
COLUMNS = re.compile(r"\S {3,}\S|->|^\s", re.MULTILINE)


def marked_up(lines: list[str]) -> list[str]:
    """Paragraph by paragraph: what stands in columns, is indented or has an arrow stays as it is, the rest is prose."""
    paragraphs = [part for part in re.split(r"\n\s*\n", "\n".join(lines)) if part.strip()]
    out: list[str] = []
    for part in paragraphs:
        text = part.strip("\n").splitlines()
        if COLUMNS.search(part):
            out += [".. code-block:: text", "", *(f"   {line}" for line in text), ""]
        else:
            out += [prose(line) for line in text] + [""]
    return out


def prose(line: str) -> str:
    """`name` is code; nothing else in a line has a meaning."""
    parts = CODE.split(line)
    return "".join(f"`{part}`" if i % 2 else MARKUP.sub(r"\\\1", part) for i, part in enumerate(parts))


def process(app, what, name, thing, options, lines):
    lines[:] = marked_up(lines)


def skip(app, what, name, thing, skipped, options):
    """The fields of a named tuple have docstrings that say nothing."""
    return True if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app):
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}
