"""Units of work: one shard of a synthetic set, or one run, made from config and workdir alone by any process at any time."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridgejax import workdir as workdirs
from bridgejax.config import Settings
from bridgejax.data.set_index import sidecar_path
from bridgejax.errors import TryAgain, UserError
from bridgejax.files import TEMPORARY_PREFIX, write_json
from bridgejax.studies.execution import check_workdir, generate_set_of, keep_result, load_result, plain_settings
from bridgejax.studies.run_groups import train_seeds
from bridgejax.studies.run_images import RunImages, judge_images
from bridgejax.studies.run_results import CHECKPOINTS, RUNS_FOLDER
from bridgejax.studies.study_plan import StudyPlan, StudyRun, plan_study
from bridgejax.studies.study_sets import StudySet
from bridgejax.synthesis import tfds_files
from bridgejax.synthesis.plan import default_shard_size
from bridgejax.synthesis.store import stored_set

if TYPE_CHECKING:
    from bridgejax.diffusion.pipeline import Pipeline

SHARD, RUN = "shard", "run"


@dataclasses.dataclass(frozen=True, order=True)
class WorkUnit:
    """A shard or a run of a config."""

    kind: str  # `SHARD` or `RUN`
    number: int  # from 0, as `bridgejax work list` counts them

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


# Has units made, whichever way, and returns when all of them are there.
HandOut = Callable[[StudyPlan, Path, Sequence[WorkUnit]], None]


@dataclasses.dataclass(frozen=True)
class SetShards:
    """The shards of one synthetic set as units: `first`, `first` + 1, …"""

    study_set: StudySet  # the set
    # shots, seed: the split of the real images that it serves; any, where it serves all
    shots: int | None
    seed: int
    folder: Path  # where it lies, relative to the workdir
    first: int  # the number of its first shard among the config's shard units
    count: int  # how many shards it has


def set_shards(plan: StudyPlan, workdir: Path) -> list[SetShards]:
    """Returns the synthetic sets that the plan's runs train with, their shards numbered through."""
    found: list[SetShards] = []
    first = 0
    for study_set in plan.sets.values():
        users = [run for run in plan.runs if study_set.name in plan.recipes[run.arm].synthetic_sets]
        splits: dict[Path, tuple[int | None, int]] = {}
        for run in users:
            splits.setdefault(study_set.folder(run.shots, run.seed), (run.shots, run.seed))
        for folder, (shots, seed) in splits.items():
            count = -(-_images(plan, study_set) // _shard_size(plan, study_set, workdir / folder))
            found.append(SetShards(study_set, shots, seed, folder, first, count))
            first += count
    return found


def _images(plan: StudyPlan, study_set: StudySet) -> int:
    return study_set.count(plan.per_class) * len(study_set.options.class_names)


def _shard_size(plan: StudyPlan, study_set: StudySet, directory: Path) -> int:
    """Returns the images in a shard: of the set that is there, else of the config, else as `generate_set` chooses."""
    stored, settings = stored_set(directory), study_set.settings
    if stored is not None:
        return stored["shard_size"]
    return settings.synthetic.shard_size or default_shard_size(_images(plan, study_set), settings.generator.batch_size)


class UnitWorker:
    """Makes units of one config in one workdir, and keeps what it loaded and compiled for the next.

    Nothing here waits for another process or takes a lock that another one would wait for; a unit that is there is not made
    again, and two processes on one unit leave it as one would.

    Args:
      settings: the config.
      workdir: the folder that everyone who works on the config sees.

    Raises:
      UserError: the workdir holds the work of another config, or cannot be written.
    """

    def __init__(self, settings: Settings, workdir: Path) -> None:
        self._settings, self._workdir = settings, workdir
        self._pipelines: dict[Path, Pipeline] = {}
        check_workdir(workdir, settings)
        if workdirs.read_config(workdir) is None:
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(workdir / workdirs.CONFIG_FILE, plain_settings(settings))

    @functools.cached_property
    def shard_plan(self) -> StudyPlan:
        """The plan as far as images are made, which needs no real ones."""
        return plan_study(self._settings, trains=False)

    @functools.cached_property
    def plan(self) -> StudyPlan:
        """The whole plan, its prompts made of sentences where the config says so."""
        plan = plan_study(self._settings)
        plan.sets.update({name: study_set.with_sentences(self._workdir) for name, study_set in plan.sets.items()})
        return plan

    def make(self, unit: WorkUnit) -> bool:
        """Makes a unit; returns whether there was anything to do.

        Raises:
          UserError: the config or what it names is not as it should be, or there is no such unit.
          TryAgain: what the unit builds upon is not there yet, or another process was in its way.
        """
        return self.make_shard(unit.number) if unit.kind == SHARD else self.make_run(unit.number)

    def make_shard(self, number: int) -> bool:
        """Makes shard `number`; see `make`."""
        plan = self.shard_plan
        parts = set_shards(plan, self._workdir)
        part = next((each for each in parts if each.first <= number < each.first + each.count), None)
        if part is None:
            raise _no_such(SHARD, number, sum(each.count for each in parts))
        study_set = part.study_set.with_sentences(self._workdir)
        shards = [number - part.first]
        pipeline = self._pipeline(part)
        return generate_set_of(plan, study_set, pipeline, self._workdir, part.shots, part.seed, shards=shards) > 0

    def _pipeline(self, part: SetShards) -> Pipeline:
        """Returns the generator of a set, loaded with its token if it has learned one."""
        if not part.study_set.learns:
            return part.study_set.generator(None)
        if part.folder not in self._pipelines:
            learner = part.study_set.learner(self._workdir, self.shard_plan.task(part.shots, part.seed), part.shots, part.seed)
            if not learner.finished():
                raise TryAgain(f"the token of {part.folder} is not learned yet; `bridgejax invert` learns it.")
            self._pipelines[part.folder] = part.study_set.generator(learner)
        return self._pipelines[part.folder]

    def make_run(self, number: int) -> bool:
        """Makes run `number`: trains it and keeps its record below `runs/`; see `make`."""
        plan, workdir = self.plan, self._workdir
        runs = plan.trainings()
        if not 0 <= number < len(runs):
            raise _no_such(RUN, number, len(runs))
        run = runs[number]
        for name in plan.recipes[run.arm].synthetic_sets:
            folder = plan.sets[name].folder(run.shots, run.seed)
            if not (workdir / folder / tfds_files.INFO_FILE).is_file():
                raise TryAgain(f"{workdir / folder} lacks shards that run {number} ({run.arm}, seed {run.seed}) trains on.")
        if load_result(plan, workdir, run) is not None:
            return False
        judge_images(plan, workdir, [run])
        folder = workdir / RUNS_FOLDER / run.folder
        with _own_place(folder) as place:
            if load_result(plan, workdir, run) is not None:  # another process made it in the meantime
                return False
            (result,) = train_seeds(plan, [run], [place], [RunImages(plan, workdir).of(run)])
            if load_result(plan, workdir, run) is None:
                keep_result(plan, folder, run, result)
            shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)
        return True

    def states(self) -> list[tuple[WorkUnit, str, bool]]:
        """Returns each unit, what it is, and whether it is there; shards are not compared with their checksums."""
        rows = []
        for part in set_shards(self.shard_plan, self._workdir):
            directory = self._workdir / part.folder
            for shard in range(part.count):
                there = sidecar_path(directory, shard).is_file()
                rows.append((WorkUnit(SHARD, part.first + shard), f"{part.folder} {shard}", there))
        for number, run in enumerate(self.plan.trainings()):
            rows.append((WorkUnit(RUN, number), run.folder, load_result(self.plan, self._workdir, run) is not None))
        return rows


def _no_such(kind: str, number: int, count: int) -> UserError:
    return UserError(f"{kind} {number} is not one of the {count} of this config; `bridgejax work list` counts them from 0.")


@contextlib.contextmanager
def _own_place(folder: Path) -> Iterator[Path]:
    """Yields where a run keeps its checkpoints: its folder, or one apart while another process is at the same run.

    The lock is the kernel's and on the folder itself, so a killed process leaves none behind and the next goes on from its
    checkpoints. On a file system without locks every process works apart, from the start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            apart = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
            apart.mkdir()
            try:
                yield apart
            finally:
                shutil.rmtree(apart, ignore_errors=True)
        else:
            yield folder
    finally:
        os.close(descriptor)


def hand_out_shards(plan: StudyPlan, workdir: Path, hand_out: HandOut, folder: Path, shards: Sequence[int]) -> None:
    """Has shards of the set in a folder of the workdir made."""
    first = next(part.first for part in set_shards(plan, workdir) if part.folder == folder)
    hand_out(plan, workdir, [WorkUnit(SHARD, first + shard) for shard in shards])


def hand_out_runs(plan: StudyPlan, workdir: Path, hand_out: HandOut, runs: Sequence[StudyRun]) -> None:
    """Has trainings of the plan made; what their filters go by is computed here, once."""
    judge_images(plan, workdir, runs)
    numbers = {run: number for number, run in enumerate(plan.trainings())}
    hand_out(plan, workdir, [WorkUnit(RUN, numbers[run]) for run in runs])
    for run in runs:  # of processes that were slower than another on the same run
        shutil.rmtree(workdir / RUNS_FOLDER / run.folder / CHECKPOINTS, ignore_errors=True)
