"""From a plan and a generator to a synthetic set on disk; killed at any moment, it goes on where it was."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bridgejax.data.records import encode_example
from bridgejax.errors import UserError
from bridgejax.mesh import barrier, data_size
from bridgejax.progress import progress
from bridgejax.synthesis import tfds_files
from bridgejax.synthesis.plan import Plan, PlanItem, check_count, make_plan
from bridgejax.synthesis.sets import SyntheticSet, open_set
from bridgejax.synthesis.store import Store, array_record_installed, check_same_set, exclusive, stored_set

FORMAT_VERSION = 1


def generate_set(
    directory: str | Path,
    *,
    pipeline: Any,
    class_names: Sequence[str],
    per_class: int,
    template: str | Iterable[str] = "a photo of a {}",
    seed: int = 0,
    batch_size: int = 32,
    steps: int = 50,
    guidance_scale: float = 7.5,
    negative_prompt: str = "",
    scheduler: str | None = None,
    height: int | None = None,
    width: int | None = None,
    shard_size: int | None = None,
    mesh: Any = None,
    variants: Mapping[str, Sequence[str]] | None = None,
    array_record: bool | None = None,
) -> SyntheticSet:
    """Generates a synthetic set, or what is missing of it, and returns it.

    The folder opens with `tfds.builder_from_directory`, both by `as_dataset` and by `as_data_source`. Calling again with
    a larger `per_class` adds images; a finished set is only verified. With several processes, each makes every N-th
    shard on its own devices (load the pipeline onto `bridgejax.mesh.generation_mesh(axes)`) and all return the finished set;
    their number may be another each time.

    Args:
      directory: the folder, made if absent.
      pipeline: what `bridgejax.diffusion.load_pipeline` returns, or any callable of the same signature with a `digest`.
      class_names: the classes; the order decides the labels.
      per_class: images per class.
      template: a text, or several in rotation, with `{}` where the class goes.
      seed: any integer of at most 64 bits; an image's noise depends on (seed, class name, index) alone.
      batch_size: images per call; every call has the same shape (the last is padded).
      steps: denoising steps.
      guidance_scale: weight of the prompt; at most 1 means no guidance.
      negative_prompt: what to steer away from.
      scheduler: a scheduler name; None is the pipeline's own.
      height, width: pixels; None is the pipeline's own size.
      shard_size: images per shard; None keeps that of the set that is there, or chooses the multiple of `batch_size`
        that makes at most 256 shards.
      mesh: a mesh whose "data" axis must divide the batch (the batch is rounded up to it); None takes the pipeline's.
      variants: class name → more specific phrases that fill `{}` in rotation by index.
      array_record: keep every shard as ArrayRecord beside TFRecord, for `as_data_source` (twice the disk space); None
        does so where the array_record package is installed.

    Raises:
      UserError: an argument is wrong, the folder holds another set (says what differs) or cannot be written, or the
        generator makes pixels that are not numbers.
    """
    folder = Path(directory)
    batch_size = check_count("generator.batch_size", batch_size)
    identity = _identity(
        pipeline,
        steps=check_count("generator.steps", steps),
        guidance_scale=float(guidance_scale),
        negative_prompt=negative_prompt,
        scheduler=scheduler,
        height=height,
        width=width,
        seed=int(seed),
    )
    plan = make_plan(class_names, per_class, template, seed, shard_size, variants, batch_size)
    identity |= {
        "class_names": list(plan.class_names),
        "templates": list(plan.templates),
        "variants": {name: list(phrases) for name, phrases in plan.variants},
    }
    formats = _formats(array_record)
    stored = stored_set(folder)
    if stored is not None:
        check_same_set(folder, stored, identity, plan.per_class)
        formats = tuple(stored["formats"])
        if shard_size is None:
            plan = make_plan(class_names, per_class, template, seed, stored["shard_size"], variants)
        elif shard_size != stored["shard_size"]:
            raise UserError(
                f"{folder} holds shards of {stored['shard_size']} images, not {shard_size}; "
                f"set synthetic.shard_size={stored['shard_size']} or choose another folder."
            )
    process, processes = _processes()
    # Nobody writes before all have looked at what is there.
    barrier("bridgejax: synthetic set read")
    with exclusive(folder) if process == 0 else contextlib.nullcontext():
        _make(folder, pipeline, plan, identity, formats, batch_size, mesh, process, processes)
    return open_set(folder, verify=False)


def _make(
    folder: Path,
    pipeline: Any,
    plan: Plan,
    identity: Mapping[str, Any],
    formats: Sequence[str],
    batch_size: int,
    mesh: Any,
    process: int,
    processes: int,
) -> None:
    if process:
        barrier("bridgejax: synthetic set cleared")
    store = Store(folder, plan, identity, formats, process, processes)
    if not process:
        barrier("bridgejax: synthetic set cleared")
    todo = store.missing_shards()
    if todo:
        store.remove_info()
        if tfds_files.ARRAY_RECORD in formats and not array_record_installed():
            raise UserError(f"{folder} keeps its shards as ArrayRecord too; `pip install array_record` to go on with it.")
    barrier("bridgejax: synthetic set opened")
    batch = _batch_size(batch_size, plan, mesh if mesh is not None else getattr(pipeline, "mesh", None))
    mine = sum(plan.shard_length(shard) for shard in store.my_shards())
    ahead = sum(plan.shard_length(shard) for shard in todo)
    sample = _sampler(pipeline, identity, batch)
    try:
        with (
            concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool,
            progress(mine, "generate", "img", initial=mine - ahead) as bar,
        ):
            for shard in todo:
                store.write_shard(shard, _records(plan.shard(shard), batch, sample, identity, pool, bar.update))
    finally:
        store.withdraw()
    barrier("bridgejax: shards made")
    if not store.finish():
        raise UserError(f"{folder} lacks shards of other processes; start all {processes} processes on one shared folder.")
    barrier("bridgejax: synthetic set finished")


def _records(
    items: Sequence[PlanItem],
    batch_size: int,
    sample: Callable[[Sequence[PlanItem]], np.ndarray],
    identity: Mapping[str, Any],
    pool: concurrent.futures.Executor,
    advance: Callable[[int], Any],
) -> Iterator[bytes]:
    """Yields a shard's serialised examples; PNGs are packed while the next batch is drawn."""
    waiting: list[concurrent.futures.Future[bytes]] = []
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        images = sample(part)
        for future in waiting:
            yield future.result()
        waiting = [pool.submit(_example, item, image, identity) for item, image in zip(part, images, strict=True)]
        advance(len(part))
    for future in waiting:
        yield future.result()


def _sampler(pipeline: Any, identity: Mapping[str, Any], batch_size: int) -> Callable[[Sequence[PlanItem]], np.ndarray]:
    """Returns a function from up to `batch_size` items to uint8 [n, height, width, 3]; the pipeline sees full batches."""
    shape = (identity["height"], identity["width"], 3)

    def sample(items: Sequence[PlanItem]) -> np.ndarray:
        padded = [*items, *[items[-1]] * (batch_size - len(items))]
        made = pipeline(
            [item.prompt for item in padded],
            seeds=[item.seed for item in padded],
            steps=identity["steps"],
            guidance_scale=identity["guidance_scale"],
            negative_prompt=identity["negative_prompt"],
            height=identity["height"],
            width=identity["width"],
            scheduler=identity["scheduler"],
        )
        images = np.asarray(made, np.float32)[: len(items)]
        if images.shape[1:] != shape:
            made_shape = "×".join(map(str, images.shape[1:]))
            raise UserError(f"the generator made images of {made_shape} instead of {shape}; give sizes that it can make.")
        for item, image in zip(items, images, strict=True):
            if not np.isfinite(image).all():
                raise UserError(
                    f"the generator made pixels that are not finite for {item.prompt!r} (index {item.index}); "
                    "use generator.dtype='float32' or a lower generator.guidance_scale."
                )
        return np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)

    return sample


def _example(item: PlanItem, image: np.ndarray, identity: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return encode_example(
        {
            "image": file.getvalue(),
            "label": item.label,
            "class_name": item.class_name,
            "prompt": item.prompt,
            "negative_prompt": identity["negative_prompt"],
            "seed": item.seed,
            "index": item.index,
            "generator": identity["generator"],
        }
    )


def _identity(pipeline: Any, **settings: Any) -> dict[str, Any]:
    """Returns what decides the pixels beside the plan's own rows."""
    sizes = {}
    for key in ("height", "width"):
        value = settings[key] if settings[key] is not None else getattr(pipeline, f"default_{key}", None)
        if value is None:
            raise UserError(f"the generator has no default {key}; set generator.{key} in pixels.")
        sizes[key] = check_count(f"generator.{key}", value)
    if not isinstance(settings["negative_prompt"], str):
        raise UserError(f"prompts.negative={settings['negative_prompt']!r} is not text; give a text, or '' for none.")
    named = getattr(pipeline, "digest", None) or f"{type(pipeline).__module__}.{type(pipeline).__qualname__}"
    tile = getattr(getattr(pipeline, "networks", None), "vae_tile", None)
    return {
        **settings,
        **sizes,
        **({} if tile is None else {"vae_tile": tile}),
        "generator": str(named),
        "dtype": _dtype_name(pipeline),
        "format": FORMAT_VERSION,
    }


def _dtype_name(pipeline: Any) -> str | None:
    """Returns the name of the type that the generator computes in, None if it does not say."""
    dtype = getattr(pipeline, "dtype", None)
    if dtype is None and hasattr(pipeline, "networks"):
        import jax
        from flax import nnx

        leaves = jax.tree.leaves(nnx.state(pipeline.networks, nnx.Param))
        dtype = np.dtype(leaves[0].dtype).name if leaves else None
        arithmetic = getattr(getattr(pipeline.networks, "unet", None), "dtype", None)
        if arithmetic is not None and np.dtype(arithmetic).name != dtype:
            return f"{np.dtype(arithmetic).name} on {dtype} parameters"
    return dtype if dtype is None or isinstance(dtype, str) else np.dtype(dtype).name


def _formats(array_record: bool | None) -> tuple[str, ...]:
    if array_record and not array_record_installed():
        raise UserError("array_record=True needs the array_record package; `pip install array_record` or leave it out.")
    both = array_record_installed() if array_record is None else array_record
    return (tfds_files.TFRECORD, tfds_files.ARRAY_RECORD) if both else (tfds_files.TFRECORD,)


def _batch_size(batch_size: int, plan: Plan, mesh: Any) -> int:
    """Returns the images per call: no more than a shard holds, and a multiple of the mesh's data axis."""
    size = min(batch_size, plan.shard_length(0))
    parts = data_size(mesh)
    return -(-size // parts) * parts


def _processes() -> tuple[int, int]:
    import jax

    return jax.process_index(), jax.process_count()
