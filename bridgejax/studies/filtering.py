"""`bridgejax filter`, and what a study's filters kept, for its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bridgejax.config import Settings, check_scorer
from bridgejax.data import synthetic_examples
from bridgejax.errors import UserError
from bridgejax.recipes import Stage, filter_rules
from bridgejax.runtime import is_first
from bridgejax.studies.example_images import contact_sheet
from bridgejax.studies.execution import check_workdir, generate_sets, open_workdir
from bridgejax.studies.filter_results import (
    FILTER_FILE,
    PICTURES_FILE,
    ClassSelection,
    SelectionPictures,
    SetSelection,
    write_selections,
)
from bridgejax.studies.run_images import filtered_stages
from bridgejax.studies.set_filters import PROBABILITY
from bridgejax.studies.study_plan import StudyPlan, StudyRun, plan_study


@dataclasses.dataclass(frozen=True)
class FilterOutcome:
    """What `filter_sets` found: figures and pictures of each set, and which class has no image left, if one has none."""

    selections: tuple[SetSelection, ...]
    pictures: tuple[SelectionPictures, ...]
    fault: str | None


def filter_sets(settings: Settings, workdir: Path) -> FilterOutcome:
    """Judges the synthetic sets of the config's arms by `filter.rule`, after making what is missing of them.

    What the rules go by is kept beside the images, of which none is removed.

    Raises:
      UserError: no arm has synthetic images, there is nothing to judge them by, or the judge has other classes.
    """
    rules = settings.filter.rule
    check_scorer("filter.rule", rules, settings.filter)
    check_workdir(workdir, settings)
    plan = plan_study(settings, trains=False)
    if not plan.sets:
        raise UserError("none of the config's arms uses synthetic images; name one that does in arms, for instance 'bridged'.")
    for name in plan.sets:
        plan.filter(name).check(rules)
    outcomes = []
    with open_workdir(workdir, settings):
        generate_sets(plan, workdir, plan.runs)
        if is_first():
            first = dataclasses.replace(plan.runs[0], per_class=plan.per_class)
            outcomes = [_judged(plan, workdir, first, name, rules) for name in plan.sets]
    return FilterOutcome(
        tuple(selection for selection, _, _ in outcomes),
        tuple(pictures for _, pictures, _ in outcomes),
        next((fault for _, _, fault in outcomes if fault is not None), None),
    )


def filters_are_due(plan: StudyPlan, workdir: Path) -> bool:
    """Whether the workdir lacks what the filters of the arms' stages keep, or holds it of stages that are no more."""
    return any(filtered_stages(plan, run) for run in plan.runs) != (workdir / FILTER_FILE).is_file()


def write_filters(plan: StudyPlan, workdir: Path) -> None:
    """Writes what the filters of the arms' stages keep, of the first run of each filter, if there is any."""
    found: dict[str, list[tuple[StudyRun, Stage]]] = {}
    for run in plan.runs:
        for stage in filtered_stages(plan, run):
            found.setdefault(stage.synthetic_source, []).append((run, stage))
    if not found:
        for name in (FILTER_FILE, PICTURES_FILE):  # of arms that the study had before
            (workdir / name).unlink(missing_ok=True)
        return
    judged = []
    for users in found.values():
        run, stage = users[0]
        arms = tuple(dict.fromkeys(user.arm for user, _ in users))
        judged.append(_judged(plan, workdir, run, stage.synthetic_set, stage.synthetic_filter, arms))
    write_selections(workdir, [each[0] for each in judged], [each[1] for each in judged])


def _judged(
    plan: StudyPlan, workdir: Path, run: StudyRun, name: str, rules: Sequence[str], arms: tuple[str, ...] = ()
) -> tuple[SetSelection, SelectionPictures, str | None]:
    """Returns what rules keep of a set as a run sees it, with pictures, and which class has nothing left."""
    folder, task = workdir / plan.sets[name].folder(run.shots, run.seed), plan.task(run.shots, run.seed)
    names, count = plan.sets[name].options.class_names, plan.sets[name].count(run.per_class)
    selection = plan.filter(name).select(folder, rules, task, count)
    classes = []
    for label, class_name in enumerate(names):
        mine = selection.labels == label
        values = selection.values[mine].astype(np.float64)
        highest, lowest = values[np.argsort(values)[[-1, 0]]].tolist()
        kept = int(selection.kept[mine].sum())
        classes.append(ClassSelection(class_name, int(mine.sum()), kept, highest, float(np.median(values)), lowest))
    judge = plan.settings.filter.classifier if selection.meaning == PROBABILITY else plan.settings.classifier.weights
    written = tuple(rule.text for rule in filter_rules("filter", rules))
    figures = SetSelection(name, arms, written, judge or "", selection.meaning, run.shots, tuple(classes))
    examples = synthetic_examples(folder, names, count)
    order = selection.best_first
    kept_first, dropped_first = order[selection.kept[order]], order[::-1][~selection.kept[order[::-1]]]
    sheets = [contact_sheet(examples.select(rows), len(names)) for rows in (kept_first, dropped_first)]
    return figures, SelectionPictures(sheets[0], sheets[1]), selection.fault
