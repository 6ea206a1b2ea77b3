"""The plan of a synthetic set: which image, of which class, from which prompt and seed, in which shard."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError
from bridgejax.identity import class_keys, digest, seeds_of
from bridgejax.prompts import check_class_names, check_templates, class_phrases, prompt_for

_SHARDS_AIM, _MOST_IMAGES = 256, 2048
_MAX_SHARDS = 99_999  # TFDS numbers files with five digits
_MAX_IMAGES = 1 << 32  # an index is folded into the key as 32 bits


@dataclasses.dataclass(frozen=True)
class PlannedImage:
    """One image to make."""

    class_name: str
    label: int
    index: int  # its number within its class, from 0
    prompt: str
    seed: int  # in [0, 2⁶³)

    def row(self) -> list[str | int]:
        """Returns what decides this image, as plain JSON."""
        return [self.class_name, self.label, self.index, self.prompt, self.seed]


@dataclasses.dataclass(frozen=True)
class GenerationPlan:
    """A whole synthetic set before it is made.

    Images are ordered by (index, class): each stretch of shards is balanced over classes, and a larger `per_class` only
    appends, so that full shards stay as they are. Shards are cut by `shard_size` alone, never by batch or host.
    """

    class_names: tuple[str, ...]
    per_class: int
    templates: tuple[str, ...]
    variants: tuple[tuple[str, tuple[str, ...]], ...]  # only classes that have some, sorted by name
    seed: int
    shard_size: int

    def __len__(self) -> int:
        return len(self.class_names) * self.per_class

    @property
    def num_shards(self) -> int:
        return -(-len(self) // self.shard_size)

    def shard_length(self, shard: int) -> int:
        """Returns how many images shard number `shard` holds."""
        return min(self.shard_size, len(self) - shard * self.shard_size)

    @functools.cached_property
    def _keys(self) -> npt.NDArray[np.uint32]:
        """uint32 [classes, 2]"""
        return class_keys(self.seed, self.class_names)

    def shard(self, shard: int) -> list[PlannedImage]:
        """Returns the images of a shard, in order; no other is worked out."""
        start, classes, variants = shard * self.shard_size, len(self.class_names), dict(self.variants)
        # Of the short last shard too, the seeds are made as of a full one: one program serves all.
        indices, labels = np.divmod(np.arange(start, start + self.shard_length(0)), classes)
        seeds = seeds_of(self._keys[labels], indices)[: self.shard_length(shard)]
        rows = zip(indices.tolist(), labels.tolist(), seeds.tolist(), strict=False)
        return [
            PlannedImage(name := self.class_names[label], label, index, prompt_for(name, index, self.templates, variants), seed)
            for index, label, seed in rows
        ]

    def rows_digest(self, shard: int) -> str:
        """Returns a digest of what decides a shard's content on the side of the plan."""
        return digest([item.row() for item in self.shard(shard)])


def default_shard_size(num_images: int, batch_size: int) -> int:
    """Returns the shard size used when none is given: whole batches, in at most 256 shards as long as these stay handy.

    A shard has at most 2048 images (or one batch): a million images are then a few hundred files, of 1 GB with 512 pixels and
    4 GB with 1024, and a larger set has more. Sets of up to 256 batches get one batch per shard: a killed process loses at
    most one batch of work. The image size plays no part, so that who deals out shards needs no generator.
    """
    return batch_size * max(1, min(_MOST_IMAGES // batch_size, -(-num_images // (batch_size * _SHARDS_AIM))))


def make_plan(
    class_names: Iterable[str],
    per_class: int,
    template: str | Iterable[str],
    seed: int = 0,
    shard_size: int | None = None,
    variants: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 32,
) -> GenerationPlan:
    """Returns the plan of a synthetic set.

    Args:
      class_names: the classes; their order decides labels and the order on disk, not prompts or seeds.
      per_class: images per class, at least 1.
      template: a text, or several in rotation, with `{}` where the class goes.
      seed: the seed of the set.
      shard_size: images per shard; None chooses by `default_shard_size`.
      variants: class name → more specific phrases that fill `{}` in rotation.
      batch_size: used only to choose the shard size.

    Raises:
      UserError: a name, template, count or size is not usable.
    """
    names = check_class_names(class_names)
    templates = check_templates(template)
    per_class = check_count("synthetic.per_class", per_class)
    if per_class * len(names) >= _MAX_IMAGES:
        raise UserError(f"synthetic.per_class={per_class} for {len(names)} classes is too many; stay below 2^32 images.")
    if shard_size is None:
        shard_size = default_shard_size(per_class * len(names), check_count("generator.batch_size", batch_size))
    shard_size = check_count("synthetic.shard_size", shard_size)
    if -(-per_class * len(names) // shard_size) > _MAX_SHARDS:
        raise UserError(f"synthetic.shard_size={shard_size} makes more than {_MAX_SHARDS} shards; give a larger one.")
    used = tuple(sorted((name, class_phrases(name, variants)) for name in names if (variants or {}).get(name)))
    return GenerationPlan(names, per_class, templates, used, int(seed), shard_size)


def check_count(key: str, value: object) -> int:
    """Returns a whole number of at least 1.

    Raises:
      UserError: it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UserError(f"{key}={value!r} is not a whole number of at least 1; give one.")
    return int(value)
