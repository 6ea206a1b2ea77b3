"""A run of a recipe in progress: its state, history and checkpoints, and how it goes on from where it stopped."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from bridgejax.errors import Diverged, UserError
from bridgejax.identity import derive_seed, digest
from bridgejax.mesh import agreed, local_rows, replicate
from bridgejax.progress import progress
from bridgejax.recipes import Recipe
from bridgejax.training import stages
from bridgejax.training.early import EarlyStop, arrays_of
from bridgejax.training.feed import Feed, started
from bridgejax.training.judging import evaluate
from bridgejax.training.stages import Plan
from bridgejax.training.state import Structure, TrainState
from bridgejax.training.steps import TrainStep

# Losses stay on the device for this many steps at most, so that the host runs ahead but not away.
FETCH_EVERY = 10
# Images to judge by are made once and held if they take no more bytes than this, and else made anew for each look.
HELD_BYTES = 2 << 30
_HISTORY_POINTS = 50


@dataclasses.dataclass
class RunResult:
    """What a run leaves.

    Attributes:
      state: the final state; `state.model` is the trained classifier.
      history: {"stage", "step", "loss", "learning_rate"} (means over the steps since the entry before) and, where the test
        part was looked at, {"stage", "step", "test_accuracy", "test_mean_per_class_accuracy"}; the looks of an early stop
        are {"stage", "step", "validation_mean_per_class_accuracy"}. Steps count from 1 over all stages; where a stage ended
        early, the next goes on counting from its planned end. The test part decides nothing.
      metrics: "test_accuracy", "test_mean_per_class_accuracy", "test_loss", "test_calibration_error",
        "per_class_accuracy", "confusion", "correct" (0 or 1 per test image), "train_steps" (done in
        all), "stage_steps" (done in each stage; of them those after the best look of an early stop were undone), and
        "seconds": {"train", "evaluate", "input_stall"}, of which the last is the part of "train" in which the loop waited
        for images.
    """

    state: TrainState
    history: list[dict[str, Any]]
    metrics: dict[str, Any]


class Run:
    """A run in progress."""

    def __init__(
        self,
        recipe: Recipe,
        model: nnx.Module,
        task: Any,
        synthetic: dict[str, Any],
        batch_size: int,
        eval_batch_size: int,
        image_size: int,
        seed: int,
        mesh: Mesh | None,
        teacher: Callable[[dict[str, Any]], Any] | None,
        streams: Any,
        dtype: str = "float32",
        remat: bool = False,
    ) -> None:
        self.recipe, self.model, self.task, self.synthetic = recipe, model, task, synthetic
        self.batch_size, self.eval_batch_size, self.image_size = batch_size, eval_batch_size, image_size
        self.seed, self.mesh, self.teacher, self.streams = seed, mesh, teacher, streams
        self.dtype, self.remat = dtype, remat
        self.crop: float | None = getattr(getattr(model, "preprocessing", None), "crop", None)
        self.plans = stages.plans(recipe)
        self.total = recipe.steps
        self.log_every = max(1, self.total // _HISTORY_POINTS)
        self.evaluate_at: set[int] = set()
        self.checkpoints: Any = None
        self.checkpoint_every: int | None = None
        self.checkpoint_seconds = math.inf
        self.keep_final = True
        self.state: TrainState | None = None
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.seconds = {"train": 0.0, "evaluate": 0.0, "input_stall": 0.0}
        self.metrics: dict[str, Any] | None = None
        self.stage_steps: list[int] = []
        self.entered: int | None = None  # the number of the stage that the state belongs to
        self.early: EarlyStop | None = None
        self.feeds: dict[int, Iterator[dict[str, Any]]] = {}  # batches made elsewhere, by the number of their stage
        self.alone = False  # no other run shares the streams, so that the next stage's may start before this one ends
        self.eval_feed: Callable[[], list[dict[str, Any]]] | None = None  # the test part's batches, made elsewhere
        self.eval_batches: dict[str, list[dict[str, Any]]] = {}  # those that are held
        self._saved_at = time.monotonic()
        self._identity: str | None = None

    def plan_evaluations(self, evaluations: int | None, every: int | None) -> None:
        for key, value, least in (("evaluations", evaluations, 0), ("eval_every", every, 1)):
            if value is not None and (isinstance(value, bool) or value != int(value) or value < least):
                raise UserError(f"{key} is {value!r}; give a whole number of at least {least}, or None.")
        if every is not None:
            self.evaluate_at = set(range(every, self.total + 1, every))
        elif evaluations is None:
            self.evaluate_at = {plan.end for plan in self.plans}
        else:
            self.evaluate_at = {round(self.total * k / evaluations) for k in range(1, evaluations + 1)} - {0}
        self.evaluate_at.add(self.total)

    def identity(self) -> str:
        """Returns the digest of what decides the result, to tell another run's checkpoints."""
        if self._identity is None:
            _, arrays, _, _ = Structure.of(self.model)
            self._identity = digest(
                {
                    "recipe": self.recipe.to_dict(),
                    "task": self.task.digest,
                    "synthetic": {
                        name: digest([self.synthetic[name].ids, self.synthetic[name].labels])
                        for name in self.recipe.synthetic_sets
                    },
                    "sizes": [self.batch_size, self.eval_batch_size, self.image_size, self.crop],
                    "seed": self.seed,
                    "evaluate_at": sorted(self.evaluate_at),
                    "model": {name: [list(array.shape), str(array.dtype)] for name, array in arrays.items()},
                    **({} if self.dtype == "float32" else {"dtype": self.dtype}),
                }
            )
        return self._identity

    def keep_checkpoints(self, directory: Path, every: int | None, seconds: float, final: bool) -> None:
        """Opens the run's checkpoints and goes on from the last; `close` ends their writing."""
        from bridgejax.training.checkpoints import Checkpoints

        self.checkpoints, self.checkpoint_every, self.checkpoint_seconds = Checkpoints(directory), every, seconds
        self.keep_final = final
        self.restore()

    def close(self) -> None:
        """Waits until the checkpoints are on disk."""
        if self.checkpoints is not None:
            self.checkpoints.close()

    def restore(self) -> None:
        """Takes up the last checkpoint, if there is one."""
        found = self.checkpoints.latest()
        if found is None:
            return
        step, notes = found
        if notes.get("identity") != self.identity():
            raise UserError(
                f"{self.checkpoints.directory} holds checkpoints of a run with other settings or data; "
                "choose another directory, or remove it to train afresh."
            )
        plan = self.plans[notes["stage"]]
        fresh = stages.fresh_state(plan, self.model, self.seed)
        self.state = self.checkpoints.restore(step, fresh if self.mesh is None else replicate(fresh, self.mesh))
        self.step, self.history, self.losses = step, notes["history"], notes["losses"]
        self.seconds = {**self.seconds, **notes["seconds"]}
        self.metrics, self.stage_steps = notes["metrics"], notes["stage_steps"]
        self.entered = plan.number
        if notes["early"] is not None and plan.stage.early_stop is not None and self.step < plan.end:
            self.early = EarlyStop(plan.stage.early_stop)
            self.early.resume(notes["early"], self.checkpoints.restore_kept(step, arrays_of(self.state)))

    def finish(self) -> RunResult:
        """Runs what is left."""
        for _ in self.work():
            pass
        return self.result()

    def work(self, end: int | None = None) -> Iterator[None]:
        """Runs what is left, or what is left up to step `end`, handing over after each step that was sent to the device."""
        for plan in self.plans:
            stop = plan.end if end is None else min(end, plan.end)
            if self.step < stop:
                self.begin(plan)
                self.enter(plan)
                yield from self._train(plan, stop)

    def begin(self, plan: Plan) -> None:
        """Has the stage's stream started on a thread, unless its batches are made elsewhere."""
        if plan.number not in self.feeds:
            settings = self.stream_settings(plan)
            self.feeds[plan.number] = started(lambda: self.streams.train_batches(**settings))

    def enter(self, plan: Plan) -> None:
        """Makes the state with which the stage starts, unless the run is already in it."""
        if self.entered != plan.number:
            self.state = stages.enter(plan, self.state, self.model, self.seed)
            self.stage_steps.append(0)
            self.early, self.entered = None, plan.number

    @property
    def current(self) -> TrainState:
        """The state; there is one once a stage was entered."""
        if self.state is None:
            raise RuntimeError("a run was asked for its state before its first stage")
        return self.state

    def result(self) -> RunResult:
        """Returns what a finished run leaves."""
        if self.state is None or self.metrics is None:
            raise RuntimeError("a run ended without its final evaluation")
        steps = {"train_steps": sum(self.stage_steps), "stage_steps": list(self.stage_steps)}
        return RunResult(self.state, self.history, {**self.metrics, **steps, "seconds": dict(self.seconds)})

    def wants(self, plan: Plan) -> tuple[bool, bool, bool]:
        """Returns whether, after the step just done, the test part, a checkpoint and an early stop's look are due."""
        by_steps = self.checkpoint_every is not None and self.step % self.checkpoint_every == 0
        return self.step in self.evaluate_at, by_steps, self.step in plan.looks

    def _train(self, plan: Plan, stop: int) -> Iterator[None]:
        step = self.step_of(plan)
        feed = Feed(itertools.islice(self.batches(plan), stop - self.step), step.place)
        pending: list[dict[str, jax.Array]] = []
        began = time.monotonic()
        with progress(plan.stage.steps, self.title(plan), "step", initial=self.step - plan.start) as bar:
            for batch in feed:
                self.state, metrics = step(self.current, batch)
                feed.fill()
                self.step += 1
                self.stage_steps[-1] += 1
                pending.append(metrics)
                looks, by_steps, stops = self.wants(plan)
                if self.alone and plan.end - self.step == FETCH_EVERY and plan is not self.plans[-1]:
                    self.begin(self.plans[plan.number + 1])
                if not (looks or by_steps or stops or self.step == stop or len(pending) >= FETCH_EVERY):
                    self.seconds["train"] += time.monotonic() - began
                    yield
                    began = time.monotonic()
                    continue
                bar.update(len(pending))
                self.record(plan, jax.device_get(pending))
                pending = []
                self.seconds["train"] += time.monotonic() - began
                self.seconds["input_stall"] += feed.stall()
                if stops and self._ends_early(plan):
                    looks = bool(self.evaluate_at.intersection(range(self.step, plan.end + 1)))
                    self.step = plan.end
                if looks:
                    self.evaluate(plan)
                began = time.monotonic()
                if agreed(by_steps or self.checkpoint_is_due(plan)):
                    self.save(plan)
                self.seconds["train"] += time.monotonic() - began
                yield
                began = time.monotonic()
                if self.step == plan.end:
                    break
        if self.step not in (stop, plan.end):
            raise RuntimeError(f"the stream of {self.title(plan)} ended at step {self.step} of {plan.end}")

    def step_of(self, plan: Plan) -> TrainStep:
        """Returns the jitted step of a stage."""
        return stages.train_step(plan.stage, self.mesh, self.dtype, self.remat)

    def title(self, plan: Plan) -> str:
        """Returns what a progress bar calls the stage."""
        return f"{self.recipe.name} {plan.number + 1}/{len(self.plans)} ({plan.stage.data})"

    def batches(self, plan: Plan) -> Iterator[dict[str, Any]]:
        """Yields this process's part of what is left of a stage's batches, ready for the step."""
        stage = plan.stage
        sources, _ = stages.sources_of(stage, self.task.train, self.synthetic.get(stage.synthetic_set))
        self.begin(plan)
        for batch in self.feeds.pop(plan.number):
            found = stages.weighed(batch, stage, sources)
            if stage.loss == "soft_target" and self.teacher is not None:
                found["teacher_logits"] = self.teacher(found)
            yield found

    def stream_settings(self, plan: Plan) -> dict[str, Any]:
        """Returns the arguments of `train_batches` for what is left of a stage, all of it before the run is there."""
        stage = plan.stage
        sources, weights = stages.sources_of(stage, self.task.train, self.synthetic.get(stage.synthetic_set))
        rows = local_rows(self.mesh, self.batch_size)
        part = {} if rows == slice(0, self.batch_size) else {"rows": rows}
        return {
            "sources": sources,
            "weights": weights,
            "batch_size": self.batch_size,
            "image_size": self.image_size,
            "seed": derive_seed(self.seed, "batches", plan.number),
            "start_step": max(self.step - plan.start, 0),
            "augment": stage.augment,
            **part,
        }

    def record(self, plan: Plan, steps: Sequence[dict[str, Any]]) -> None:
        """Checks what the last steps told and adds it to the history.

        Raises:
          Diverged: a loss or a gradient is not finite.
        """
        for number, told in enumerate(steps, start=self.step - len(steps) + 1):
            loss, rate = float(told["loss"]), float(told["learning_rate"])
            for name, value in (("loss", loss), ("gradient", float(told["gradient_norm"]))):
                if not math.isfinite(value):
                    raise Diverged(self._diverged(plan, number, name, value, rate), self.seed)
            self.losses.append(loss)
            if number % self.log_every == 0 or number == plan.end:
                mean = float(np.mean(self.losses))
                self.history.append({"stage": plan.number, "step": number, "loss": mean, "learning_rate": rate})
                self.losses = []

    def _diverged(self, plan: Plan, number: int, name: str, value: float, rate: float) -> str:
        kept = ""
        if self.checkpoints is not None:
            latest = self.checkpoints.latest_step()
            kept = f" (the checkpoint of step {latest} is kept)" if latest is not None else ""
        return (
            f"the {name} is {value} at step {number} of {self.total}, stage {plan.number + 1} "
            f"({plan.stage.data}) of {self.recipe.name!r}, learning rate {rate:.4g}{kept}; use a lower learning_rate."
        )

    def _ends_early(self, plan: Plan) -> bool:
        """Looks at the validation images; returns whether the stage ends here, which then goes on from its best look."""
        if self.early is None:
            self.early = EarlyStop(plan.stage.early_stop or 1)
        began = time.monotonic()
        score = self._judge("validation", self.task.validation)["mean_per_class_accuracy"]
        self.history.append({"stage": plan.number, "step": self.step, "validation_mean_per_class_accuracy": score})
        self.seconds["evaluate"] += time.monotonic() - began
        if not self.early.look(score, self.step, self.current) and self.step < plan.end:
            return False
        self.state = self.early.settled(self.current)
        return True

    def eval_settings(self) -> dict[str, Any]:
        """Returns the arguments of `eval_batches` besides the images."""
        size: dict[str, Any] = {"batch_size": self.eval_batch_size, "image_size": self.image_size}
        return size if self.crop is None else {**size, "crop": self.crop}

    def held(self, examples: Any) -> bool:
        """Returns whether the images are few enough to be held in memory as the batches to judge by."""
        return len(examples) * 3 * self.image_size**2 <= HELD_BYTES

    def _judge(self, part: str, examples: Any) -> dict[str, Any]:
        if part not in self.eval_batches:
            if part == "test" and self.eval_feed is not None:
                self.eval_batches[part] = self.eval_feed()
            elif self.held(examples):
                self.eval_batches[part] = list(self._to_judge(examples))
        batches = self.eval_batches.get(part) or self._to_judge(examples)
        return dict(evaluate(self.current, batches, mesh=self.mesh, dtype=self.dtype))

    def _to_judge(self, examples: Any) -> Iterable[dict[str, Any]]:
        return self.streams.eval_batches(examples, **self.eval_settings())

    def evaluate(self, plan: Plan) -> None:
        """Judges the state on the test part."""
        began = time.monotonic()
        found = self._judge("test", self.task.test)
        renamed = {"accuracy", "mean_per_class_accuracy", "loss", "calibration_error"}
        self.metrics = {f"test_{key}" if key in renamed else key: value for key, value in found.items()}
        told = {key: self.metrics[key] for key in ("test_accuracy", "test_mean_per_class_accuracy")}
        self.history.append({"stage": plan.number, "step": self.step, **told})
        self.seconds["evaluate"] += time.monotonic() - began

    def checkpoint_is_due(self, plan: Plan) -> bool:
        """Returns whether so much time has passed that a checkpoint is worth it."""
        waited = time.monotonic() - self._saved_at
        if self.step == self.total:
            return self.keep_final
        return waited >= self.checkpoint_seconds / (4 if self.step == plan.end else 1)

    def save(self, plan: Plan) -> None:
        """Starts writing a checkpoint, if the run keeps any."""
        if self.checkpoints is None or self.state is None:
            return
        self._saved_at = time.monotonic()
        notes = {
            "identity": self.identity(),
            "stage": plan.number,
            "history": list(self.history),
            "losses": list(self.losses),
            "seconds": dict(self.seconds),
            "metrics": self.metrics,
            "stage_steps": list(self.stage_steps),
            "early": None if self.early is None else self.early.notes(),
        }
        self.checkpoints.save(self.step, self.state, notes, None if self.early is None else self.early.kept)
