"""Rules by which a stage keeps part of its synthetic images, as texts: NAME or NAME:NUMBER. Pure Python."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from bridgejax.errors import UserError, choices

# Name → what the number after it is, its least and its greatest value, whether it is whole, and its value where it is left out.
_NUMBERS: dict[str, tuple[str, float, float, bool, float | None]] = {
    "quota": ("images per class", 1, math.inf, True, None),
    "top": ("images per class", 1, math.inf, True, None),
    "percentile": ("percentile of a class's scores", 0, 99.999, False, None),
    # Ours: the paper gives no threshold, and removes no near duplicates. In the features of EfficientNet-Lite0, pairs of
    # generated images above a cosine of 0.95 look like one picture drawn twice; those at 0.9 differ in parts or colours.
    "real": ("difference of cosines", -2, 2, False, 0.0),
    "real_top": ("images per class", 1, math.inf, True, None),
    "distinct": ("cosine", 0.001, 1, False, 0.95),
}
SCORED = ("above_chance", "quota", "top", "percentile")  # these need the scores of `filter.classifier`
BY_SHOTS = ("real", "real_top")  # these compare with the real training images
NAMES = (*SCORED, *BY_SHOTS, "distinct")
FORM = "a list of rules: 'above_chance', 'quota:N', 'top:N', 'percentile:Q', 'real:MARGIN', 'real_top:N' or 'distinct:COSINE'"


@dataclasses.dataclass(frozen=True)
class FilterRule:
    """One rule; `number` is None for one that takes none."""

    name: str
    number: float | None = None

    @property
    def text(self) -> str:
        """The rule as it is written, its number included."""
        return self.name if self.number is None else f"{self.name}:{self.number:g}"

    @property
    def needs_scores(self) -> bool:
        """Whether it goes by a classifier's scores; else by features."""
        return self.name in SCORED

    @property
    def needs_shots(self) -> bool:
        """Whether it compares with the real training images."""
        return self.name in BY_SHOTS


def filter_rules(where: str, texts: str | Iterable[str]) -> tuple[FilterRule, ...]:
    """Returns the rules of texts, in order.

    Raises:
      UserError: a rule is unknown, lacks its number, or has a wrong one.
    """
    return tuple(_rule(where, text) for text in ((texts,) if isinstance(texts, str) else texts))


def _rule(where: str, text: str) -> FilterRule:
    name, colon, given = text.partition(":")
    if name not in NAMES:
        raise UserError(f"{where} holds the rule {text!r}; {choices(name, NAMES)}")
    if name not in _NUMBERS:
        if colon:
            raise UserError(f"{where} holds {text!r}, but {name!r} takes no number; leave it out.")
        return FilterRule(name)
    what, least, most, whole, default = _NUMBERS[name]
    if not colon and default is not None:
        return FilterRule(name, default)
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not least <= number <= most or math.isinf(number) or (whole and number != int(number)):
        bounds = f"of at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{where} holds {text!r}; give {name}:NUMBER, {kind} {bounds} ({what}).")
    return FilterRule(name, number)
