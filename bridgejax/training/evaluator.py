"""A run's evaluation on a split of its task."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bridgejax.data import Batch as StreamBatch
from bridgejax.data import Examples
from bridgejax.evaluation import ClassificationMetrics
from bridgejax.training.eval_step import evaluate
from bridgejax.training.run_options import EvalStreamSettings, RunOptions, Streams
from bridgejax.training.state import TrainState

# Images of a split are made once and held if they take no more bytes than this, and else made anew for each evaluation.
HELD_BYTES = 2 << 30


class Evaluator:
    """Evaluates a run's states; it makes the batches of a split once, and holds them if they are few enough.

    Attributes:
      settings: the arguments of `eval_batches` besides the images.
      shared_test_batches: gives the batches of the options' `eval_split` where a pipeline of several runs makes them.
    """

    def __init__(self, streams: Streams, options: RunOptions, crop: float | None) -> None:
        self._streams, self._options = streams, options
        self.settings: EvalStreamSettings = {"batch_size": options.eval_batch_size, "image_size": options.image_size}
        if crop is not None:
            self.settings["crop"] = crop
        self.shared_test_batches: Callable[[], list[StreamBatch]] | None = None
        self._held: dict[str, list[StreamBatch]] = {}

    def holds(self, examples: Examples) -> bool:
        """Returns whether the images are few enough to be held in memory."""
        return len(examples) * 3 * self._options.image_size**2 <= HELD_BYTES

    def metrics(self, split: str, examples: Examples, state: TrainState) -> ClassificationMetrics:
        """Returns `classification_metrics` of a state on a split, "test" or "validation"."""
        return evaluate(state, self._batches(split, examples), mesh=self._options.mesh, dtype=self._options.dtype)

    def _batches(self, split: str, examples: Examples) -> Iterable[StreamBatch]:
        if split not in self._held:
            if split == self._options.eval_split and self.shared_test_batches is not None:
                self._held[split] = self.shared_test_batches()
            elif self.holds(examples):
                self._held[split] = list(self._streams.eval_batches(examples, **self.settings))
        return self._held.get(split) or self._streams.eval_batches(examples, **self.settings)
