"""One page about a compiled kernel: counts, bounds, and every line of Python beside what it became. Needs nothing else.

A click on a line of Python marks its instructions in TTIR, PTX and SASS, and a click on one of those marks the Python.
"""

from __future__ import annotations

from html import escape
from typing import Any

from .assembly import Listing
from .inspecting import Inspection, Launch, roofline_lines, rows_of


def page(found: Inspection) -> str:
    """The page as HTML."""
    name = found.main.facts["kernel"]
    title = f"{name}, {found.chip}"
    body = [
        f"<header><h1>{escape(name)} <small>for {escape(found.chip)}, {escape(found.dtype)}</small></h1>",
        f"<p>{escape(found.title)}</p>",
        "<p class=note>Counted in compiled code. Nothing was run, and no time was measured: a bound says what cannot be"
        " faster, not how fast it is.</p></header>",
        *(_launch(launch, launch is found.main) for launch in found.launches),
        _roofline(found),
    ]
    if found.main.listing is not None:
        body.append(_code(found.main.listing))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>{''.join(body)}<script>{SCRIPT}</script></body></html>\n"
    )


def _launch(launch: Launch, main: bool) -> str:
    facts = launch.facts
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows_of(facts)
    )
    loop = facts["main loop"]
    table = f"<div class=scroll><table>{rows}</table></div>"
    if not main:
        return f"<details><summary>before or after it: {escape(facts['kernel'])}</summary>{table}</details>"
    return f"<section>{_cards(facts)}{_bars(loop) if loop else ''}<h2>In full</h2>{table}</section>"


def _cards(facts: dict[str, Any]) -> str:
    loop = facts["main loop"]
    bound = max(loop["bounds"], key=lambda pipe: loop["bounds"][pipe]) if loop else "-"
    spilled = facts["stack"] or facts["spills"]
    cards = [
        ("registers of a thread", facts["registers"], ""),
        ("spills", facts["spills"] or facts["stack"] or "none", "bad" if spilled else ""),
        ("shared memory", f"{facts['shared'] / 1024:.0f} KiB", ""),
        ("occupancy", f"{facts['occupancy']:.0%}", f"limited by {facts['limited by']}"),
        ("main loop bound by", bound, f"{loop['instructions']} instructions a trip" if loop else ""),
    ]
    if facts["useful"] is not None:
        cards.append(("useful, at most", f"{facts['useful']:.0%}", "of the tensor cores' full speed"))
    parts = []
    for name, value, more in cards:
        kind = " class=bad" if more == "bad" else ""
        under = f"<small>{escape(more)}</small>" if more and more != "bad" else ""
        parts.append(f"<li{kind}><span>{escape(name)}</span><b>{escape(str(value))}</b>{under}</li>")
    return f"<ul class=cards>{''.join(parts)}</ul>"


def _bars(loop: dict[str, Any]) -> str:
    """What each pipe needs at least for one trip, as bars, with its share of the instructions."""
    most = max(loop["bounds"].values())
    rows = []
    for pipe, clocks in sorted(loop["bounds"].items(), key=lambda item: -item[1]):
        count = loop["instructions"] if pipe == "issue" else loop["pipes"].get(pipe, 0)
        rows.append(f"<li><span>{escape(pipe)}</span><i style='--share:{clocks / most:.3f}'></i>"
                    f"<b>{clocks} clocks</b><small>{count} instructions</small></li>")  # fmt: skip
    others = [f"{name} {count}" for name, count in loop["pipes"].items() if name not in loop["bounds"]]
    rest = f"<p class=note>without a bound of their own: {escape(', '.join(others))}</p>" if others else ""
    title = "One trip of the main loop: clocks that each pipe needs at least"
    return f"<h2>{title}</h2><ul class=bars>{''.join(rows)}</ul>{rest}"


def _roofline(found: Inspection) -> str:
    lines = roofline_lines(found)
    if not lines:
        return ""
    return f"<section><h2>The work itself</h2>{''.join(f'<p>{escape(line.strip())}</p>' for line in lines)}</section>"


def _code(lines: Listing) -> str:
    """Python on the left, the tabs with everything else on the right."""
    most = max([sum(pipes.values()) for number, pipes in lines.counts.items() if number], default=1)
    python = []
    for number, text in enumerate(lines.python, lines.first):
        total, inside = sum(lines.counts.get(number, {}).values()), lines.in_loop.get(number, 0)
        about = f"{total} instructions, {inside} of them in loops" if total else ""
        bar = f"<i style='--share:{total / most:.3f};--loop:{inside / max(total, 1):.3f}' title='{about}'></i>"
        python.append(f"<div data-l={number}{' tabindex=0' if total else ''}><u>{number}</u><s>{total or ''}</s>{bar}"
                      f"<code>{escape(text) or ' '}</code></div>")  # fmt: skip
    names = list(lines.forms)
    last = len(names) - 1
    tabs = "".join(f"<button data-tab={i} aria-pressed={'true' if i == last else 'false'}>{escape(name)}</button>"
                   for i, name in enumerate(names))  # fmt: skip
    panes = "".join(
        f"<div class='pane code' data-pane={i}{'' if i == last else ' hidden'}>{_form(lines.forms[name])}</div>"
        for i, name in enumerate(names)
    )
    return (
        "<section><h2>Python beside what it became</h2><p class=note>The number beside a line is how many machine"
        " instructions it became; the bar is dark for those in loops. Click on a line, on either side.</p>"
        f"<div class=two><div class=side><div class=tabs><span>{escape(lines.file.rsplit('/', 1)[-1])}</span></div>"
        f"<div class='pane code python'>{''.join(python)}</div></div>"
        f"<div class=side><div class=tabs>{tabs}</div>{panes}</div></div></section>"
    )


def _form(lines: list[tuple[str, int]]) -> str:
    return "".join(f"<div{f' data-l={number}' if number else ''}><code>{escape(text.expandtabs(4)) or ' '}</code></div>"
                   for text, number in lines)  # fmt: skip


STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #1e2327; --soft: #5d666e; --line: #d9d6cf; --mark: #ffe9a8;
  --bar: #2f6f8f; --pale: #b9d3df; --card: #ffffff; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e6e4df; --soft: #9aa3ab; --line: #343a40;
  --mark: #5b4a12; --bar: #6fb3d2; --pale: #2e4c5a; --card: #1d2125; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 100rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0; } h1 small { color: var(--soft); font-weight: 400; font-size: 1rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; } p { margin: .3rem 0; max-width: 60rem; }
.note, summary { color: var(--soft); font-size: .9rem; }
ul { list-style: none; padding: 0; margin: 1rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; }
.cards li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
.cards span, .cards small { display: block; color: var(--soft); font-size: .8rem; } .cards b { font-size: 1.35rem; }
.cards .bad b { color: var(--bad); }
.bars li { display: grid; grid-template-columns: 5rem minmax(3rem, 28rem) 7rem 1fr; gap: .7rem; align-items: center; }
.bars i { height: .8rem; border-radius: .2rem; background: linear-gradient(90deg, var(--bar) calc(var(--share) * 100%),
  var(--line) 0); }
.bars b { font-weight: 500; } .bars small { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th { text-align: left; font-weight: 500; color: var(--soft); padding: .15rem 1rem .15rem 0; white-space: nowrap;
  vertical-align: top; } td { padding: .15rem 0; }
.two { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1rem; }
@media (max-width: 60rem) { .two { grid-template-columns: minmax(0, 1fr); }
  .bars li { grid-template-columns: 4.5rem minmax(2rem, 1fr) 6.5rem; } .bars small { display: none; } }
.tabs { display: flex; gap: .3rem; min-height: 2.2rem; align-items: center; color: var(--soft); font-size: .9rem; }
button { font: inherit; color: inherit; background: none; border: 1px solid var(--line); border-radius: .4rem;
  padding: .2rem .8rem; cursor: pointer; } button[aria-pressed=true] { background: var(--bar); color: var(--paper); }
.pane { height: 75vh; overflow: auto; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.code { font: 12.5px/1.5 ui-monospace, monospace; } .code code { font: inherit; white-space: pre; }
.code > div { display: flex; width: max-content; min-width: 100%; padding: 0 .5rem; }
.code [data-l] { cursor: pointer; }
.code > div.on { background: var(--mark); }
.python u, .python s { flex: none; width: 2.6rem; text-align: right; padding-right: .6rem; color: var(--soft);
  text-decoration: none; user-select: none; }
.python i { flex: none; width: 3rem; margin: .35rem .7rem .35rem 0; border-radius: 2px;
  background: linear-gradient(90deg,
    var(--bar) calc(var(--share) * var(--loop) * 100%),
    var(--pale) 0 calc(var(--share) * 100%), transparent 0); }
"""

SCRIPT = """
const mark = (line, from) => {
  document.querySelectorAll('.on').forEach(x => x.classList.remove('on'));
  document.querySelectorAll('[data-l="' + line + '"]').forEach(x => x.classList.add('on'));
  document.querySelectorAll('.pane').forEach(pane => {
    const first = pane.querySelector('.on');
    if (!first || pane === from || pane.hidden) return;
    pane.scrollTop = first.offsetTop - pane.offsetTop - pane.clientHeight / 3;
  });
};
document.querySelectorAll('.pane').forEach(pane => {
  const chosen = event => { const row = event.target.closest('[data-l]'); if (row) mark(row.dataset.l, pane); };
  pane.addEventListener('click', chosen);
  pane.addEventListener('keydown', event => { if (event.key === 'Enter') chosen(event); });
});
document.querySelectorAll('button[data-tab]').forEach(button => button.addEventListener('click', () => {
  document.querySelectorAll('button[data-tab]').forEach(x => x.setAttribute('aria-pressed', x === button));
  document.querySelectorAll('[data-pane]').forEach(x => { x.hidden = x.dataset.pane !== button.dataset.tab; });
  const on = document.querySelector('.on');
  if (on) mark(on.dataset.l, document.querySelector('.python'));
}));
"""
