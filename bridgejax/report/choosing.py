"""Which recipe for how many shots, which generator for which domain, at what price: rows with their sources, and the page.

    python -m bridgejax.report.choosing > docs/choosing.md

A row says what was measured and where, not more. Of Li et al. the figures are those that reviews of the paper quote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

HE, LI = "He et al. 2023", "Li et al. 2024"
_PAPERS = {HE: "https://arxiv.org/abs/2210.07574", LI: "https://arxiv.org/abs/2403.19866"}
RESULTS = "docs/results/"
SHOTS_HEADS = ("real images per class", "you have", "try", "what it gave, in points of accuracy", "source")
DOMAIN_HEADS = ("domain", "try", "what it gave, in points of accuracy", "source")
PRICE_HEADS = ("with", "you get", "in", "source")


@dataclass(frozen=True)
class ShotRow:
    """Advice for a number of shots."""

    # least, most: real training images per class; None is no bound
    least: int
    most: int | None
    given: str  # what else is at hand
    recipe: str  # what to try, or not
    # In points of accuracy against the same training without synthetic images, with a 95 % interval where there is one.
    gave: str
    source: str  # where that stands

    @property
    def shots(self) -> str:
        """The number of shots: "0", "2 to 4", "17 or more"."""
        if self.most is None:
            return f"{self.least} or more"
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"

    @property
    def cells(self) -> tuple[str, ...]:
        """As `SHOTS_HEADS` names them."""
        return (self.shots, self.given, self.recipe, self.gave, self.source)


_ROWS = json.loads(Path(__file__).with_name("choosing.json").read_text(encoding="utf-8"))
SHOTS = tuple(ShotRow(*row) for row in _ROWS["shots"])
DOMAINS, PRICES = (tuple(tuple(row) for row in _ROWS[part]) for part in ("domains", "prices"))


def advice(shots: Iterable[int | None]) -> list[ShotRow]:
    """Returns the rows for any of these numbers of real training images per class; None is all of a full data set."""
    counts = [10**9 if count is None else count for count in shots]
    return [row for row in SHOTS if any(row.least <= count and (row.most is None or count <= row.most) for count in counts)]


_HEAD = f"""# Choosing: a recipe, a generator, a price

Made by `python -m bridgejax.report.choosing > docs/choosing.md`; the report of a study shows the rows of its shots.
`bridgejax config --recipes` lists every recipe with its stages, and [recipes.md](recipes.md) says what each isolates.

What synthetic images give depends on the generator more than on the recipe. {HE} generate with GLIDE and tune the head
of a CLIP model; their gains are above the same model without synthetic images. {LI} generate with Stable Diffusion 1.5
and fine-tune ImageNet networks; their figures are those that reviews of the paper quote, and their control takes fewer steps
than the method. Ours are paired differences from `vanilla_long`, which takes as many steps, with 95 % intervals.

Two rules follow. With one image per class, synthetic images help most; the more there are, the better a generator has to be.
And run the control: a recipe that helped one generator on one task lost on another. `bridgejax.improve` runs it beside the
others, and validation images choose.

"""


def page() -> str:
    """Returns docs/choosing.md."""
    sections = (
        ("How many real images", "", SHOTS_HEADS, [row.cells for row in SHOTS]),
        ("Which domain", "Without real images and with CLIP's RN50, unless the row says otherwise.\n\n", DOMAIN_HEADS, DOMAINS),
        ("What it costs", "", PRICE_HEADS, PRICES),
    )
    return _HEAD + "\n".join(f"## {title}\n\n{note}{_table(heads, rows)}" for title, note, heads, rows in sections)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([*row[:-1], _link(row[-1])] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _link(source: str) -> str:
    """Returns a source as Markdown with its address."""
    if source.startswith(RESULTS):
        name = source.removeprefix("docs/")
        return f"[{source.removeprefix(RESULTS)}]({name})"
    return re.sub("|".join(_PAPERS), lambda match: f"[{match[0]}]({_PAPERS[match[0]]})", source)


if __name__ == "__main__":
    print(page(), end="")
