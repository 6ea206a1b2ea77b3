"""Trains a model by a recipe, stage after stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from bridgejax.errors import UserError
from bridgejax.mesh import data_size
from bridgejax.recipes import Recipe
from bridgejax.training import stages
from bridgejax.training.run import Run, RunResult
from bridgejax.training.traced import checked_dtype


def train_recipe(
    recipe: Recipe,
    model: nnx.Module,
    *,
    task: Any,
    synthetic: Any = None,
    batch_size: int,
    eval_batch_size: int = 64,
    image_size: int,
    crop: float | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
    evaluations: int | None = None,
    eval_every: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
    keep_final: bool = True,
    mesh: Mesh | None = None,
    teacher: Callable[[dict[str, Any]], Any] | None = None,
    streams: Any = None,
    dtype: Any = None,
    remat: bool = False,
) -> RunResult:
    """Trains `model` by a recipe and evaluates it on the test part.

    Called again with the same arguments after it was stopped, at any moment and by any means, it goes on from the last
    checkpoint and ends with the same numbers.

    Args:
      recipe: of `recipe_from_config`.
      model: a classifier with one output per class; it is not changed.
      task: a `bridgejax.data.Task`.
      synthetic: the synthetic `Examples`, for recipes that use them; or {name: Examples} where stages name their sets
        (`Stage.synthetic_set`; "" is the name of the ordinary one).
      batch_size, eval_batch_size: images per step, over all devices of all processes.
      image_size: pixels of a side.
      crop: the share of the shorter side that evaluation keeps, in (0, 1]; None takes the model's `preprocessing.crop`.
      seed: decides the order and augmentation of images, Mixup, dropout and new heads.
      directory: where checkpoints lie; None keeps none.
      evaluations: test evaluations spread evenly over the run, the last at its end; None means one per stage.
      eval_every: instead, one every so many steps, and at the end.
      checkpoint_every: steps between checkpoints; None goes by time alone.
      checkpoint_seconds: seconds between checkpoints. A stage's end makes one when a quarter of that has passed.
      keep_final: leave a checkpoint of the end, so that a later call only reads it.
      mesh: the device mesh. It may span processes: each then calls this with the same arguments, makes and feeds its own
        rows of every batch, and returns the same result.
      teacher: for the loss "soft_target": batch → teacher logits [n, classes].
      streams: what has `train_batches` and `eval_batches`; None means `bridgejax.data`.
      dtype: "float32" (None) or "bfloat16": what the network computes in, in training and evaluation (`make_train_step`).
      remat: compute the network's blocks again in the backward pass (`make_train_step`).

    Raises:
      UserError: images that the recipe needs are missing, sizes do not fit, `directory` holds another run, or the loss or the
        gradient is no longer finite (the last checkpoint, from before, is kept).
    """
    synthetic = named_sets(synthetic)
    stages.check_sources(recipe, task, synthetic, teacher)
    stages.check_model(recipe, model)
    check_sizes(batch_size, eval_batch_size, mesh)
    if streams is None:
        from bridgejax import data as streams
    name = checked_dtype(dtype)
    run = Run(
        recipe, model, task, synthetic, batch_size, eval_batch_size, image_size, seed, mesh, teacher, streams, name, remat
    )
    run.alone = True
    run.plan_evaluations(evaluations, eval_every)
    if crop is not None:
        run.crop = checked_crop(crop)
    if directory is None:
        return run.finish()
    try:
        run.keep_checkpoints(Path(directory), checkpoint_every, checkpoint_seconds, keep_final)
        return run.finish()
    finally:
        run.close()


def named_sets(synthetic: Any) -> dict[str, Any]:
    """Returns synthetic examples by the name of their set, as `train_recipe` takes them: none, the ordinary set, or several."""
    return dict(synthetic) if isinstance(synthetic, Mapping) else {} if synthetic is None else {"": synthetic}


def checked_crop(crop: float) -> float:
    """Returns `crop`.

    Raises:
      UserError: it is not above 0 and at most 1.
    """
    if not 0 < crop <= 1:
        raise UserError(f"crop is {crop!r}; give a number above 0 and at most 1, or None for the model's own.")
    return crop


def check_sizes(batch_size: int, eval_batch_size: int, mesh: Mesh | None) -> None:
    """Checks that batches split over the mesh's devices.

    Raises:
      UserError: one does not.
    """
    parts = data_size(mesh)
    for key, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
        if value < 1 or value % parts:
            raise UserError(f"{key} is {value}; give a positive multiple of {parts}, the devices that a batch is split over.")
