"""Which recipe for how many shots, which generator for which domain, at what price: rows with their sources, and the page.

    python -m bridgejax.report.choosing > docs/choosing.md

A row says what was measured and where, not more. Of Li et al. the figures are those that reviews of the paper quote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HE, LI = "He et al. 2023", "Li et al. 2024"
_PAPERS = {HE: "https://arxiv.org/abs/2210.07574", LI: "https://arxiv.org/abs/2403.19866"}
RESULTS = "docs/results/"
SHOTS_HEADS = ("real images per class", "you have", "try", "what it gave, in points of accuracy", "source")
DOMAIN_HEADS = ("domain", "try", "what it gave, in points of accuracy", "source")
PRICE_HEADS = ("with", "you get", "in", "source")


@dataclass(frozen=True)
class ShotRow:
    """Advice for a number of shots.

    Attributes:
      least, most: real training images per class; None is no bound.
      given: what else is at hand.
      recipe: what to try, or not.
      gave: in points of accuracy against the same training without synthetic images, with a 95 % interval where there is one.
      source: where that stands.
    """

    least: int
    most: int | None
    given: str
    recipe: str
    gave: str
    source: str

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


_HEADS, _TWO_TASKS = "the embedded models, the head alone", f"{RESULTS}two_tasks.md"
_TUNED, _GAIN = "`tuned_synthetic`", "above the zero-shot head"
SHOTS = (
    ShotRow(0, 0, "a CLIP model", _TUNED, f"+4.31 (RN50) and +2.90 (ViT-B/16) {_GAIN}, mean of 17 tasks", f"{HE}, table 1"),
    ShotRow(0, 0, "the embedded CLIP", _TUNED, f"+2.5 (−0.3 to +5.7) {_GAIN}", f"{RESULTS}he2023_embedded.md"),
    ShotRow(
        1,
        4,
        "the embedded CLIP",
        "`tuned_mix`",
        "+1.5 (0.0 to +3.3) above `tuned_real`, +0.7 (−0.7 to +2.3) at 4 shots",
        f"{RESULTS}he2023_embedded.md",
    ),
    ShotRow(1, 1, _HEADS, "`mixed_50`", "+15.5 (+9.4 to +21.5), +9.0 (+1.1 to +17.1) on another task", _TWO_TASKS),
    ShotRow(1, 1, _HEADS, "`bridged`", "+13.7 (+8.1 to +19.1), +3.8 (−4.6 to +13.0) on another task", _TWO_TASKS),
    ShotRow(
        1, 16, "a CLIP model", "`tuned_mix`", "+9.5 (1 shot) to +2.7 (16) on EuroSAT, +1.7 to +0.6 on SUN397", f"{HE}, figure 1"
    ),
    ShotRow(
        1, 16, "a CLIP model", "`tuned_mix`, not one after the other", "0.9 to 1.4 above synthetic first", f"{HE}, table 7"
    ),
    ShotRow(2, 2, _HEADS, "`mixed_50`", "+7.2 (+3.0 to +11.6), +0.3 (−7.0 to +7.1) on another task", _TWO_TASKS),
    ShotRow(4, 8, _HEADS, "`mixed_50` or none", "+1.1 (−3.0 to +5.2), −2.4 (−8.1 to +2.5) at 4 shots", _TWO_TASKS),
    ShotRow(4, 8, "Stable Diffusion", "`bridged_plus_plus`", "the largest gains of 1 to 16 shots", f"{LI}, few-shot figure"),
    ShotRow(
        5,
        16,
        "the embedded models, all layers",
        "none",
        "−14.7 (−22.9 to −8.1) by `bridged_plus_plus`",
        f"{RESULTS}paper_embedded.md",
    ),
    ShotRow(
        17,
        None,
        "Stable Diffusion",
        "`bridged_plus_plus`",
        "+5.5 (Aircraft), +7.8 (Cars), a gain on 10 of 10 tasks",
        f"{LI}, table 1",
    ),
    ShotRow(17, None, "Stable Diffusion", "not `mixed`", "6 to 10 below", f"{LI}, table 1"),
    ShotRow(17, None, "Stable Diffusion", "not `bridged`", "below on 4 of 10 tasks", f"{LI}, table 1"),
)

DOMAINS = (
    ("natural objects", "the class name in one template", "+0.45 (ImageNet) to +10.34 (CIFAR-100)", f"{HE}, table 1"),
    (
        "fine-grained",
        "the name and its kind: “…, a type of bird”",
        "+10.25 (CUB), +4.60 (Aircraft), +0.01 (Food)",
        f"{HE}, table 1",
    ),
    ("fine-grained, all images", "1,000 images per class", "+5.5 (Aircraft), +7.8 (Cars)", f"{LI}, table 1"),
    ("scenes", "a learned style: `bridgejax invert`", "+2.6 above one template (SUN397)", f"{LI}, table 3"),
    ("texture", "expect little", "+0.96 (DTD)", f"{HE}, table 1"),
    ("texture, all images", "a learned style; expect little", "+0.4 above one template (DTD)", f"{LI}, table 3"),
    (
        "satellite",
        "a template that says so, sentences, the CLIP filter",
        "+17.86 (EuroSAT), 10.72 of it without the two",
        f"{HE}, tables 1, 2",
    ),
    (
        "what the generator never saw",
        "no synthetic images",
        "−54.3 (−63.3 to −45.1) by them alone",
        f"{RESULTS}minimum_design.md",
    ),
)

PRICES = (
    ("the embedded generator, 2 CPU cores", "32 images of 64 pixels, 12 guided steps", "1.09 s", f"{RESULTS}generation.md"),
    (
        "Stable Diffusion 1.5's shape, 2 CPU cores",
        "one guided step of an image of 512 pixels",
        "4.7 s",
        f"{RESULTS}generation.md",
    ),
    ("Stable Diffusion 1.5's shape, one H100", "4.61 images of 512 pixels, 50 guided steps", "1 s", f"{RESULTS}accelerator.md"),
    (
        "an accelerator at 1 s an image",
        "table 1 of Li et al.: 1,201,000 images, 162 runs",
        "334 + 72 hours",
        f"{RESULTS}paper_cost.md",
    ),
)


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
