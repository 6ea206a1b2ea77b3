"""Measures the pipelines; writes its tables into docs/pipelines.md.

    python -m benchmarks pipelines --parity   # families and schedulers beside PyTorch diffusers, random weights
    python -m benchmarks pipelines --parity --only schedulers

    python -m benchmarks pipelines --quick    # two schedulers, printed; the page is left as it is

Needs the parity extra (torch, diffusers). The tables stand between markers and are replaced.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import require

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "pipelines.md"


def replace_between(text: str, name: str, content: str) -> str:
    """Returns `text` with `content` between the markers `<!-- begin: name -->` and `<!-- end: name -->`.

    Raises:
      ValueError: the markers are missing.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{PAGE} lacks the markers {begin} and {end}")
    return f"{before}{begin}\n{content.strip()}\n{end}{after}"


def families() -> str:
    """Returns the table of families in Markdown."""
    from benchmarks.reduced.families import FAMILIES, measure, write_family
    from bridgejax.diffusion import load_pipeline

    stages = ("text encoders", "UNet", "VAE encode", "VAE decode")
    lines = [
        f"| family | {' | '.join(stages)} | whole pipeline | worst case of the whole pipeline |",
        f"|{'---|' * (len(stages) + 3)}",
    ]
    with tempfile.TemporaryDirectory() as directory:
        for name, family in FAMILIES.items():
            folder = write_family(name, Path(directory))
            rows = list(measure(name, folder, load_pipeline(folder)))
            by_name = {row.what: row for row in rows}
            if "pooled text" in by_name:
                by_name["text encoders"] = max(by_name["text encoders"], by_name["pooled text"], key=lambda row: row.ours)
            whole = max((row for row in rows if row.what not in (*stages, "pooled text")), key=lambda row: row.ours)
            cells = [f"{row.ours:.1e} ({row.single:.1e})" for row in (*(by_name[stage] for stage in stages), whole)]
            lines.append(f"| {family.title} | {' | '.join(cells)} | {whole.what} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def schedulers(names: Sequence[str] | None = None) -> str:
    """Returns the table of schedulers in Markdown; `names` are those it is made for, None means all."""
    from benchmarks.reduced.families import SCHEDULER_CLASSES, Original, measure_scheduler
    from benchmarks.reduced.generator import write_generator
    from bridgejax.diffusion import load_pipeline

    lines = ["| scheduler | from noise | from an image |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as directory:
        folder = write_generator(Path(directory))
        pipe = load_pipeline(folder)
        originals = [Original(folder, double=double) for double in (False, True)]
        for name in names or SCHEDULER_CLASSES:
            rows = [measure_scheduler(name, start, pipe, *originals) for start in (False, True)]
            lines.append(f"| `{name}` | {' | '.join(f'{row.ours:.1e} ({row.single:.1e})' for row in rows)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


QUICK = ("ddim", "euler_ancestral")  # one without and one with noise of its own at each step
TABLES = {"families": families, "schedulers": schedulers}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what the flags name and writes the page.

    Raises:
      UserError: a package that it needs is not installed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parity", action="store_true", help="compare with PyTorch diffusers")
    parser.add_argument("--quick", action="store_true", help="two schedulers; the page is left as it is")
    parser.add_argument("--only", choices=sorted(TABLES), help="one of the tables")
    options = parser.parse_args(arguments)
    require("torch", "diffusers", "transformers")
    if options.quick:
        print(schedulers(QUICK))
        return
    if not options.parity:
        parser.error("say what to measure: --parity")
    for name in [options.only] if options.only else TABLES:
        table = TABLES[name]()
        PAGE.write_text(replace_between(PAGE.read_text(encoding="utf-8"), name, table), encoding="utf-8")
        print(f"wrote the table {name} of {PAGE.relative_to(ROOT)}", flush=True)
