"""From `results.jsonl` to `summary.json`: every mean, difference, interval and curve that the report shows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridgejax.errors import UserError
from bridgejax.studies.gains import class_gains
from bridgejax.studies.statistics import LEVEL, METRICS, REPLICATES, Study

RESULTS_FILE = "results.jsonl"
SUMMARY_VERSION = 1
ALL_PAIRS_UP_TO = 8  # arms; beyond, differences are against the baseline alone (and the pairs asked for)
# The method a study is about, fixed beforehand: an arm picked for its test accuracy would be picked on the test part.
_METHODS = ("bridged_plus_plus", "bridged_reset", "bridged", "mixed", "synthetic_only")


def read_results(workdir: str | Path) -> list[dict[str, Any]]:
    """Returns the runs of a workdir's `results.jsonl`, in its order.

    Raises:
      UserError: there are no results, or a line is not a run.
    """
    file = Path(workdir) / RESULTS_FILE
    again = f"run `bridgejax run --config FILE.py --workdir {workdir}` first"
    if not file.is_file():
        raise UserError(f"{file} is missing, so there is nothing to report; {again}.")
    results = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); delete it and run the study again to rebuild it.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            run = json.loads(line)
        except ValueError:
            run = None
        if not isinstance(run, dict) or not _is_run(run):
            raise UserError(
                f"{file} line {number} is not a run (an object with arm, a text, seed, a whole number, and the numbers "
                f"{' and '.join(METRICS)}); delete the file and run the study again to rebuild it."
            )
        results.append(run)
    if not results:
        raise UserError(f"{file} holds no runs, so there is nothing to report; {again}.")
    return results


def _is_run(found: Mapping[str, Any]) -> bool:
    numbers = all(isinstance(found.get(metric), (int, float)) for metric in METRICS)
    return numbers and isinstance(found.get("arm"), str) and isinstance(found.get("seed"), int)


def summarise(
    results: Sequence[Mapping[str, Any]],
    baseline: str = "vanilla_long",
    pairs: Iterable[tuple[str, str]] = (),
    replicates: int = REPLICATES,
) -> dict[str, Any]:
    """Summarises runs; the same runs give the same summary.

    Args:
      results: runs as in `results.jsonl`, at least one.
      baseline: the arm that every other is compared with; if it was not run, the first arm is.
      pairs: further (arm, against) pairs to compare. Studies of up to 8 arms have every pair anyway.
      replicates: bootstrap replicates.

    Returns:
      A JSON-able dict. `order` lists the entries of `arms`; an entry is an arm, or an arm in a setting ("bridged (4 shots)")
      where a study has several shot counts or volumes. `arms[entry]` has both accuracies (`mean`, `sd`, `low`, `high`,
      `seeds`), per-class means, the confusion matrix summed over seeds (rows: true class), the convergence `curve` and
      mean seconds. `differences` has `arm` minus `against` in both accuracies, paired by seed and test image, and `class_gains`
      the same for each class (of every arm against the baseline; of many arms only of the one in focus). Accuracies are
      fractions in [0, 1]; intervals are None with one seed.
    """
    settings: dict[tuple[Any, Any], dict[tuple[str, int], Mapping[str, Any]]] = {}
    for run in results:
        setting = (run.get("shots"), run.get("volume", run.get("per_class")))
        settings.setdefault(setting, {})[str(run["arm"]), int(run["seed"])] = run
    if all("volume" not in run for run in results):  # then arms without generated images differ in volume alone: one setting
        merged: dict[tuple[Any, Any], dict[tuple[str, int], Mapping[str, Any]]] = {}
        for (shots, _), runs in settings.items():
            merged.setdefault((shots, None), {}).update(runs)
        if sum(map(len, merged.values())) == sum(map(len, settings.values())):
            settings = merged
    arms = list(dict.fromkeys(str(run["arm"]) for run in results))
    used = baseline if baseline in arms else arms[0]
    wanted = [(arm, used) for arm in arms if arm != used]
    wanted += [pair for pair in pairs if pair[0] in arms and pair[1] in arms and pair[0] != pair[1]]
    if len(arms) <= ALL_PAIRS_UP_TO:
        wanted += [(b, a) for i, a in enumerate(arms) for b in arms[i + 1 :] if (a, b) not in wanted]
    summary: dict[str, Any] = {
        "version": SUMMARY_VERSION,
        "task": results[0].get("task"),
        "baseline": used,
        "baseline_asked": baseline,
        "focus": next((arm for arm in _METHODS if arm in arms and arm != used), arms[-1]),
        "classes": list(results[0].get("classes", ())),
        "runs": len(results),
        "seeds": sorted({int(run["seed"]) for run in results}),
        "bootstrap": {"level": LEVEL, "replicates": replicates, "over": "seeds and test images"},
        "order": [],
        "arms": {},
        "differences": [],
        "class_gains": [],
    }
    for setting, runs in settings.items():
        study = Study.from_runs(runs, replicates)
        if study.sources != "seeds and test images":
            summary["bootstrap"]["over"] = study.sources
        entries = {arm: arm + _setting_words(setting, list(settings)) for arm in study.arms}
        for arm in study.arms:
            mine = [runs[arm, seed] for seed in study.seeds if (arm, seed) in runs]
            summary["order"].append(entries[arm])
            summary["arms"][entries[arm]] = {
                "arm": arm,
                "setting": _setting_words(setting, list(settings)).strip(" ()"),
                "shots": setting[0],
                "per_class": mine[0].get("per_class"),
                **{metric: _plain(study.mean(arm, metric)) for metric in METRICS},
                "per_class_accuracy": _mean_columns([run.get("per_class_accuracy") for run in mine]),
                "confusion": _sum_tables([run.get("confusion") for run in mine]),
                "curve": _curve(mine),
                "switches": _switches(mine[0].get("history") or ()),
                "train_steps": _mean([run.get("train_steps") for run in mine]),
                "real_images": _mean([run.get("real_images") for run in mine]),
                "test_images": _mean([run.get("test_images", len(run.get("test_ids") or ()) or None) for run in mine]),
                "seconds": {
                    name: _mean([run.get("seconds", {}).get(name) for run in mine])
                    for name in dict.fromkeys(name for run in mine for name in run.get("seconds", {}))
                },
            }
        for arm, against in dict.fromkeys(wanted):
            if arm not in entries or against not in entries:
                continue
            values = {metric: _plain(study.difference(arm, against, metric)) for metric in METRICS}
            summary["differences"].append({"arm": entries[arm], "against": entries[against], **values})
        compared = [arm for arm in study.arms if len(arms) <= ALL_PAIRS_UP_TO or arm == summary["focus"]]
        for arm in compared if used in entries else ():
            gains = class_gains(study, arm, used, len(summary["classes"])) if arm != used else None
            if gains is not None:
                summary["class_gains"].append({"arm": entries[arm], "against": entries[used], **gains})
    return summary


def _setting_words(setting: tuple[Any, Any], settings: list[tuple[Any, Any]]) -> str:
    words = []
    if len({shots for shots, _ in settings}) > 1:
        words.append("all real images" if setting[0] is None else f"{setting[0]} shot{'s' * (setting[0] != 1)}")
    if len({volume for _, volume in settings}) > 1:
        words.append(f"{setting[1]} generated")
    return f" ({', '.join(words)})" if words else ""


def _plain(estimate: Any) -> dict[str, Any] | None:
    return None if estimate is None else estimate.to_dict()


def _mean(values: Iterable[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _mean_columns(rows: list[Any]) -> list[float | None] | None:
    """Means of each class over the seeds that tested it."""
    if not rows or any(row is None or len(row) != len(rows[0]) for row in rows):
        return None
    return [
        _mean(value for value in column if value is not None and not math.isnan(value)) for column in zip(*rows, strict=True)
    ]


def _sum_tables(tables: list[Any]) -> list[list[int]] | None:
    if not tables or any(table is None or np.shape(table) != np.shape(tables[0]) for table in tables):
        return None
    return np.sum([np.asarray(table, np.int64) for table in tables], axis=0).tolist()


def _global_steps(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, Any, Mapping[str, Any]]]:
    """(step over the whole run, stage, entry); steps that start again with a stage are put after the stage before."""
    found, offset, last, stage = [], 0, 0, None
    for entry in history:
        step = int(entry["step"])
        if entry.get("stage") != stage:
            offset = last if stage is not None and step <= last - offset else offset
            stage = entry.get("stage")
        last = offset + step
        found.append((last, stage, entry))
    return found


def _switches(history: Sequence[Mapping[str, Any]]) -> list[int]:
    """The steps after which a new stage began."""
    switches: list[int] = []
    last, before = 0, None
    for number, (step, stage, _) in enumerate(_global_steps(history)):
        if number and stage != before:
            switches.append(last)
        last, before = step, stage
    return switches


def _curve(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean ± sd over seeds of the test accuracies along the way: per class if every point has it, else top-1."""
    points: dict[int, list[Mapping[str, Any]]] = {}
    for run in runs:
        for step, _, entry in _global_steps(run.get("history") or ()):
            if any(entry.get(metric) is not None for metric in METRICS):
                points.setdefault(step, []).append(entry)
    shared = {step: entries for step, entries in points.items() if len(entries) == len(runs)}
    metric = METRICS[0] if all(METRICS[0] in e for entries in shared.values() for e in entries) else METRICS[1]
    curve = []
    for step, entries in sorted(shared.items()):
        values = np.asarray([entry[metric] for entry in entries if metric in entry], np.float64)
        if len(values) == len(runs):
            sd = float(values.std(ddof=1)) if len(values) > 1 else None
            curve.append({"step": step, "metric": metric, "mean": float(values.mean()), "sd": sd})
    return curve
