"""The synthetic images that runs train on: the first of each class of their sets, as far as their stages keep them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bridgejax.data import Examples
from bridgejax.mesh import barrier
from bridgejax.progress import stage_heading
from bridgejax.recipes import Stage, filter_rules
from bridgejax.runtime import is_first
from bridgejax.studies.set_filters import Selection
from bridgejax.studies.study_plan import StudyPlan, StudyRun


class RunImages:
    """`images.of(run)` → the run's synthetic images by `Stage.synthetic_source`; what several runs see is loaded once."""

    def __init__(self, plan: StudyPlan, workdir: Path) -> None:
        self._plan, self._workdir = plan, workdir
        self._sets: dict[tuple[Path, int], Examples] = {}
        self._kept: dict[tuple[object, ...], Examples] = {}
        self._selections: dict[tuple[object, ...], Selection] = {}

    def of(self, run: StudyRun) -> dict[str, Examples]:
        """Returns the images of a run, whose sets are finished.

        Raises:
          UserError: a set is damaged, or a filter leaves nothing of a class.
        """
        stages = self._plan.recipes[run.arm].synthetic_stages
        return {source: self._stage_images(run, stage) for source, stage in stages.items()}

    def _stage_images(self, run: StudyRun, stage: Stage) -> Examples:
        folder, plan = self._folder(run, stage), self._plan
        key = (folder, run.per_class)
        if key not in self._sets:
            from bridgejax.data import synthetic_examples

            of = plan.sets[stage.synthetic_set]
            self._sets[key] = synthetic_examples(folder, of.options.class_names, of.count(run.per_class))
        if not stage.synthetic_filter:
            return self._sets[key]
        chosen = self._key(run, stage)
        if chosen not in self._kept:
            self._kept[chosen] = self._sets[key].select(self.selection(run, stage).checked())
        return self._kept[chosen]

    def selection(self, run: StudyRun, stage: Stage) -> Selection:
        """Returns what a stage's filter keeps of its images.

        Raises:
          UserError: the images cannot be judged.
        """
        key = self._key(run, stage)
        if key not in self._selections:
            task = self._plan.task(run.shots, run.seed)
            judge, count = self._plan.filter(stage.synthetic_set), self._plan.sets[stage.synthetic_set].count(run.per_class)
            self._selections[key] = judge.select(self._folder(run, stage), stage.synthetic_filter, task, count)
        return self._selections[key]

    def _key(self, run: StudyRun, stage: Stage) -> tuple[object, ...]:
        """Returns what tells selections apart: the images, the rules and, for one that compares with them, the shots."""
        rules = filter_rules("filter", stage.synthetic_filter)
        shots = self._plan.task(run.shots, run.seed).digest if any(rule.needs_shots for rule in rules) else None
        return (self._folder(run, stage), run.per_class, stage.synthetic_filter, shots)

    def _folder(self, run: StudyRun, stage: Stage) -> Path:
        return self._workdir / self._plan.sets[stage.synthetic_set].folder(run.shots, run.seed)


def judge_images(plan: StudyPlan, workdir: Path, runs: Sequence[StudyRun]) -> None:
    """Computes, in the first process, what the filters of runs go by, so that the others find it beside the images.

    Raises:
      UserError: the images cannot be judged, or a filter leaves nothing of a class.
    """
    filtered = [(run, stage) for run in runs for stage in filtered_stages(plan, run)]
    if not filtered:
        return
    stage_heading(f"filter: {len({stage.synthetic_source for _, stage in filtered})} selections of synthetic images")
    if is_first():
        images = RunImages(plan, workdir)
        for run, stage in filtered:
            images.selection(run, stage).checked()
    barrier("bridgejax: synthetic images judged")


def filtered_stages(plan: StudyPlan, run: StudyRun) -> list[Stage]:
    """Returns the stages of a run that keep part of their synthetic images, one for each part."""
    return [stage for stage in plan.recipes[run.arm].synthetic_stages.values() if stage.synthetic_filter]
