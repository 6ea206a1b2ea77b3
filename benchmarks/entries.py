"""The table of benchmarks: their names, and which have a short version."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from bridgejax.errors import UserError, choices

FOLDER = Path(__file__).resolve().parent
COMMANDS = ("all", "list", "page")  # what the entry knows beside names


@dataclass(frozen=True)
class Entry:
    """A benchmark: the module `benchmarks.NAME`, whose `main(arguments)` returns an exit code or None.

    Attributes:
      name: of the module.
      quick: what its short version does; empty if it has none.
      why_not: why it has no short version, or why `all --quick` leaves it out.
      keeps_json: keeps its figures as JSON too, from which docs/performance.md is made; takes --output.
    """

    name: str
    quick: str = ""
    why_not: str = ""
    keeps_json: bool = False

    @property
    def file(self) -> Path:
        """The module's file, or its package's."""
        alone = FOLDER / f"{self.name}.py"
        return alone if alone.is_file() else FOLDER / self.name / "__init__.py"

    @property
    def summary(self) -> str:
        """The first line of the module's docstring, read without importing it."""
        return (ast.get_docstring(ast.parse(self.file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


_ENTRIES = (
    Entry("train_step", "two small networks, three repeats", keeps_json=True),
    Entry("inference", "two small networks, three repeats", keeps_json=True),
    Entry("generation", "the embedded generator, a small batch and few steps", keeps_json=True),
    Entry("language", "a T5 of one block, 20 sentences", keeps_json=True),
    Entry("attention", "three shapes"),
    Entry("convolutions", "few shapes"),
    Entry("cold_start", "the embedded generator alone, two steps"),
    Entry("full_size", "Stable Diffusion's depth at an eighth of its width"),
    Entry("parallel_seeds", "the smallest backbone, two seeds, one round"),
    Entry("pipelines", "two schedulers; the page is left as it is"),
    Entry("quickstart", "the generator beside PyTorch diffusers alone; the page is left as it is"),
    Entry("planning", "a hundredth of the images; the results are left as they are"),
    Entry("pod", "all of it; the page is left as it is"),
    Entry("overhead", "processes alone, two shards once; the results are left as they are"),
    Entry("cached_features", "a tenth of the images, once; the results are left as they are"),
    Entry("restore", "a ResNet-18, onto two devices, once; the results are left as they are"),
    Entry("faults", "24 faults; the page is left as it is"),
    Entry("paper_cost", "all of it; the page is left as it is"),
    Entry("accelerator", why_not="it needs a GPU or TPU"),
    Entry("gpu_programs", why_not="it needs XLA's GPU compiler in a folder of its own"),
    Entry("inversion", why_not="it learns ten words in full, and a few steps of that say nothing"),
    Entry("minimum_design", why_not="it trains fourteen arms on three tasks in full"),
    Entry("paper_embedded", why_not="it trains the arms of every table in full"),
    Entry("he2023", why_not="it trains ten seeds of every arm; --only and --set make it smaller"),
    Entry("two_tasks", why_not="it trains ten seeds of four arms on two tasks; --seeds and --shots make it smaller"),
    Entry("detection", why_not="it trains every arm in full, on a set that tools/build_boxed_set.py makes first"),
    Entry("tuning", why_not="it trains every candidate in full, on a task that tools/build_emoji_task.py makes first"),
)


def entries() -> list[Entry]:
    """Returns the benchmarks whose modules are there, in order."""
    return [entry for entry in _ENTRIES if entry.file.is_file()]


def find(name: str) -> Entry:
    """Returns the benchmark of a name.

    Raises:
      UserError: there is none.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise UserError(
            f"{name!r} is not a benchmark; {choices(name, (*known, *COMMANDS))} `python -m benchmarks list` shows all of them."
        )
    return known[name]
