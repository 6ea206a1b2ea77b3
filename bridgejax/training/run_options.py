"""How a run is carried out, and what it is given besides its recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NotRequired, Protocol, TypedDict, Unpack

from flax import nnx
from jax.sharding import Mesh

from bridgejax.data import Batch as StreamBatch
from bridgejax.data import Examples, Task
from bridgejax.errors import UserError, whole_number
from bridgejax.mesh import ParameterRule, data_size, nearest_multiples
from bridgejax.training.batches import Array
from bridgejax.training.stages import StagePlan
from bridgejax.training.traced import checked_dtype

# A batch, as the stage's stream gives it → logits [n, classes]
Teacher = Callable[[StreamBatch], Array]


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How runs are carried out, whatever their recipe, model and images.

    Attributes:
      batch_size, eval_batch_size: images per step, over all devices of all processes.
      image_size: pixels of a side.
      crop: the share of the shorter side that evaluation keeps, in (0, 1]; None takes the model's `preprocessing.crop`.
      evaluations: test evaluations spread evenly over the run, the last at its end; None means one per stage.
      eval_split: the part of the task that these evaluate on, "test" or "validation"; the record says "test" of either.
      eval_every: instead, one every so many steps, and at the end.
      checkpoint_every: steps between checkpoints; None goes by time alone.
      checkpoint_seconds: seconds between checkpoints. A stage's end makes one when a quarter of that has passed.
      keep_final: leave a checkpoint of the end, so that a later call only reads it.
      mesh: the device mesh. It may span processes: each then trains with the same arguments, makes and feeds its own rows of
        every batch, and gets the same result.
      dtype: "float32" (None) or "bfloat16": what the network computes in, in training and evaluation (`make_train_step`).
      remat: compute the network's blocks again in the backward pass (`make_train_step`).
      mesh_rules: how the state lies on the mesh, before the built-in rules (`TrainState.create`).
      accumulate: parts in which a batch goes through the network (`make_train_step`).

    Raises:
      UserError: a number is out of range, or a batch does not split over the mesh's devices.
    """

    batch_size: int
    image_size: int
    eval_batch_size: int = 64
    crop: float | None = None
    evaluations: int | None = None
    eval_split: str = "test"
    eval_every: int | None = None
    checkpoint_every: int | None = None
    checkpoint_seconds: float = 60.0
    keep_final: bool = True
    mesh: Mesh | None = None
    dtype: str | None = None
    remat: bool = False
    mesh_rules: tuple[ParameterRule, ...] = ()
    accumulate: int = 1

    def __post_init__(self) -> None:
        whole_number("accumulate", self.accumulate, 1)
        for key in ("batch_size", "eval_batch_size"):
            self.check_batch(key, getattr(self, key), 1 if key == "eval_batch_size" else self.accumulate)
        if self.crop is not None and not 0 < self.crop <= 1:
            raise UserError(f"crop is {self.crop!r}; give a number above 0 and at most 1, or None for the model's own.")
        for key, value, least in (("evaluations", self.evaluations, 0), ("eval_every", self.eval_every, 1)):
            if value is not None and (isinstance(value, bool) or value != int(value) or value < least):
                raise UserError(f"{key} is {value!r}; give a whole number of at least {least}, or None.")
        object.__setattr__(self, "dtype", checked_dtype(self.dtype))

    def check_batch(self, where: str, size: int, parts: int) -> None:
        """Checks that a batch splits over the mesh's devices, and on each of them into `parts`.

        Raises:
          UserError: it does not; the nearest sizes that do are named.
        """
        devices = data_size(self.mesh)
        if size < 1 or size % (devices * parts):
            each = f", times {parts} parts (training.accumulate)" if parts > 1 else ""
            raise UserError(
                f"{where} is {size}; give a positive multiple of {devices * parts}, the devices that a batch is split "
                f"over{each}: {nearest_multiples(size, devices * parts)}."
            )

    @property
    def compute_dtype(self) -> str:
        """`dtype` by its name."""
        return self.dtype or "float32"

    def evaluation_steps(
        self, plans: Sequence[StagePlan], others: Mapping[str, object] = MappingProxyType({})
    ) -> frozenset[int]:
        """Returns the steps after which a run of these stages is evaluated on the test split.

        `others` are as `RunInputs.other_classes`.
        """
        total = plans[-1].end if plans else 0
        if self.eval_every is not None:
            steps = set(range(self.eval_every, total + 1, self.eval_every))
        elif self.evaluations is None:
            steps = {plan.end for plan in plans}
        else:
            steps = {round(total * k / self.evaluations) for k in range(1, self.evaluations + 1)} - {0}
        # No classes, or other ones, come of these stages.
        trained = [(plan, plan.stage.data != "real" and plan.stage.synthetic_source in others) for plan in plans]
        without = [plan for plan, elsewhere in trained if elsewhere or plan.stage.contrasts]
        apart = {step for plan in without for step in range(plan.start + 1, plan.end + 1)}
        return frozenset({*steps, total} - apart)


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """What a run is given besides its recipe and options: all in which the runs of a group differ.

    Attributes:
      model: a classifier with one output per class; it is not changed.
      task: the real images.
      seed: decides the order and augmentation of images, Mixup, dropout and new heads.
      synthetic: the synthetic images, for recipes that use them; by the name of their set where stages name sets or
        filter them (`Stage.synthetic_source`; "" is the name of the ordinary one).
      directory: where checkpoints lie; None writes none.
      teachers: by the name by which stages call them (`Stage.teacher`). A name that is not there is that of a classifier's
        weights, or "pretrained", which is `model` as it is given.
      other_classes: the class names of synthetic images that are of other classes than the task's, by the name under which
        `synthetic` has these. A stage on them has a head of its own, and so has the stage after it.
      events: where TensorBoard's event files of the run go, written by the first process; None writes none.
    """

    model: nnx.Module
    task: Task
    seed: int = 0
    synthetic: Examples | Mapping[str, Examples] | None = None
    directory: Path | None = None
    teachers: Mapping[str, Teacher] = dataclasses.field(default_factory=dict)
    events: Path | None = None
    other_classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def synthetic_sets(self) -> Mapping[str, Examples]:
        """The synthetic images by the name of their set."""
        if self.synthetic is None:
            return {}
        return self.synthetic if isinstance(self.synthetic, Mapping) else {"": self.synthetic}


class TrainStreamSettings(TypedDict):
    """The arguments of `bridgejax.data.train_batches`."""

    sources: list[Examples]
    weights: list[float] | None
    batch_size: int
    image_size: int
    seed: int
    start_step: int
    augment: bool
    rows: NotRequired[slice]
    crop: NotRequired[float]
    repeats: NotRequired[int]
    view: NotRequired[int]


class EvalStreamSettings(TypedDict):
    """The arguments of `bridgejax.data.eval_batches` besides the images."""

    batch_size: int
    image_size: int
    crop: NotRequired[float]


class Streams(Protocol):
    """What gives a run its batches; `bridgejax.data` is one.

    One that also has `shared_train_batches` and `shared_eval_batches`, as `bridgejax.data` has, serves a group of runs out of
    one pipeline.
    """

    def train_batches(self, **settings: Unpack[TrainStreamSettings]) -> Iterator[StreamBatch]: ...

    def eval_batches(self, examples: Examples, **settings: Unpack[EvalStreamSettings]) -> Iterable[StreamBatch]: ...
