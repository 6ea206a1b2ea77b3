"""Which runs a study has, which of them are trained, and what decides their results."""

from __future__ import annotations

import dataclasses

import pytest

from bridgejax.config import Settings
from bridgejax.studies.study_plan import TEST, VALIDATION, StudyRun, plan_study, study_runs


def changed(settings: Settings, **values: object) -> Settings:
    """Returns settings with other values, group__key=value."""
    for name, value in values.items():
        group, _, key = name.rpartition("__")
        own = {group: dataclasses.replace(getattr(settings, group), **{key: value})} if group else {key: value}
        settings = dataclasses.replace(settings, **own)
    return settings


@pytest.fixture
def settings() -> Settings:
    """Two arms, of which one sees synthetic images, on six photographs."""
    return changed(
        Settings(),
        task__class_names=("bird", "fish"),
        task__shots=3,
        task__validation_per_class=1,
        arms=("vanilla", "mixed"),
        study__seeds=2,
        study__per_class=(2, 4),
    )


@pytest.fixture
def plan(settings):
    return plan_study(settings, load_generators=False)


def test_runs_are_shots_times_volumes_times_arms_times_seeds(settings):
    runs = study_runs(changed(settings, study__shots=(1, None)))
    assert len(runs) == len(set(runs)) == 2 * 2 * 2 * 2
    assert runs[:3] == (StudyRun("vanilla", 0, 1, 2), StudyRun("vanilla", 1, 1, 2), StudyRun("mixed", 0, 1, 2))
    assert runs[-1] == StudyRun("mixed", 1, None, 4)
    assert len({run.folder for run in runs}) == 16
    assert runs[-1].folder == "mixed/shots-all_per_class-4_seed-1"


def test_an_arm_without_synthetic_images_is_trained_once_for_all_volumes(plan):
    trained = [(run.arm, run.per_class, run.seed) for run in plan.trainings()]
    assert trained == [("vanilla", 0, 0), ("vanilla", 0, 1)] + [("mixed", v, s) for v in (2, 4) for s in (0, 1)]
    assert plan.per_class == 4


def test_a_result_depends_on_its_seed_its_images_and_its_training_alone(settings, plan):
    def identity(seed=0, **values):
        own = changed(settings, **values)
        return plan_study(own, load_generators=False).identity(StudyRun("vanilla", seed, own.task.shots, 0))

    same = identity()
    assert same == plan.identity(plan.runs[0])
    assert identity(study__seeds=5, study__parallel_seeds="auto", training__checkpoint_seconds=1.0, arms=("vanilla",)) == same
    others = [
        identity(seed=1),
        identity(seed=0, task__shots=2),
        identity(training__learning_rate=0.5),
        identity(training__dtype="bfloat16"),
        identity(classifier__image_size=64),
    ]
    assert len({same, *others}) == 6


def test_a_study_on_validation_images_is_another_study(plan):
    tuning = dataclasses.replace(plan, eval_split=VALIDATION)
    assert plan.eval_split == TEST
    assert tuning.identity(plan.runs[0]) != plan.identity(plan.runs[0])
