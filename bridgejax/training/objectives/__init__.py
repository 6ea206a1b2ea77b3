"""What a stage minimises, one objective a file; a stage names its objective as its `loss`.

A new one is a frozen dataclass that derives from `Objective`, an entry in `OBJECTIVES`, and its name among the choices of
`bridgejax.recipes.Stage.loss`.
"""

from __future__ import annotations

import dataclasses

from bridgejax.errors import UserError, choices
from bridgejax.training.objectives.base import Objective, masked_mean
from bridgejax.training.objectives.cross_entropy import CrossEntropy, cross_entropy, smooth
from bridgejax.training.objectives.moco import MoCo
from bridgejax.training.objectives.soft_target import SoftTarget, soft_target

OBJECTIVES: dict[str, type[Objective]] = {"cross_entropy": CrossEntropy, "soft_target": SoftTarget, "moco": MoCo}

__all__ = [
    "OBJECTIVES",
    "CrossEntropy",
    "MoCo",
    "Objective",
    "SoftTarget",
    "cross_entropy",
    "make_objective",
    "masked_mean",
    "smooth",
    "soft_target",
]


def make_objective(name: str, **options: float) -> Objective:
    """Returns the objective `name` with those of the options that it has.

    Raises:
      UserError: the name is unknown, or an option is out of range.
    """
    if name not in OBJECTIVES:
        raise UserError(f"loss {name!r} is unknown; {choices(name, OBJECTIVES)}")
    kind = OBJECTIVES[name]
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in options.items() if key in fields})
