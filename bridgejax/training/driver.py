"""A run in progress: its stages, record, evaluation and checkpoints, and how it goes on from where it stopped."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import optax
from flax import nnx

from bridgejax import data
from bridgejax.data import Batch as StreamBatch
from bridgejax.data.sampling import ORDERS
from bridgejax.errors import Diverged, UserError
from bridgejax.identity import derive_seed, digest
from bridgejax.mesh import local_rows
from bridgejax.models.classifier import Classifier
from bridgejax.progress import stage_heading
from bridgejax.recipes import Recipe, Stage
from bridgejax.runtime import is_first
from bridgejax.training import stages
from bridgejax.training.batches import Array
from bridgejax.training.checkpoints import Checkpoints, DamagedCheckpoint, Notes
from bridgejax.training.early_stop import EarlyStop, arrays_of
from bridgejax.training.evaluator import Evaluator
from bridgejax.training.event_log import EventLog
from bridgejax.training.feature_cache import FeatureStreams, caches_features
from bridgejax.training.feed import started
from bridgejax.training.run_options import RunInputs, RunOptions, Streams, Teacher, TrainStreamSettings
from bridgejax.training.run_record import HISTORY_POINTS, RunRecord, RunResult
from bridgejax.training.stages import StagePlan
from bridgejax.training.state import Structure, TrainState
from bridgejax.training.teachers import PRETRAINED, ClassifierTeacher, load_teacher, teacher_names
from bridgejax.training.train_step import TrainStep

TABLE_BYTES = 1 << 30  # of features that may lie on a device while a stage trains


class RunDriver:
    """One run of a recipe. `bridgejax.training.loop` decides when its methods are called; here is what they do.

    Attributes:
      recipe, inputs, options, streams: what the run is.
      plans: its stages with their places.
      evaluation_steps: the steps after which it is evaluated.
      record: what it has done so far.
      evaluator: evaluates its state.
      feeds: streams of stages that have been started, by the number of the stage.

    Raises:
      UserError: images or teachers that the recipe needs are missing, or the model lacks what it resets.
    """

    def __init__(self, recipe: Recipe, inputs: RunInputs, options: RunOptions, streams: Streams) -> None:
        stages.check_sources(recipe, inputs.task, inputs.synthetic_sets, options.eval_split, inputs.other_classes)
        stages.check_model(recipe, inputs.model, bool(inputs.other_classes))
        self.recipe, self.inputs, self.options, self.streams = recipe, inputs, options, streams
        self.plans = stages.stage_plans(recipe)
        for plan in self.plans:
            if plan.stage.batch_size is not None:
                where = f"the batch_size of stage {plan.number + 1} of recipe {recipe.name!r}"
                options.check_batch(where, plan.stage.batch_size, options.accumulate)
        self.evaluation_steps = options.evaluation_steps(self.plans, inputs.other_classes)
        self.record = RunRecord()
        crop = options.crop or getattr(getattr(inputs.model, "preprocessing", None), "crop", None)
        self.crop: float | None = crop
        self.evaluator = Evaluator(streams, options, crop)
        self.feeds: dict[int, Iterator[StreamBatch]] = {}
        self._positions: dict[int, Iterator[npt.NDArray[np.int64]]] = {}  # of the batches of stages that take blocks, likewise
        self._teachers: dict[str, Teacher] = dict(inputs.teachers)
        self._state: TrainState | None = None
        self._caching: dict[int, bool] = {}  # by the number of the stage
        self._cached: tuple[int, FeatureStreams] | None = None  # of the stage of that number
        self._entered: int | None = None  # the number of the stage that the state belongs to
        self._early: EarlyStop | None = None
        self._checkpoints: Checkpoints | None = None
        self._saved_at = time.monotonic()
        self._events: EventLog | None = None
        self._told_seconds = 0.0  # of training, when events were last written

    # -- the state -------------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> TrainState:
        """The state; there is one once a stage was entered, and while no stacked one stands in for it."""
        if self._state is None:
            raise RuntimeError("the run has no state of its own: no stage was entered, or a stacked state holds it")
        return self._state

    @state.setter
    def state(self, state: TrainState) -> None:
        self._state = state

    def release_state(self) -> None:
        """Drops the state: a stacked one goes on."""
        self._state = None

    @property
    def step(self) -> int:
        """Steps done of all stages together; see `RunRecord.step`."""
        return self.record.step

    @property
    def is_finished(self) -> bool:
        return self.step == self.recipe.steps

    def result(self) -> RunResult:
        """Returns what a finished run leaves; a recipe without stages leaves the model as it is, evaluated."""
        if not self.plans and self.record.metrics is None:
            self.state = TrainState.create(self.inputs.model, optax.identity())
            split = self.options.eval_split
            metrics = self.evaluator.metrics(split, stages.eval_part(self.inputs.task, split), self.state)
            self.record.add_test_metrics(0, metrics)
        return self.record.result(self.state)

    # -- a stage's start -------------------------------------------------------------------------------------------------------

    def start_stream(self, plan: StagePlan) -> None:
        """Has the stage's stream started on a thread, or what of it needs no features, unless it is started already."""
        if plan.number in self.feeds or plan.number in self._positions:
            return
        settings = self.stream_settings(plan)
        if not self.caches_features(plan):
            self.feeds[plan.number] = started(lambda: self.streams.train_batches(**settings))
        elif self.takes_blocks(plan):
            self._positions[plan.number] = data.train_positions(
                [len(each) for each in settings["sources"]],
                weights=settings["weights"],
                batch_size=settings["batch_size"],
                seed=settings["seed"],
                start_step=settings["start_step"],
                end_step=plan.stage.steps,
            )

    def caches_features(self, plan: StagePlan) -> bool:
        """Returns whether the stage trains on cached features (`bridgejax.training.feature_cache`)."""
        if plan.number not in self._caching:
            self._caching[plan.number] = caches_features(plan.stage, self.inputs.model)
        return self._caching[plan.number]

    def takes_blocks(self, plan: StagePlan) -> bool:
        """Returns whether the stage trains on features that fit its device, the only one: many steps are then sent at once."""
        options, model = self.options, self.inputs.model
        alone = options.mesh is None or options.mesh.size == 1
        if not (alone and options.accumulate == 1 and self.caches_features(plan) and isinstance(model, Classifier)):
            return False
        sources, _ = stages.sources_of(plan.stage, self.inputs.task.train, self.inputs.synthetic_sets)
        return sum(map(len, sources)) * model.feature_width * np.float32().nbytes <= TABLE_BYTES

    def _features(self, plan: StagePlan) -> FeatureStreams:
        """Returns the streams of features of a stage that the run is in."""
        if self._cached is None or self._cached[0] != plan.number:
            teacher = self._teacher_of(plan)
            self._cached = plan.number, FeatureStreams(self.streams, self.state.model, self.options, self.crop, teacher)
        return self._cached[1]

    def enter(self, plan: StagePlan) -> None:
        """Makes the state with which the stage starts, unless the run is already in it."""
        if self._entered != plan.number:
            mesh, rules = self.options.mesh, self.options.mesh_rules
            initial, seed = self.inputs.model, self.inputs.seed
            self.state = stages.enter(plan, self._state, initial, seed, self._change_head, mesh, rules, self._fit_classes)
            self.record.stage_steps.append(0)
            self._early, self._entered = None, plan.number

    def _change_head(self, stage: Stage, model: nnx.Module) -> None:
        def shots(classifier: Classifier) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
            real = self.inputs.task.train
            return FeatureStreams(self.streams, classifier, self.options, self.crop, None).features(real), real.labels

        stages.make_head(stage, model, self._class_names(stage), shots, self.inputs.seed)

    def _fit_classes(self, stage: Stage, model: nnx.Module, seed: int) -> None:
        if self.inputs.other_classes:
            stages.fit_head(model, self._class_names(stage), self.inputs.task.class_names, seed)

    def _class_names(self, stage: Stage) -> tuple[str, ...]:
        return stages.class_names_of(stage, self.inputs.task.class_names, self.inputs.other_classes)

    def step_of(self, plan: StagePlan) -> TrainStep:
        """Returns the jitted step of a stage."""
        options = self.options
        return stages.step_of(plan.stage, options.mesh, options.compute_dtype, options.remat, options.accumulate)

    def title(self, plan: StagePlan) -> str:
        """Returns what a progress bar calls the stage."""
        return f"{self.recipe.name} {plan.number + 1}/{len(self.plans)} ({plan.stage.data})"

    def stream_settings(self, plan: StagePlan) -> TrainStreamSettings:
        """Returns the arguments of `train_batches` for what is left of a stage, all of it before the run is there."""
        options, batch_size = self.options, plan.stage.batch_size or self.options.batch_size
        sources, weights = stages.sources_of(plan.stage, self.inputs.task.train, self.inputs.synthetic_sets)
        settings: TrainStreamSettings = {
            "sources": sources,
            "weights": weights,
            "batch_size": batch_size,
            "image_size": options.image_size,
            "seed": derive_seed(self.inputs.seed, "batches", plan.number),
            "start_step": max(self.step - plan.start, 0),
            "augment": plan.stage.augment,
        }
        if plan.stage.repeats > 1:
            settings["repeats"] = plan.stage.repeats
        rows = local_rows(options.mesh, batch_size)
        if rows != slice(0, batch_size):
            settings["rows"] = rows
        if not plan.stage.augment and self.crop is not None:
            settings["crop"] = self.crop
        return settings

    def batches(self, plan: StagePlan) -> Iterator[dict[str, Array]]:
        """Returns this process's part of what is left of a stage's batches, ready for the step.

        A stage that trains on features has its images encoded first.
        """
        if self.caches_features(plan):
            with self._encoding():
                settings = self.stream_settings(plan)
                self.feeds[plan.number] = self._features(plan).train_batches(**settings, end_step=plan.stage.steps)
        return self._batches(plan)

    def _batches(self, plan: StagePlan) -> Iterator[dict[str, Array]]:
        self.start_stream(plan)
        second: TrainStreamSettings = {**self.stream_settings(plan), "view": 1}
        views = started(lambda: self.streams.train_batches(**second)) if plan.stage.contrasts else None
        for batch in self.feeds.pop(plan.number):
            parts = self._rows(batch, plan)
            if views is not None:
                parts["view"] = next(views)["image"]
            yield parts

    def feature_table(self, plan: StagePlan) -> tuple[dict[str, Array], Iterator[npt.NDArray[np.int64]]]:
        """Returns all rows that a stage trains on, ready for the step, and the positions of each batch in them, int64 [b]."""
        self.start_stream(plan)
        with self._encoding():
            settings = self.stream_settings(plan)
            table = self._rows(cast(StreamBatch, self._features(plan).table(settings["sources"])), plan)
        return table, self._positions.pop(plan.number)

    def _rows(self, batch: StreamBatch, plan: StagePlan) -> dict[str, Array]:
        """Returns rows of a stream with their weights in the loss and the teacher's logits of them."""
        sources, _ = stages.sources_of(plan.stage, self.inputs.task.train, self.inputs.synthetic_sets)
        parts, teacher = stages.with_loss_weights(batch, plan.stage, sources), self._teacher_of(plan)
        if teacher is not None:
            logits = parts["teacher_logits"] if "teacher_logits" in parts else teacher(batch)
            parts["teacher_logits"] = stages.soft_rows(logits, batch, plan.stage)
        return parts

    @contextlib.contextmanager
    def _encoding(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.record.seconds["encode"] = self.record.seconds.get("encode", 0.0) + time.monotonic() - began

    def _teacher_of(self, plan: StagePlan) -> Teacher | None:
        return None if plan.stage.teacher is None else self._teacher(plan.stage.teacher)

    def _teacher(self, name: str) -> Teacher:
        if name not in self._teachers:
            is_own = name == PRETRAINED
            names = tuple(self.inputs.task.class_names)
            self._teachers[name] = ClassifierTeacher(self.inputs.model) if is_own else load_teacher(name, names)
        return self._teachers[name]

    # -- after steps -----------------------------------------------------------------------------------------------------------

    def advance(self, steps: int) -> None:
        """Counts steps that were sent to the device."""
        self.record.step += steps
        self.record.stage_steps[-1] += steps

    def add_metrics(self, plan: StagePlan, steps: Sequence[Mapping[str, float]]) -> None:
        """Checks the metrics of the last steps and adds them to the record.

        Raises:
          Diverged: a loss or a gradient is not finite.
        """
        every = max(1, self.recipe.steps // HISTORY_POINTS)
        for number, metrics in enumerate(steps, start=self.step - len(steps) + 1):
            loss, rate = float(metrics["loss"]), float(metrics["learning_rate"])
            for name, value in (("loss", loss), ("gradient", float(metrics["gradient_norm"]))):
                if not math.isfinite(value):
                    raise Diverged(self._diverged(plan, number, name, value, rate), self.inputs.seed)
            closes = number % every == 0 or number == plan.end
            self.record.add_loss(plan.number, number, loss, rate, closes=closes)
        if self._events is not None and steps:
            seconds = self.record.seconds["train"] - self._told_seconds
            self._told_seconds += seconds
            self._events.write(
                self.step,
                "train",
                loss=float(np.mean([metrics["loss"] for metrics in steps])),
                learning_rate=float(steps[-1]["learning_rate"]),
                images_per_second=len(steps) * (plan.stage.batch_size or self.options.batch_size) / max(seconds, 1e-9),
            )

    def _diverged(self, plan: StagePlan, number: int, name: str, value: float, rate: float) -> str:
        latest = None if self._checkpoints is None else self._checkpoints.latest_step()
        kept = "" if latest is None else f" (the checkpoint of step {latest} is kept)"
        return (
            f"the {name} is {value} at step {number} of {self.recipe.steps}, stage {plan.number + 1} "
            f"({plan.stage.data}) of {self.recipe.name!r}, learning rate {rate:.4g}{kept}; use a lower learning_rate."
        )

    def evaluate(self, plan: StagePlan) -> None:
        """Evaluates the state on the options' split."""
        split = self.options.eval_split
        metrics = self._evaluator_of(plan).metrics(split, stages.eval_part(self.inputs.task, split), self.state)
        self.record.add_test_metrics(plan.number, metrics)
        self._tell(split, {name: metrics[name] for name in ("accuracy", "mean_per_class_accuracy", "loss")})

    def _tell(self, part: str, values: Mapping[str, float]) -> None:
        if self._events is not None:
            self._events.write(self.step, part, **values)

    def _evaluator_of(self, plan: StagePlan) -> Evaluator:
        if not self.caches_features(plan):
            return self.evaluator
        return Evaluator(self._features(plan), self.options, self.crop)

    def stops_early(self, plan: StagePlan) -> bool:
        """Makes a validation check; returns whether the stage ends here, which then goes on from its best check."""
        validation = self.inputs.task.validation
        if validation is None:
            raise RuntimeError("an early stop without validation images passed check_sources")
        if self._early is None:
            self._early = EarlyStop(plan.stage.early_stop or 1)
        score = self._evaluator_of(plan).metrics("validation", validation, self.state)["mean_per_class_accuracy"]
        self.record.history.append({"stage": plan.number, "step": self.step, "validation_mean_per_class_accuracy": score})
        self._tell("validation", {"mean_per_class_accuracy": score})
        if not self._early.check(score, self.step, self.state) and self.step < plan.end:
            return False
        self.state = self._early.best_state(self.state)
        return True

    # -- checkpoints -----------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Opens the run's checkpoints and event files, where it has folders for them, and goes on from the last checkpoint.

        `close` ends their writing.

        Raises:
          UserError: the directory holds another run, what it holds is damaged, or a package for event files is missing.
        """
        if self.inputs.directory is not None:
            self._open_checkpoints(Checkpoints(self.inputs.directory))
        if self.inputs.events is not None and is_first() and not self.is_finished:
            self._events = EventLog(self.inputs.events, goes_on=self.step > 0)
            self._told_seconds = self.record.seconds["train"]

    def _open_checkpoints(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        damaged: list[tuple[int, DamagedCheckpoint]] = []
        for step in checkpoints.steps():
            try:
                self._go_on_from(step, checkpoints)
            except DamagedCheckpoint as error:
                damaged.append((step, error))
                continue
            for later, _ in damaged:
                stage_heading(f"  the checkpoint of step {later} is damaged and is removed; training goes on from step {step}")
                checkpoints.delete(later)
            return
        if damaged:
            raise damaged[0][1]

    def _go_on_from(self, step: int, checkpoints: Checkpoints) -> None:
        notes = checkpoints.notes(step)
        if notes.get("identity") != self._identity():
            raise UserError(
                f"{checkpoints.directory} holds checkpoints of a run with other settings or data, or of an earlier version; "
                "choose another directory, or remove it to train afresh."
            )
        plan = self.plans[notes["stage"]]
        model = nnx.clone(self.inputs.model)
        for each in self.plans[: plan.number + 1]:
            self._fit_classes(each.stage, model, 0)
            self._change_head(each.stage, model)
        fresh = stages.fresh_state(plan, model, self.inputs.seed, self.options.mesh, self.options.mesh_rules)
        self.state = checkpoints.restore(step, fresh)
        self.record = RunRecord(
            step=step,
            stage_steps=notes["stage_steps"],
            history=notes["history"],
            losses=notes["losses"],
            seconds={**self.record.seconds, **notes["seconds"]},
            metrics=notes["metrics"],
        )
        self._entered = plan.number
        if notes["early"] is not None and plan.stage.early_stop is not None and step < plan.end:
            self._early = EarlyStop(plan.stage.early_stop)
            self._early.resume(notes["early"], checkpoints.restore_best(step, arrays_of(self.state)))

    def saves_after(self, step: int) -> bool:
        """Returns whether a checkpoint is asked for after a step."""
        every = self.options.checkpoint_every
        return every is not None and step % every == 0

    def pauses_after(self, plan: StagePlan, step: int) -> bool:
        """Returns whether anything but the next step is asked for after a step."""
        return step in plan.validation_checks or step in self.evaluation_steps or self.saves_after(step)

    def checkpoint_is_due(self, plan: StagePlan) -> bool:
        """Returns whether so much time has passed that a checkpoint is worth it."""
        if self.is_finished:
            return self.options.keep_final
        seconds = self.options.checkpoint_seconds / (4 if self.step == plan.end else 1)
        return time.monotonic() - self._saved_at >= seconds

    def save(self, plan: StagePlan) -> None:
        """Starts writing a checkpoint, if the run has a directory for them."""
        if self._checkpoints is None:
            return
        self._saved_at = time.monotonic()
        notes: Notes = {
            "identity": self._identity(),
            "stage": plan.number,
            "history": list(self.record.history),
            "losses": list(self.record.losses),
            "seconds": dict(self.record.seconds),
            "metrics": self.record.metrics,
            "stage_steps": list(self.record.stage_steps),
            "early": None if self._early is None else self._early.notes(),
        }
        self._checkpoints.save(self.step, self.state, notes, None if self._early is None else self._early.best_arrays)

    def close(self) -> None:
        """Waits until checkpoints and event files are on disk."""
        if self._events is not None:
            self._events.close()
        if self._checkpoints is not None:
            self._checkpoints.close()

    def _identity(self) -> str:
        """Returns the digest of what decides the result, to tell another run's checkpoints."""
        _, arrays, _, _ = Structure.of(self.inputs.model)
        options, sets = self.options, self.inputs.synthetic_sets
        parts: dict[str, object] = {
            "recipe": self.recipe.to_dict(),
            "orders": ORDERS,
            "task": self.inputs.task.digest if options.eval_split == "test" else [options.eval_split, self.inputs.task.digest],
            "synthetic": {name: digest([sets[name].ids, sets[name].labels]) for name in self.recipe.synthetic_stages},
            "sizes": [options.batch_size, options.eval_batch_size, options.image_size, self.crop],
            "seed": self.inputs.seed,
            "evaluate_at": sorted(self.evaluation_steps),
            "model": {name: [list(array.shape), str(array.dtype)] for name, array in arrays.items()},
        }
        if options.compute_dtype != "float32":
            parts["dtype"] = options.compute_dtype
        if options.accumulate > 1:
            parts["accumulate"] = options.accumulate
        if names := teacher_names(self.recipe):
            parts["teachers"] = {name: getattr(self._teacher(name), "digest", None) for name in names}
        return digest(parts)
