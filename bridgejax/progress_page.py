"""progress.html: how far each process is, how fast, and where the time went. It reloads itself, and loads nothing else."""

from __future__ import annotations

import collections
import html
import time
from collections.abc import Sequence
from typing import TypedDict

PAGE_FILE = "progress.html"
_RELOAD_SECONDS = 5
_SILENT_SECONDS = 120.0
_CSS = """
:root{--bg:#fafaf8;--card:#fff;--ink:#1b2126;--muted:#59646d;--line:#e2e6e8;--work:#0b6b7f;--other:#b9c4ca;
color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--bg:#13171a;--card:#1a1f23;--ink:#e6eaed;--muted:#9eaab3;--line:#2d353b;
--work:#5fc2d6;--other:#414d55}}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1200px;margin:0 auto;padding:32px 20px}h1{font-size:1.8rem;margin:0}h2{font-size:1.1rem;margin:0 0 .6em}
p{margin:.3em 0 1.2em}.muted,small,thead th{color:var(--muted);font-weight:400}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px 24px;margin:0 0 18px;
overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{padding:7px 14px 7px 0;border-top:1px solid var(--line);text-align:left}
thead th{border:0;vertical-align:bottom}th.n,td.n{text-align:right}td.n{white-space:nowrap}
progress{width:7rem;accent-color:var(--work)}
.bar{display:flex;height:22px;border-radius:5px;overflow:hidden;background:var(--line);gap:1px;margin:0 0 12px}
.bar i{background:var(--other)}.bar i.work{background:var(--work)}
"""


class Now(TypedDict):
    """What a process is at work on, or was when it failed."""

    what: str
    unit: str
    done: int
    total: int
    rate: float  # units a second
    failed: bool
    retried: int  # units that were given out again
    shards: list[int] | None  # how many there are, how many are done


class ProcessState(TypedDict):
    """How far a process is."""

    process: str  # host:process id
    updated: float  # when, seconds since the epoch
    seconds: dict[str, float]  # where its time went
    productive: float  # seconds
    made: dict[str, int]  # account → how many units
    now: Now | None
    stopped: str | None  # by what, if it was


def document(states: Sequence[ProcessState], ended: bool) -> str:
    """Returns the page.

    Args:
      states: of each process, the one that writes the page first.
      ended: whether the command has ended; the page then reloads no more.
    """
    stopped = next((state["stopped"] for state in states if state["stopped"]), None)
    told = "stopped" if stopped else "finished" if ended else "at work"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(max(state["updated"] for state in states)))
    reload = "" if ended else f'<meta http-equiv="refresh" content="{_RELOAD_SECONDS}">'
    reason = f"<p>{html.escape(stopped)}</p>" if stopped else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{reload}'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{told} – bridgejax</title><style>{_CSS}</style></head><body><main>"
        f'<h1>Progress</h1><p class="muted">{told}, {when}</p>{reason}{_work(states)}{_time(states)}</main></body></html>\n'
    )


def _work(states: Sequence[ProcessState]) -> str:
    heads = ("process", "work", "", "done", "a second", "time left", "shards done / running / failed", "goodput", "heard")
    rows = "".join(_row(state, max(each["updated"] for each in states)) for state in states)
    running = [state["now"] for state in states if state["now"] is not None]
    total = ""
    if len(running) > 1 and len({(now["what"], now["unit"]) for now in running}) == 1:
        done, whole, rate = (sum(now[key] for now in running) for key in ("done", "total", "rate"))
        left = _duration((whole - done) / rate) if rate else ""
        total = f"<p>All: {done} of {whole} {html.escape(running[0]['unit'])}, {rate:.2f} a second, {left} left</p>"
    head = "".join(f"<th{'' if number < 3 else ' class=n'}>{text}</th>" for number, text in enumerate(heads))
    return f"<section><h2>Processes</h2>{total}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section>"


def _row(state: ProcessState, newest: float) -> str:
    now, held = state["now"], sum(state["seconds"].values())
    silent = newest - state["updated"]
    heard = "now" if silent < _SILENT_SECONDS else f"{_duration(silent)} ago"
    made = ", ".join(f"{kind} {count}" for kind, count in state["made"].items())
    cells = ["<td colspan=2><small>made: " + html.escape(made) + "</small></td>", *['<td class="n"></td>'] * 4]
    if now is not None:
        left = (now["total"] - now["done"]) / now["rate"] if now["rate"] > 0 and not now["failed"] else None
        shards, retried = "", f", {now['retried']} tried again" if now["retried"] else ""
        if now["shards"] is not None:
            number, done = now["shards"]
            open_ones = int(done < number)
            shards = f"{done} / {0 if now['failed'] else open_ones} / {open_ones if now['failed'] else 0}, of {number}"
        cells = [
            f"<td>{html.escape(now['what'])}{' (failed)' if now['failed'] else ''}{retried}</td>",
            f'<td><progress max="{max(1, now["total"])}" value="{now["done"]}"></progress></td>',
            f'<td class="n">{now["done"]} of {now["total"]} {html.escape(now["unit"])}</td>',
            f'<td class="n">{now["rate"]:.2f}</td>',
            f'<td class="n">{"" if left is None else _duration(left)}</td>',
            f'<td class="n">{shards}</td>',
        ]
    name, goodput = html.escape(state["process"]), share(state["productive"], held)
    return f'<tr><td>{name}</td>{"".join(cells)}<td class="n">{goodput}</td><td class="n">{heard}</td></tr>'


def _time(states: Sequence[ProcessState]) -> str:
    seconds: collections.Counter[str] = collections.Counter()
    for state in states:
        seconds.update(state["seconds"])
    held, work = sum(seconds.values()), {kind for state in states for kind in state["made"]}
    rows = sorted(seconds.items(), key=lambda row: (row[0] not in work, -row[1]))
    bar = "".join(
        f'<i class="{"work" if kind in work else ""}" style="flex:{value:.3f}" title="{html.escape(kind)}"></i>'
        for kind, value in rows
        if value > 0
    )
    table = "".join(
        f"<tr><td>{html.escape(kind)}{'' if kind in work else ' <small>(not productive)</small>'}</td>"
        f'<td class="n">{_duration(value)}</td><td class="n">{share(value, held)}</td></tr>'
        for kind, value in rows
    )
    productive = sum(state["productive"] for state in states)
    return (
        f"<section><h2>Goodput {share(productive, held)}</h2><p class=muted>{_duration(productive)} productive of "
        f'{_duration(held)} held, by all processes together</p><div class="bar">{bar}</div><table>{table}</table></section>'
    )


def share(part: float, whole: float) -> str:
    """Returns a part in per cent."""
    return f"{100 * part / max(1e-9, whole):.0f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
