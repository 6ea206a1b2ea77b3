"""From `results.jsonl` to `summary.json`: every mean, difference, interval and curve that the report shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from bridgejax.report.gains import ClassGains, class_gains
from bridgejax.report.statistics import LEVEL, REPLICATES, Estimate, PairedResults
from bridgejax.studies.comparison_results import SetComparison
from bridgejax.studies.filter_results import SetSelection
from bridgejax.studies.run_results import ACCURACY, MEAN_PER_CLASS, METRICS, HistoryPoint, RunResultRecord

SUMMARY_VERSION = 1
ALL_PAIRS_UP_TO = 8  # arms; beyond, differences are against the baseline alone (and the pairs asked for)
# The method a study is about, fixed beforehand: an arm picked for its test accuracy would be picked on the test part.
_METHODS = ("bridged_plus_plus", "bridged_reset", "bridged", "mixed", "synthetic_only")


@dataclass(frozen=True)
class CurvePoint:
    """The mean over seeds of a test accuracy (`metric`, in [0, 1]) after a step; `sd` is None with one seed."""

    step: int
    metric: str
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Accuracies:
    """Both accuracies in [0, 1], or their differences in [-1, 1]; None where no seed has them."""

    test_mean_per_class_accuracy: Estimate | None
    test_accuracy: Estimate | None


@dataclass(frozen=True)
class ArmSummary(Accuracies):
    """An arm in a setting."""

    arm: str  # its name
    setting: str  # shots and volume in words; "" in a study of one setting
    shots: int | None  # real images per class, None for all
    per_class: int | None  # synthetic images per class that it trained on
    per_class_accuracy: tuple[float | None, ...] | None  # means over seeds, in [0, 1]; None for a class that no seed tested
    confusion: tuple[tuple[int, ...], ...] | None  # counts summed over seeds, rows by true class
    curve: tuple[CurvePoint, ...]  # convergence
    switches: tuple[int, ...]  # the steps after which a new stage began
    # train_steps, real_images, test_images: means over seeds
    train_steps: float | None
    real_images: float | None
    test_images: float | None
    seconds: Mapping[str, float | None]  # means over seeds, by what they were spent on


@dataclass(frozen=True)
class Difference(Accuracies):
    """An entry minus another, paired by seed and test image."""

    arm: str
    against: str


@dataclass(frozen=True)
class Bootstrap:
    """How intervals were made: their level, replicates, and what is resampled."""

    level: float
    replicates: int
    over: str


@dataclass(frozen=True)
class Summary:
    """A study in figures."""

    version: int  # of this layout
    task: str | None  # its name
    baseline: str  # the arm that every other is compared with
    baseline_asked: str  # the one that was asked for; if it was not run, the first arm stands in for it
    focus: str  # the arm that the study is about
    classes: tuple[str, ...]  # names
    runs: int  # how many
    seeds: tuple[int, ...]  # which
    bootstrap: Bootstrap  # of all intervals
    # The entries of `arms`. An entry is an arm, or an arm in a setting ("bridged (4 shots)") where a study has several shot
    # counts or volumes.
    order: tuple[str, ...]
    arms: Mapping[str, ArmSummary]  # by entry
    differences: tuple[Difference, ...]  # of pairs of entries in one setting
    class_gains: tuple[ClassGains, ...]  # of every arm against the baseline; of many arms only of the one in focus
    seconds: Mapping[str, float] = field(default_factory=dict)  # of the workdir, by step
    papers_report: str | None = None  # the metric that papers report for this task
    synthetic_set: SetComparison | None = None  # the synthetic sets against the real images, if the config asked
    filters: tuple[SetSelection, ...] = ()  # what the filters of stages kept

    def to_dict(self) -> dict[str, object]:
        """Returns the content of `summary.json`."""
        compared = None if self.synthetic_set is None else self.synthetic_set.to_dict()
        return {**asdict(replace(self, synthetic_set=None)), "synthetic_set": compared}


Setting = tuple[int | None, int | None]  # shots and volume
_Runs = dict[tuple[str, int], RunResultRecord]  # by arm and seed


def summarise(
    results: Sequence[RunResultRecord],
    baseline: str = "vanilla_long",
    pairs: Iterable[tuple[str, str]] = (),
    replicates: int = REPLICATES,
) -> Summary:
    """Summarises runs; the same runs give the same summary.

    Args:
      results: of `read_results`, at least one.
      baseline: the arm that every other is compared with; if it was not run, the first arm is.
      pairs: further (arm, against) pairs to compare. Studies of up to 8 arms have every pair anyway.
      replicates: bootstrap replicates.
    """
    settings = _by_setting(results)
    arms = list(dict.fromkeys(run.arm for run in results))
    used = baseline if baseline in arms else arms[0]
    focus = next((arm for arm in _METHODS if arm in arms and arm != used), arms[-1])
    classes = results[0].classes
    wanted = [(arm, used) for arm in arms if arm != used]
    wanted += [pair for pair in pairs if pair[0] in arms and pair[1] in arms and pair[0] != pair[1]]
    if len(arms) <= ALL_PAIRS_UP_TO:
        wanted += [(b, a) for i, a in enumerate(arms) for b in arms[i + 1 :] if (a, b) not in wanted]
    over = "seeds and test images"
    summaries: dict[str, ArmSummary] = {}
    differences: list[Difference] = []
    gains: list[ClassGains] = []
    for setting, runs in settings.items():
        paired = PairedResults.from_runs(runs, replicates)
        if paired.sources != "seeds and test images":
            over = paired.sources
        words = _setting_words(setting, list(settings))
        entries = {arm: f"{arm} ({words})" if words else arm for arm in paired.arms}
        for arm in paired.arms:
            seeds = [runs[arm, seed] for seed in paired.seeds if (arm, seed) in runs]
            summaries[entries[arm]] = _arm_summary(paired, arm, words, setting[0], seeds)
        for arm, against in dict.fromkeys(wanted):
            if arm in entries and against in entries:
                per_class, top = (paired.difference(arm, against, metric) for metric in METRICS)
                differences.append(Difference(per_class, top, entries[arm], entries[against]))
        compared = [arm for arm in paired.arms if len(arms) <= ALL_PAIRS_UP_TO or arm == focus]
        for arm in compared if used in entries else ():
            by_class = class_gains(paired, arm, used, len(classes)) if arm != used else None
            if by_class is not None:
                gains.append(replace(by_class, arm=entries[arm], against=entries[used]))
    return Summary(
        version=SUMMARY_VERSION,
        task=results[0].task,
        baseline=used,
        baseline_asked=baseline,
        focus=focus,
        classes=classes,
        runs=len(results),
        seeds=tuple(sorted({run.seed for run in results})),
        bootstrap=Bootstrap(LEVEL, replicates, over),
        order=tuple(summaries),
        arms=summaries,
        differences=tuple(differences),
        class_gains=tuple(gains),
    )


def _by_setting(results: Sequence[RunResultRecord]) -> dict[Setting, _Runs]:
    settings: dict[Setting, _Runs] = {}
    for run in results:
        setting = (run.shots, run.per_class if run.volume is None else run.volume)
        settings.setdefault(setting, {})[run.arm, run.seed] = run
    if any(run.volume is not None for run in results):
        return settings
    # Arms without generated images then differ in volume alone: one setting.
    merged: dict[Setting, _Runs] = {}
    for (shots, _), runs in settings.items():
        merged.setdefault((shots, None), {}).update(runs)
    return merged if sum(map(len, merged.values())) == sum(map(len, settings.values())) else settings


def _arm_summary(
    paired: PairedResults, arm: str, setting: str, shots: int | None, runs: Sequence[RunResultRecord]
) -> ArmSummary:
    tested = [len(run.test_ids) or None if run.test_images is None else run.test_images for run in runs]
    spent = dict.fromkeys(name for run in runs for name in run.seconds)
    return ArmSummary(
        test_mean_per_class_accuracy=paired.mean(arm, MEAN_PER_CLASS),
        test_accuracy=paired.mean(arm, ACCURACY),
        arm=arm,
        setting=setting,
        shots=shots,
        per_class=runs[0].per_class,
        per_class_accuracy=_mean_columns([run.per_class_accuracy for run in runs]),
        confusion=_sum_tables([run.confusion for run in runs]),
        curve=_curve(runs),
        switches=_switches(runs[0].history),
        train_steps=_mean(run.train_steps for run in runs),
        real_images=_mean(run.real_images for run in runs),
        test_images=_mean(tested),
        seconds={name: _mean(run.seconds.get(name) for run in runs) for name in spent},
    )


def _setting_words(setting: Setting, settings: Sequence[Setting]) -> str:
    words = []
    if len({shots for shots, _ in settings}) > 1:
        words.append("all real images" if setting[0] is None else f"{setting[0]} shot{'s' * (setting[0] != 1)}")
    if len({volume for _, volume in settings}) > 1:
        words.append(f"{setting[1]} generated")
    return ", ".join(words)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _mean_columns(rows: Sequence[tuple[float | None, ...] | None]) -> tuple[float | None, ...] | None:
    """Means of each class over the seeds that tested it."""
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or len({len(row) for row in known}) != 1:
        return None
    return tuple(_mean(column) for column in zip(*known, strict=True))


def _sum_tables(tables: Sequence[tuple[tuple[int, ...], ...] | None]) -> tuple[tuple[int, ...], ...] | None:
    known = [np.asarray(table, np.int64) for table in tables if table is not None]
    if len(known) < len(tables) or len({table.shape for table in known}) != 1:
        return None
    return tuple(map(tuple, np.sum(known, axis=0).tolist()))


def _global_steps(history: Sequence[HistoryPoint]) -> list[tuple[int, HistoryPoint]]:
    """(step over the whole run, entry); steps that start again with a stage are put after the stage before."""
    placed: list[tuple[int, HistoryPoint]] = []
    offset, last, stage = 0, 0, None
    for entry in history:
        if entry.stage != stage:
            offset = last if stage is not None and entry.step <= last - offset else offset
            stage = entry.stage
        last = offset + entry.step
        placed.append((last, entry))
    return placed


def _switches(history: Sequence[HistoryPoint]) -> tuple[int, ...]:
    """The steps after which a new stage began."""
    placed = _global_steps(history)
    return tuple(step for (step, entry), (_, following) in itertools.pairwise(placed) if entry.stage != following.stage)


def _curve(runs: Sequence[RunResultRecord]) -> tuple[CurvePoint, ...]:
    """Mean ± sd over seeds of the test accuracies along the way: per class if every point has it, else top-1."""
    points: dict[int, list[HistoryPoint]] = {}
    for run in runs:
        for step, entry in _global_steps(run.history):
            if entry.test_accuracy is not None or entry.test_mean_per_class_accuracy is not None:
                points.setdefault(step, []).append(entry)
    shared = {step: entries for step, entries in points.items() if len(entries) == len(runs)}
    per_class = all(entry.test_mean_per_class_accuracy is not None for entries in shared.values() for entry in entries)
    curve = []
    for step, entries in sorted(shared.items()):
        levels = [entry.test_mean_per_class_accuracy if per_class else entry.test_accuracy for entry in entries]
        values = np.asarray([level for level in levels if level is not None], np.float64)
        if len(values) == len(runs):
            sd = float(values.std(ddof=1)) if len(values) > 1 else None
            curve.append(CurvePoint(step, MEAN_PER_CLASS if per_class else ACCURACY, float(values.mean()), sd))
    return tuple(curve)
