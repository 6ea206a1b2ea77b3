"""One unit of work in this process: what a worker of any engine calls, and `bridgejax work`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import platform
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from bridgejax import __version__
from bridgejax import workdir as workdirs
from bridgejax.config import Settings
from bridgejax.errors import TryAgain, UserError
from bridgejax.files import canonical_json
from bridgejax.studies.study_plan import StudyPlan
from bridgejax.studies.work_units import RUN, SHARD, UnitWorker, WorkUnit

DONE, WRONG, AGAIN = 0, 2, os.EX_TEMPFAIL  # exit codes: a scheduler tries again on 75 alone


@dataclasses.dataclass(frozen=True)
class UnitJob:
    """What a worker needs to know besides the unit; it is sent to other machines.

    Attributes:
      settings: the config.
      workdir: the folder, as every machine sees it.
      version: of bridgejax.
      weights: what the config's weights are where the work is handed out: name → digest.
    """

    settings: Settings
    workdir: Path
    version: str = __version__
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def key(self) -> str:
        """Tells jobs apart."""
        return canonical_json([dataclasses.asdict(self.settings), self.workdir, self.version, dict(self.weights)])


@dataclasses.dataclass(frozen=True)
class UnitOutcome:
    """How a try of a unit ended.

    Attributes:
      code: `DONE`, `WRONG` (another try would end alike) or `AGAIN`.
      sentence: what was wrong.
      place: the machine.
    """

    code: int
    sentence: str = ""
    place: str = ""


def weight_digests(plan: StudyPlan) -> dict[str, str]:
    """Returns the digests of a plan's weights by a name for messages."""
    generators = {f"generator of set {name!r}": each.pipeline.digest for name, each in plan.sets.items() if each.pipeline}
    return {"classifier": plan.classifier_digest, **generators}


@contextlib.contextmanager
def _curable() -> Iterator[None]:
    """Turns what the operating system refused into `TryAgain`: a full disk, a lost mount, a file that another removed."""
    try:
        yield
    except TryAgain:
        raise
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise TryAgain(str(error)) from error
        raise
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise TryAgain(f"{str(error.strerror or error).lower()}{place}; try again.") from error


def run_shard(settings: Settings, workdir: str | Path, number: int) -> bool:
    """Makes one shard of a config's synthetic sets and nothing else; returns whether it was missing or damaged.

    Safe to call twice, at once and on any machine that sees the workdir: a shard that is whole is left as it is. The call that
    sees all shards of a set in place finishes it.

    Args:
      settings: the config.
      workdir: the folder to work in.
      number: which shard, from 0; `bridgejax work list` shows them.

    Raises:
      UserError: the config or what it names is not as it should be, or there is no such shard.
      TryAgain: the same call may succeed later.
    """
    return _make(settings, workdir, WorkUnit(SHARD, number))


def run_one(settings: Settings, workdir: str | Path, number: int) -> bool:
    """Trains one run of a config's study and keeps its record; arguments, result and errors as of `run_shard`.

    The synthetic sets that it trains on must be finished. `bridgejax run` gathers the records into `results.jsonl`.
    """
    return _make(settings, workdir, WorkUnit(RUN, number))


def unit_states(settings: Settings, workdir: str | Path) -> list[str]:
    """Returns a line for each unit of a config: its kind and number, what it is, and whether it is there."""
    states = _worker(UnitJob(settings, Path(workdir))).states()
    return [f"{unit}  {what}  {'done' if there else 'missing'}" for unit, what, there in states]


def _make(settings: Settings, workdir: str | Path, unit: WorkUnit) -> bool:
    with _curable():
        return _worker(UnitJob(settings, Path(workdir))).make(unit)


_WORKERS: dict[str, UnitWorker] = {}


def _worker(job: UnitJob) -> UnitWorker:
    """Returns what makes a job's units; a process keeps that of one job, with all that is loaded and compiled."""
    if job.key not in _WORKERS:
        _WORKERS.clear()
        _WORKERS[job.key] = UnitWorker(job.settings, job.workdir)
    return _WORKERS[job.key]


def make_unit(job: UnitJob, unit: WorkUnit) -> UnitOutcome:
    """Makes a unit for an engine, which gets the outcome in place of an exception: those of other machines travel badly."""
    from bridgejax import progress, runtime

    place, code = platform.node(), DONE
    sentence = ""
    try:
        if not _WORKERS:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            progress.quiet = True
            runtime.start(alone=True)
            progress.tell_in(job.workdir)
        _check_alike(job, unit)
        with _curable():
            _worker(job).make(unit)
    except TryAgain as error:
        code, sentence = AGAIN, str(error)
    except UserError as error:
        code, sentence = WRONG, str(error)
    except Exception as error:  # a device that failed, or a mistake of ours: the tries are counted
        code, sentence = AGAIN, f"{type(error).__name__}: {error}"
        traceback.print_exc()
    return UnitOutcome(code, sentence, place)


def _check_alike(job: UnitJob, unit: WorkUnit) -> None:
    """Makes sure that this worker would make what the process that handed out the work means.

    Raises:
      UserError: another version, another folder or other weights are here.
    """
    if job.version != __version__:
        raise UserError(f"bridgejax {__version__} is installed here, but {job.version} hands out the work; install the same.")
    if workdirs.read_config(job.workdir) is None:
        raise UserError(f"--workdir {job.workdir} is not there; put it on a file system that all machines see at this path.")
    worker = _worker(job)
    here = weight_digests(worker.shard_plan if unit.kind == SHARD else worker.plan)
    for name, digest in job.weights.items():
        if here.get(name, digest) != digest:
            raise UserError(f"the {name} has other weights here ({here[name][:12]} instead of {digest[:12]}); copy the same.")
