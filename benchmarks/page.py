"""docs/performance.md: what the comparisons measured, ours ÷ peer first, then each one's times and machine.

    python -m benchmarks page [--output DIR]

Measures nothing. With --output it reads DIR/NAME.json and writes DIR/performance.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.result_tables import table

HEADS = ("call", "what", "batch", "peer", "ours ÷ peer", "other programs")
PAGE = results.DIRECTORY.parent / "performance.md"


def performance(directory: Path) -> str:
    """Returns the page from the JSON in `directory`; benchmarks that were not run are named at its end."""
    found = {name: results.read(name, directory) for name in results.TITLES}
    ratios = [
        [title.lower(), *row] for name, title in results.TITLES.items() for run in found[name] for row in results.ratios(run)
    ]
    text = (
        "# Performance\n\nMade by `python -m benchmarks page` from what the commands below measured. Both sides of a "
        "comparison compute the same function of the same inputs, which is checked; each has a process of its own, and they "
        "take turns, after a turn that does not count. bridgejax's process found its compiled programs on disk, as every "
        "process but the first does; what the first one took, which compiled them, stands beside it. Figures are medians over "
        "turns, with the least and the greatest; of a row marked disturbed they say nothing, since other programs worked on "
        "the machine meanwhile.\n\n"
        "## bridgejax ÷ peer\n\nBelow 1, bridgejax takes less time.\n\n"
    )
    text += "\n".join(table([*HEADS], ratios, left=2)) if ratios else "Nothing yet."
    text += "\n"
    for name, title in results.TITLES.items():
        for number, run in enumerate(found[name]):
            heading = f"\n## {title}\n" if not number else ""
            text += f"{heading}\n{results.section(run)}"
    absent = [f"`{name}`" for name in results.TITLES if not found[name]]
    if absent:
        text += f"\nNot run: {', '.join(absent)} (`python -m benchmarks NAME`).\n"
    return text


def main(arguments: Sequence[str]) -> int:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="DIR", help="read the JSON there, and write performance.md there")
    options = parser.parse_args(arguments)
    page = PAGE if options.output is None else options.output / PAGE.name
    page.write_text(performance(options.output or results.DIRECTORY), encoding="utf-8")
    print(f"wrote {page}")
    return 0
