"""Features of a frozen encoder's images, which without augmentation are the same at every step: each image is encoded once.

They lie in the cache folder under a digest of all that decides them: the encoder's weights and build, its preprocessing, each
image's bytes, the sizes and the dtype. Another encoder's are never found.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx

import bridgejax
from bridgejax import data, disk_cache
from bridgejax.data import Batch as StreamBatch
from bridgejax.data import Examples
from bridgejax.data.examples import image_digest
from bridgejax.identity import digest
from bridgejax.models.classifier import Classifier
from bridgejax.recipes import Stage
from bridgejax.training.batches import Array
from bridgejax.training.eval_step import make_eval_step
from bridgejax.training.run_options import EvalStreamSettings, RunOptions, Streams, Teacher
from bridgejax.training.state import Structure

CHUNK = 512  # images of one entry on disk; they are decoded together
# Of a classifier what its head is made of; of a layer its mode, since features are those of evaluation; NNX's own bookkeeping.
_NOT_ENCODER = ("num_classes", "class_names", "templates", "texts", "use_running_average", "_pytree__nodes", "_pytree__state")
_TABLES = 4  # encoders whose features stay in memory for the next run
# A table's length is a power of two from the first to the second of these, or a multiple of the second.
_LENGTHS = 1 << 9, 1 << 14
_LISTED = 32  # sets of images whose digests do

Table = dict[str, npt.NDArray[np.float32]]  # image digest → its row
_built: dict[Structure, list[object]] = {}  # how a model's encoder is built: the walk takes longer than hashing
_tables: OrderedDict[str, Table] = OrderedDict()
_listed: OrderedDict[int, tuple[Sequence[bytes], tuple[str, ...]]] = OrderedDict()


def caches_features(stage: Stage, model: nnx.Module) -> bool:
    """Returns whether a stage trains on cached features: its head alone trains, and the encoder sees an image always alike."""
    still = stage.batch_norm == "frozen" or not _any(model, nnx.BatchNorm)
    changes = stage.mixup_alpha, stage.cutmix_alpha, stage.erasing, stage.randaugment, stage.stochastic_depth
    alike = not stage.augment and not any(changes) and not _any(model, nnx.Dropout)
    only_head = all(pattern == "head" or pattern.startswith(r"^head\.") for pattern in stage.trainable)
    return isinstance(model, Classifier) and only_head and still and alike and not stage.contrasts


def _any(model: nnx.Module, kind: type[nnx.Module]) -> bool:
    return any(isinstance(module, kind) for _, module in nnx.iter_modules(model))


def encoder_digest(model: nnx.Module) -> str:
    """Returns the SHA-256 of what makes a classifier's features of images: all weights but the head's, and how it is built."""
    structure, arrays, _, keys = Structure.of(model)
    parts: list[object] = [bridgejax.__version__]
    for name in sorted(arrays.keys() - keys):
        if not f"{name}.".startswith("head."):
            array = np.ascontiguousarray(arrays[name])
            parts.append([name, str(array.dtype), list(array.shape), hashlib.sha256(array.data).hexdigest()])
    if structure not in _built:
        _built[structure] = [
            [list(map(str, place)), type(module).__qualname__, _attributes(module)]
            for place, module in nnx.iter_modules(model)
            if place[:1] != ("head",)
        ]
    return digest([*parts, *_built[structure]])


def _attributes(module: nnx.Module) -> dict[str, str]:
    return {name: _text(value) for name, value in vars(module).items() if name not in _NOT_ENCODER}


def _text(value: object) -> str:
    """Returns an attribute that is no array and no module as text that does not change from process to process."""
    if isinstance(value, nnx.Variable | nnx.Module | jax.Array | np.ndarray):
        return ""
    if isinstance(value, list | tuple):
        return str([_text(each) for each in value])
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class FeatureStreams:
    """The streams of a stage with the features of images in their place: "image" is float32 [b, d].

    Batches hold the same examples in the same order as those of the images.
    """

    def __init__(self, streams: Streams, model: nnx.Module, options: RunOptions, crop: float | None, teacher: Teacher | None):
        """Makes the streams; nothing is encoded yet.

        Args:
          streams: gives the images.
          model: a `Classifier` whose encoder is that of the whole stage.
          options: sizes, mesh and dtype.
          crop: of evaluation; None is the streams' own.
          teacher: the stage's, None if it has none. If it goes by images, its logits are kept beside the features. One of
            the same encoder (`ClassifierTeacher.has_encoder`) takes the features of each batch instead.
        """
        self._encoder = encoder_digest(model)
        shares: Callable[[str, int], bool] = getattr(teacher, "has_encoder", lambda *_: False)
        self._teacher = None if shares(self._encoder, options.image_size) else teacher
        self._streams, self._model, self._options = streams, model, options
        self._sizes: EvalStreamSettings = {"batch_size": options.eval_batch_size, "image_size": options.image_size}
        if crop is not None:
            self._sizes["crop"] = crop
        # Each process encodes by itself: one may find on its disk what another must make.
        self._step = make_eval_step(options.mesh if jax.process_count() == 1 else None, options.dtype, features=True)

    def train_batches(
        self,
        sources: Sequence[Examples],
        *,
        weights: Sequence[float] | None,
        batch_size: int,
        image_size: int,
        seed: int,
        start_step: int,
        augment: bool,
        rows: slice | None = None,
        crop: float | None = None,
        view: int = 0,
        repeats: int = 1,
        end_step: int | None = None,
    ) -> Iterator[StreamBatch]:
        """Encodes the images, and returns batches as `bridgejax.data.train_batches`: rows of `table`.

        Features have one `view`, and no stage with `repeats` trains on them. No batch is asked for from `end_step` on.
        """
        sizes, own = [len(each) for each in sources], slice(None) if rows is None else rows
        positions = data.train_positions(
            sizes, weights=weights, batch_size=batch_size, seed=seed, start_step=start_step, end_step=end_step
        )
        table = self.table(sources)
        return (cast(StreamBatch, {name: part[every[own]] for name, part in table.items()}) for every in positions)

    def table(self, sources: Sequence[Examples]) -> dict[str, npt.NDArray[np.generic]]:
        """Encodes the images of all sources, one source after the other, and returns them as one batch.

        It has "teacher_logits" if the teacher takes images. Rows of zeros at its end make its length one that others share.
        """
        table: dict[str, npt.NDArray[np.generic]] = {
            "image": _stacked([self.features(each) for each in sources], np.float32),
            "label": _stacked([each.labels for each in sources], np.int32),
            "source": _stacked([np.full(len(each), number) for number, each in enumerate(sources)], np.int32),
        }
        if self._teacher is not None:
            table["teacher_logits"] = _stacked([self._soft(each, self._teacher) for each in sources], np.float32)
        return table

    def eval_batches(
        self, examples: Examples, *, batch_size: int, image_size: int, crop: float | None = None
    ) -> Iterator[StreamBatch]:
        """Yields batches as `bridgejax.data.eval_batches`."""
        features = self.features(examples)
        for start in range(0, len(examples), batch_size):
            rows = features[start : start + batch_size]
            extra = batch_size - len(rows)
            yield {
                "image": np.pad(rows, ((0, extra), (0, 0))),
                "label": np.pad(examples.labels[start : start + batch_size].astype(np.int32), (0, extra)),
                "mask": np.pad(np.ones(len(rows), np.float32), (0, extra)),
            }

    def features(self, examples: Examples) -> npt.NDArray[np.float32]:
        """Returns the features of images, float32 [n, d], encoding those that are neither in memory nor on disk."""
        return self._rows(examples, ["features", self._encoder], lambda batch: self._step(self._model, batch)["features"])

    def _soft(self, examples: Examples, teacher: Teacher) -> npt.NDArray[np.float32]:
        known = getattr(teacher, "digest", None)
        return self._rows(examples, None if known is None else ["teacher", known], teacher)

    def _rows(
        self, examples: Examples, key: list[str] | None, outputs: Callable[[StreamBatch], Array]
    ) -> npt.NDArray[np.float32]:
        """Returns each image's row of `outputs`; those under a `key` are kept."""
        reduced = [] if examples.side is None else [f"side {examples.side}"]
        key = key and [*key, str(self._options.compute_dtype), *map(str, sorted(self._sizes.items())), *reduced]
        table = {} if key is None else _table(digest(key))
        names = _digests(examples.images)
        missing = list({name: place for place, name in enumerate(names) if name not in table}.items())
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            part = examples.select(place for _, place in chunk)

            def encode(part: Examples = part) -> bytes:
                rows = [_counted(batch, outputs(batch)) for batch in self._streams.eval_batches(part, **self._sizes)]
                return np.concatenate(rows).tobytes()

            entry = None if key is None else digest([key, [name for name, _ in chunk]])
            content = encode() if entry is None else disk_cache.get_or_make("features", entry, encode)
            rows = np.frombuffer(content, np.float32).reshape(len(chunk), -1)
            table.update((name, row) for (name, _), row in zip(chunk, rows, strict=True))
        return np.stack([table[name] for name in names])


def _stacked(parts: Sequence[npt.NDArray[np.generic]], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Returns the parts' rows, and zeros up to a length that tables of similar lengths share, and so their programs."""
    count, (least, most) = sum(map(len, parts)), _LENGTHS
    unit = min(max(1 << (count - 1).bit_length(), least), most)
    rows = np.zeros((count + -count % unit, *parts[0].shape[1:]), dtype)
    np.concatenate(parts, out=rows[:count], casting="same_kind")
    return rows


def _counted(batch: StreamBatch, outputs: Array) -> npt.NDArray[np.float32]:
    return np.asarray(outputs, np.float32)[np.asarray(batch["mask"]) > 0]


def _table(key: str) -> Table:
    _tables[key] = _tables.pop(key, {})
    while len(_tables) > _TABLES:
        _tables.popitem(last=False)
    return _tables[key]


def _digests(images: Sequence[bytes]) -> tuple[str, ...]:
    """Returns the SHA-256 of each image's bytes."""
    held = _listed.pop(id(images), None) or (images, tuple(image_digest(images, k, True) for k in range(len(images))))
    _listed[id(images)] = held  # holding the images keeps their id from being used again
    while len(_listed) > _LISTED:
        _listed.popitem(last=False)
    return held[1]
