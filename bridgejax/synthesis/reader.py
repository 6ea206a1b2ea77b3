"""A finished synthetic set, read without TensorFlow."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from bridgejax.data.records import decode_example, read_records
from bridgejax.data.set_index import sidecar_path
from bridgejax.errors import UserError
from bridgejax.files import Place, StoreObject, local_copy, place
from bridgejax.identity import digest
from bridgejax.synthesis import tfds_files
from bridgejax.synthesis.plan import check_count
from bridgejax.synthesis.store import SetIdentity, read_json, read_sidecar, shard_damage, stored_set

_THREADS = 8


class _Described(TypedDict):
    label: int
    class_name: str
    prompt: str
    negative_prompt: str
    generator: str  # digest
    seed: int
    index: int  # its number within its class, from 0


class SyntheticRecord(_Described):
    """One image of a synthetic set."""

    image: npt.NDArray[np.uint8]  # [height, width, 3]


class StoredRecord(_Described):
    """One image of a synthetic set as its shard has it."""

    image: bytes  # a PNG


@dataclasses.dataclass(frozen=True)
class SyntheticSet:
    """Generated images with their labels, prompts and seeds.

    Iterating yields one `SyntheticRecord` per image in the order (index, class); a damaged shard raises a `UserError`.
    """

    directory: Place
    class_names: tuple[str, ...]
    per_class: int  # images per class that are read; the folder may hold more
    identity: SetIdentity
    shard_files: tuple[Place, ...]
    shard_size: int

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the pixels of this set, and how many there are."""
        return digest({"identity": self.identity, "per_class": self.per_class})

    def shard_length(self, shard: int) -> int:
        """Returns how many images are read of a shard."""
        return min(self.shard_size, len(self) - shard * self.shard_size)

    def __len__(self) -> int:
        return len(self.class_names) * self.per_class

    def __iter__(self) -> Iterator[SyntheticRecord]:
        for shard in range(len(self.shard_files)):
            for record in self.stored(shard):
                yield cast(
                    SyntheticRecord, {**record, "image": np.asarray(Image.open(io.BytesIO(record["image"])).convert("RGB"))}
                )

    def stored(self, shard: int) -> Iterator[StoredRecord]:
        """Yields the records of one shard, their images as they are stored.

        Raises:
          UserError: the shard is missing or damaged.
        """
        try:
            with local_copy(self.shard_files[shard]) as file:
                for payload in read_records(file):
                    values = {name: feature[0] if feature else b"" for name, feature in decode_example(payload).items()}
                    if int(values["index"]) < self.per_class:
                        png = values.pop("image")
                        plain = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
                        yield cast(StoredRecord, {**plain, "image": png})
        except OSError as error:
            raise UserError(
                f"{self.shard_files[shard]} could not be read ({error.strerror or error}); make it again."
            ) from error


def open_set(directory: str | Path | StoreObject, per_class: int | None = None, verify: bool = True) -> SyntheticSet:
    """Opens a finished synthetic set.

    Args:
      directory: its folder, or the URL of one on an object store.
      per_class: read only the first so many images of each class; None reads all.
      verify: compare every shard with its checksum.

    Raises:
      UserError: the folder holds no finished set, a shard is missing or damaged, or there are fewer images per class.
    """
    folder = place(directory)
    stored = stored_set(folder)
    if stored is None or read_json(folder / tfds_files.INFO_FILE) is None:
        raise UserError(f"{folder} holds no finished synthetic set; run `bridgejax generate` on it first.")
    there = stored["per_class"]
    wanted = there if per_class is None else check_count("per_class", per_class)
    if wanted > there:
        raise UserError(f"{folder} holds {there} images per class, fewer than the {wanted} asked for; generate more into it.")
    number = -(-len(stored["identity"]["class_names"]) * wanted // stored["shard_size"])

    def damage_of(shard: int) -> str | None:
        if not verify:
            return None if sidecar_path(folder, shard).exists() else f"its sidecar {shard:05d}.json is missing"
        sidecar = read_sidecar(folder, shard)
        return f"its sidecar {shard:05d}.json is missing" if sidecar is None else shard_damage(folder, sidecar)

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for shard, damage in enumerate(pool.map(damage_of, range(number))):
            if damage:
                raise UserError(
                    f"shard {shard} of {folder} is damaged ({damage}); run `bridgejax generate` again to make it anew."
                )
    files = tuple(folder / tfds_files.shard_name(shard, tfds_files.TFRECORD) for shard in range(number))
    identity = stored["identity"]
    return SyntheticSet(folder, tuple(identity["class_names"]), wanted, identity, files, stored["shard_size"])
