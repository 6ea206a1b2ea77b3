"""From a plan and a generator to a synthetic set on disk; a call that was killed is completed by the next one."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from bridgejax.data.records import encode_example
from bridgejax.errors import TryAgain, UserError
from bridgejax.files import Place, StoreObject, place
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.mesh import barrier, data_size, total
from bridgejax.progress import progress, spent
from bridgejax.synthesis import tfds_files
from bridgejax.synthesis.guidance import RealGuidance
from bridgejax.synthesis.plan import GenerationPlan, PlannedImage, check_count, make_plan
from bridgejax.synthesis.reader import SyntheticSet, open_set
from bridgejax.synthesis.store import SetIdentity, Store, array_record_installed, check_same_set, exclusive, stored_set

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh

FORMAT_VERSION = 1
CarryOut = Callable[[Sequence[int]], object]  # has these shards made by others; returns when they are there
Sample = Callable[[Sequence[PlannedImage]], npt.NDArray[np.uint8]]  # up to a batch of images → [n, height, width, 3]


class ImageGenerator(Protocol):
    """Makes images of prompts: a pipeline of `bridgejax.diffusion.load_pipeline`, or any function called the same way.

    Read as well, where it has them: `digest` (str, over the weights; recorded with every image), `default_height` and
    `default_width` (pixels, where no size is given), `dtype` (what it computes in) and `mesh` (where no mesh is given).
    """

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance_scale: float,
        negative_prompt: str,
        height: int,
        width: int,
        scheduler: str | None,
    ) -> jax.Array | npt.NDArray[np.floating]:
        """Returns float [n, height, width, 3] in [0, 1]; image i depends on its prompt and seed alone."""


@dataclasses.dataclass(frozen=True)
class GeneratedSet(SyntheticSet):
    """A finished synthetic set, with what the call that returned it did.

    Attributes:
      images_made: how many images the call made, over all processes; 0 if the set was there already.
      seconds: how long the call took in this process.
    """

    images_made: int
    seconds: float


@under_jax_defaults
def generate_set(
    directory: str | Path | StoreObject,
    *,
    pipeline: ImageGenerator,
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
    mesh: Mesh | None = None,
    variants: Mapping[str, Sequence[str]] | None = None,
    array_record: bool | None = None,
    shards: Sequence[int] | None = None,
    carry_out: CarryOut | None = None,
    guidance: RealGuidance | None = None,
) -> GeneratedSet:
    """Generates a synthetic set, or what is missing of it, and returns it.

    The folder opens with `tfds.builder_from_directory`, both by `as_dataset` and by `as_data_source`. Calling again with
    a larger `per_class` adds images; a finished set is only verified. With several processes, each makes every N-th
    shard on its own devices (load the pipeline onto `bridgejax.mesh.generation_mesh(axes)`) and all return the finished set;
    their number may be another each time.

    Args:
      directory: the folder, made if absent, or the URL of one on an object store (gs://…, s3://…).
      pipeline: what `bridgejax.diffusion.load_pipeline` returns, or anything else that makes images of prompts.
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
      shard_size: images per shard; None keeps that of the set that is there, or chooses whole batches by
        `bridgejax.synthesis.plan.default_shard_size`.
      mesh: a mesh whose "data" axis must divide the batch (the batch is rounded up to it); None takes the pipeline's.
      variants: class name → more specific phrases that fill `{}` in rotation by index.
      array_record: store every shard as ArrayRecord beside TFRecord, for `as_data_source` (twice the disk space); None
        does so where the array_record package is installed.
      shards: make these alone, without waiting for any other process. Any number of such calls may run at once, on any
        machines that see the folder, with the same shards or others; whichever sees that all are there finishes the set.
      carry_out: has missing shards made by other processes, each by a call with `shards`; None makes them here.
      guidance: real images to start from, at least one of each class; the pipeline must take `init_images` and `strength`.

    Returns:
      The finished set, how many of its images this call made, and how long that took. With `shards`, others may be missing.

    Raises:
      UserError: an argument is wrong, the folder holds another set (says what differs) or cannot be written, or the
        generator makes pixels that are not numbers.
    """
    began = time.monotonic()
    folder = place(directory)
    batch_size, steps = check_count("generator.batch_size", batch_size), check_count("generator.steps", steps)
    height, width = _side(pipeline, "height", height), _side(pipeline, "width", width)
    if not isinstance(negative_prompt, str):
        raise UserError(f"prompts.negative={negative_prompt!r} is not text; give a text, or '' for none.")
    plan = make_plan(class_names, per_class, template, seed, shard_size, variants, batch_size)
    identity = SetIdentity(
        generator=str(getattr(pipeline, "digest", None) or f"{type(pipeline).__module__}.{type(pipeline).__qualname__}"),
        dtype=_dtype_name(pipeline),
        scheduler=scheduler,
        steps=steps,
        guidance_scale=float(guidance_scale),
        negative_prompt=negative_prompt,
        height=height,
        width=width,
        seed=int(seed),
        class_names=list(plan.class_names),
        templates=list(plan.templates),
        variants={name: list(phrases) for name, phrases in plan.variants},
        format=FORMAT_VERSION,
    )
    tile = getattr(getattr(pipeline, "networks", None), "vae_tile", None)
    if tile is not None:
        identity["vae_tile"] = tile
    if guidance is not None:
        identity["guidance"] = guidance.identity
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
    with exclusive(folder) if process == 0 and shards is None else contextlib.nullcontext():
        made = _make(
            folder, pipeline, plan, identity, formats, batch_size, mesh, process, processes, shards, carry_out, guidance
        )
    if shards is not None:
        names = tuple(folder / tfds_files.shard_name(shard, tfds_files.TFRECORD) for shard in range(plan.num_shards))
        opened = SyntheticSet(folder, plan.class_names, plan.per_class, identity, names, plan.shard_size)
    else:
        opened = open_set(folder, verify=False)
    return GeneratedSet(**vars(opened), images_made=made, seconds=time.monotonic() - began)


def _make(
    folder: Place,
    pipeline: ImageGenerator,
    plan: GenerationPlan,
    identity: SetIdentity,
    formats: Sequence[str],
    batch_size: int,
    mesh: Mesh | None,
    process: int,
    processes: int,
    shards: Sequence[int] | None,
    carry_out: CarryOut | None,
    guidance: RealGuidance | None,
) -> int:
    """Makes the shards that are missing or damaged; returns how many images that were, over all processes."""
    if process:
        barrier("bridgejax: synthetic set cleared")
    store = Store(folder, plan, identity, formats, process, processes, beside_others=shards is not None)
    if not process:
        barrier("bridgejax: synthetic set cleared")
    if outside := [shard for shard in shards or () if not 0 <= shard < plan.num_shards]:
        raise UserError(f"shard {outside[0]} is not one of the {plan.num_shards} of {folder}; count from 0.")
    with spent("verify"):
        todo = store.missing_shards(shards)
    if todo:
        store.remove_info()
        if tfds_files.ARRAY_RECORD in formats and not array_record_installed():
            raise UserError(f"{folder} stores its shards as ArrayRecord too; `pip install array_record` to add to it.")
    barrier("bridgejax: synthetic set opened")
    batch = _batch_size(batch_size, plan, mesh if mesh is not None else getattr(pipeline, "mesh", None))
    wanted = store.my_shards() if shards is None else shards
    mine = sum(plan.shard_length(shard) for shard in wanted)
    ahead = sum(plan.shard_length(shard) for shard in todo)
    sample = _sampler(pipeline, identity, batch, guidance)
    try:
        with (
            concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool,
            progress(mine, "generate", "img", mine - ahead, (len(wanted), len(wanted) - len(todo))) as bar,
        ):
            if carry_out is not None and todo:
                carry_out(todo)
            for shard in todo if carry_out is None else ():
                with spent("store"):
                    store.write_shard(shard, _records(plan.shard(shard), batch, sample, identity, pool, bar.update))
                bar.shard_done()
    finally:
        if shards is None:
            store.withdraw()
    if shards is not None and (damaged := store.missing_shards(todo)):
        raise TryAgain(f"shard {damaged[0]} of {folder} was written by two processes at once; make it again.")
    with spent("wait"):
        barrier("bridgejax: shards made")
    if not store.finish() and shards is None:
        raise UserError(f"{folder} lacks shards of other processes; start all {processes} processes on one shared folder.")
    made = total(ahead)
    barrier("bridgejax: synthetic set finished")
    return made


def _records(
    items: Sequence[PlannedImage],
    batch_size: int,
    sample: Sample,
    identity: SetIdentity,
    pool: concurrent.futures.Executor,
    advance: Callable[[int], object],
) -> Iterator[bytes]:
    """Yields a shard's serialised examples; PNGs are compressed while the next batch is generated."""
    waiting: list[concurrent.futures.Future[bytes]] = []
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        with spent("generate"):
            images = sample(part)
        for future in waiting:
            yield future.result()
        waiting = [pool.submit(_example, item, image, identity) for item, image in zip(part, images, strict=True)]
        advance(len(part))
    for future in waiting:
        yield future.result()


def _sampler(pipeline: ImageGenerator, identity: SetIdentity, batch_size: int, guidance: RealGuidance | None) -> Sample:
    """Returns what samples up to `batch_size` images; the pipeline sees full batches."""
    shape = (identity["height"], identity["width"], 3)
    call: Callable[..., object] = pipeline

    def sample(items: Sequence[PlannedImage]) -> npt.NDArray[np.uint8]:
        padded = [*items, *[items[-1]] * (batch_size - len(items))]
        start: dict[str, object] = {}
        if guidance is not None:
            start = {"init_images": guidance.starts(padded, *shape[:2]), "strength": guidance.strength}
        made = call(
            [item.prompt for item in padded],
            seeds=[item.seed for item in padded],
            steps=identity["steps"],
            guidance_scale=identity["guidance_scale"],
            negative_prompt=identity["negative_prompt"],
            height=identity["height"],
            width=identity["width"],
            scheduler=identity["scheduler"],
            **start,
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
        scaled: npt.NDArray[np.float32] = np.rint(np.clip(images, 0.0, 1.0) * 255.0)
        return scaled.astype(np.uint8)

    return sample


def _example(item: PlannedImage, image: npt.NDArray[np.uint8], identity: SetIdentity) -> bytes:
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


def _side(pipeline: ImageGenerator, key: str, pixels: int | None) -> int:
    """Returns an image's height or width in pixels: as given, else the generator's own."""
    value = getattr(pipeline, f"default_{key}", None) if pixels is None else pixels
    if value is None:
        raise UserError(f"the generator has no default {key}; set generator.{key} in pixels.")
    return check_count(f"generator.{key}", value)


def _dtype_name(pipeline: ImageGenerator) -> str | None:
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


def _batch_size(batch_size: int, plan: GenerationPlan, mesh: Mesh | None) -> int:
    """Returns the images per call: no more than a shard holds, and a multiple of the mesh's data axis."""
    size = min(batch_size, plan.shard_length(0))
    parts = data_size(mesh)
    return -(-size // parts) * parts


def _processes() -> tuple[int, int]:
    import jax

    return jax.process_index(), jax.process_count()
