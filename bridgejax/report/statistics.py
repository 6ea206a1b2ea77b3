"""Means, paired differences and their bootstrap intervals over seeds and test images.

A run's accuracy varies for two reasons: its seed (which real images were drawn, the order of training) and the
photographs that it happens to be tested on. Both are resampled in every replicate, the two independently of each other
(the "pigeonhole" bootstrap of crossed factors: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007):

* seeds are drawn with replacement;
* test images are drawn with replacement within their class, by id. An image that several seeds test keeps one weight
  for all of them, because it is one photograph: ten seeds that share their test images are not ten test sets.

All arms see the same draws, so a difference of two arms is paired by seed and by image.

With few seeds the interval is wider than the bootstrap's own, see `bridgejax.evaluation.few_seeds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bridgejax.evaluation.few_seeds import widening
from bridgejax.studies.run_results import ACCURACY, MEAN_PER_CLASS, METRICS, RunResultRecord

LEVEL = 0.95
REPLICATES = 4000
_CHUNK_DRAWS = 1 << 18  # random draws held at once: their counters stay in the cache


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval."""

    mean: float  # the mean over seeds; an accuracy in [0, 1] or a difference in [-1, 1]
    sd: float | None  # the standard deviation over seeds (n - 1), None with one seed
    # low, high: the ends of the 95 % interval, None with one seed
    low: float | None
    high: float | None
    seeds: int  # how many seeds entered


def true_classes(run: RunResultRecord) -> list[int] | None:
    """Returns the true class of every test image of a run, or None if the record does not say.

    `test_labels` if the run has it; otherwise the class folder of the ids (`bird/robin.jpg`), if every id has one and the
    counts are those of the confusion matrix.
    """
    if not run.test_ids:
        return None
    if run.test_labels is not None:
        return list(run.test_labels)
    classes = {name: index for index, name in enumerate(run.classes)}
    labels = [next((classes[part] for part in name.split("/")[:-1] if part in classes), None) for name in run.test_ids]
    known = [label for label in labels if label is not None]
    if len(known) != len(labels) or not run.confusion:
        return None
    counts = np.bincount(known, minlength=len(classes)).tolist()
    return known if counts == [sum(row) for row in run.confusion] else None


@dataclass(frozen=True)
class PairedResults:
    """The results of arms × seeds, ready to be resampled."""

    # arms, seeds: names of the two axes of `observed`
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    observed: Mapping[str, np.ndarray]  # metric → float64 [seeds, arms] in [0, 1]; NaN where a run is missing
    correct: np.ndarray | None  # float32 [images, seeds, arms], 1 right, 0 wrong, NaN not tested; None if the runs do not say
    strata: np.ndarray  # int [images], the true class of every image (all zero where the runs do not say)
    labelled: bool  # whether `strata` holds true classes
    replicates: int = REPLICATES  # how many bootstrap replicates

    @classmethod
    def from_runs(cls, runs: Mapping[tuple[str, int], RunResultRecord], replicates: int = REPLICATES) -> PairedResults:
        """Gathers runs keyed by (arm, seed); arms and seeds keep the order in which they first appear, seeds sorted."""
        arms = tuple(dict.fromkeys(arm for arm, _ in runs))
        seeds = tuple(sorted({seed for _, seed in runs}))
        observed = {metric: np.full((len(seeds), len(arms)), np.nan) for metric in METRICS}
        for (arm, seed), run in runs.items():
            for metric in METRICS:
                observed[metric][seeds.index(seed), arms.index(arm)] = run.metric(metric)
        correct, strata, labelled = _match_images(runs, arms, seeds)
        return cls(arms, seeds, observed, correct, strata, labelled, replicates)

    @property
    def sources(self) -> str:
        """What the intervals of the mean per-class accuracy are over."""
        return "seeds and test images" if self.labelled else "seeds"

    @cached_property
    def _resampled(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Seed weights float64 [replicates, seeds] and metric → run values float64 [replicates, seeds, arms]."""
        rng = np.random.default_rng(0)
        count = len(self.seeds)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=self.replicates).astype(np.float64)
        constant = {m: np.broadcast_to(v, (self.replicates, *v.shape)) for m, v in self.observed.items()}
        if self.correct is None:
            return weights, constant
        values = _resample_images(self.correct, self.strata, self.replicates, rng)
        if not self.labelled:
            values[MEAN_PER_CLASS] = constant[MEAN_PER_CLASS]
        return weights, values

    def mean(self, arm: str, metric: str = MEAN_PER_CLASS) -> Estimate | None:
        """Returns an arm's mean over its seeds, None if no seed has the metric."""
        column = self.arms.index(arm)
        observed = self.observed[metric][:, column]
        return self._estimate(observed, lambda: self._resampled[1][metric][:, :, column], least=0.0)

    def difference(self, arm: str, against: str, metric: str = MEAN_PER_CLASS) -> Estimate | None:
        """Returns `arm` minus `against`, paired by seed and test image, over the seeds that both have."""
        a, b = self.arms.index(arm), self.arms.index(against)
        observed = self.observed[metric]
        return self._estimate(
            observed[:, a] - observed[:, b],
            lambda: self._resampled[1][metric][:, :, a] - self._resampled[1][metric][:, :, b],
            least=-1.0,
        )

    def _estimate(self, observed: np.ndarray, resampled: Callable[[], np.ndarray], least: float) -> Estimate | None:
        have = np.isfinite(observed)
        count = int(have.sum())
        if not count:
            return None
        mean = float(observed[have].mean())
        if count == 1:
            return Estimate(mean, None, None, None, 1)
        weights, values = self._resampled[0][:, have], resampled()[:, have]
        weights = np.where(np.isfinite(values), weights, 0.0)
        total = weights.sum(1)
        means = (weights * np.nan_to_num(values)).sum(1)[total > 0] / total[total > 0]
        sd = float(observed[have].std(ddof=1))
        wider = widening(sd, count, float(means.var()), LEVEL)
        low, high = mean + wider * (np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - mean)
        return Estimate(mean, sd, max(float(low), least), min(float(high), 1.0), count)


def _match_images(
    runs: Mapping[tuple[str, int], RunResultRecord], arms: Sequence[str], seeds: Sequence[int]
) -> tuple[np.ndarray | None, np.ndarray, bool]:
    """Lines up the runs' test images by id: (correct [images, seeds, arms] or None, strata [images], labelled)."""
    nothing = (None, np.zeros(0, np.int64), False)
    if any(not run.test_ids or len(run.test_ids) != len(run.correct) for run in runs.values()):
        return nothing
    labels = {key: true_classes(run) for key, run in runs.items()}
    labelled = all(value is not None and len(value) == len(runs[key].test_ids) for key, value in labels.items())

    def class_of(key: tuple[str, int]) -> list[int]:
        return (labels[key] if labelled else None) or [0] * len(runs[key].test_ids)

    # An id that names another class in another seed is a position, not an image: then only a seed's own arms are matched.
    shared: dict[str, int] = {}
    clash = any(
        shared.setdefault(name, label) != label
        for key, run in runs.items()
        for name, label in zip(run.test_ids, class_of(key), strict=True)
    )
    rows: dict[object, int] = {}
    strata: list[int] = []
    places: dict[tuple[str, int], list[int]] = {}
    for key, run in runs.items():
        places[key] = []
        for name, label in zip(run.test_ids, class_of(key), strict=True):
            identity: object = (key[1], name) if clash else name
            if identity not in rows:
                rows[identity] = len(strata)
                strata.append(label)
            places[key].append(rows[identity])
    correct = np.full((len(strata), len(seeds), len(arms)), np.nan, np.float32)
    for (arm, seed), run in runs.items():
        correct[places[arm, seed], seeds.index(seed), arms.index(arm)] = run.correct
    return correct, np.asarray(strata, np.int64), labelled


def _resample_images(
    correct: np.ndarray, strata: np.ndarray, replicates: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns both accuracies of every run on `replicates` resampled test parts: float64 [replicates, seeds, arms]."""
    shape = (replicates, *correct.shape[1:])
    right, tested, class_sum, class_count = (np.zeros(shape) for _ in range(4))
    for stratum in np.unique(strata):
        outcomes = correct[strata == stratum].reshape(-1, correct.shape[1] * correct.shape[2])
        images = len(outcomes)
        # [right, tested] of every run as one matrix product with the images' weights; counts stay exact in float32.
        table = np.concatenate([np.nan_to_num(outcomes), np.isfinite(outcomes)], axis=1).astype(np.float32)
        chunk = max(1, _CHUNK_DRAWS // images)
        for start in range(0, replicates, chunk):
            size = min(chunk, replicates - start)
            draws = rng.integers(0, images, (size, images), np.int32) + images * np.arange(size, dtype=np.int32)[:, None]
            weights = np.bincount(draws.ravel(), minlength=size * images).reshape(size, images)
            hits, seen = np.split(weights.astype(np.float32) @ table, 2, axis=1)
            part = slice(start, start + size)
            hits, seen = hits.reshape(size, *shape[1:]), seen.reshape(size, *shape[1:])
            right[part] += hits
            tested[part] += seen
            class_sum[part] += np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
            class_count[part] += seen > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return {ACCURACY: right / tested, MEAN_PER_CLASS: class_sum / class_count}
