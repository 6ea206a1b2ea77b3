"""A finished synthetic set, read without TensorFlow."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from bridgejax.data.records import decode_example, read_records
from bridgejax.errors import UserError
from bridgejax.identity import digest
from bridgejax.synthesis import tfds_files
from bridgejax.synthesis.plan import check_count
from bridgejax.synthesis.store import SetIdentity, read_json, read_sidecar, shard_damage, stored_set


class SyntheticRecord(TypedDict):
    """One image of a synthetic set."""

    image: npt.NDArray[np.uint8]  # [height, width, 3]
    label: int
    class_name: str
    prompt: str
    negative_prompt: str
    generator: str  # digest
    seed: int
    index: int  # its number within its class, from 0


@dataclasses.dataclass(frozen=True)
class SyntheticSet:
    """Generated images with their labels, prompts and seeds.

    Iterating yields one `SyntheticRecord` per image in the order (index, class); a damaged shard raises a `UserError`.
    """

    directory: Path
    class_names: tuple[str, ...]
    per_class: int  # images per class that are read; the folder may hold more
    identity: SetIdentity
    shard_files: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the pixels of this set, and how many there are."""
        return digest({"identity": self.identity, "per_class": self.per_class})

    def __len__(self) -> int:
        return len(self.class_names) * self.per_class

    def __iter__(self) -> Iterator[SyntheticRecord]:
        for file in self.shard_files:
            for payload in read_records(file):
                values = {name: feature[0] if feature else b"" for name, feature in decode_example(payload).items()}
                if int(values["index"]) < self.per_class:
                    image = np.asarray(Image.open(io.BytesIO(cast(bytes, values.pop("image")))).convert("RGB"))
                    plain = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
                    yield cast(SyntheticRecord, {**plain, "image": image})


def open_set(directory: str | Path, per_class: int | None = None, verify: bool = True) -> SyntheticSet:
    """Opens a finished synthetic set.

    Args:
      directory: its folder.
      per_class: read only the first so many images of each class; None reads all.
      verify: compare every shard with its checksum.

    Raises:
      UserError: the folder holds no finished set, a shard is missing or damaged, or there are fewer images per class.
    """
    folder = Path(directory)
    stored = stored_set(folder)
    if stored is None or read_json(folder / tfds_files.INFO_FILE) is None:
        raise UserError(f"{folder} holds no finished synthetic set; run `bridgejax generate` on it first.")
    there = stored["per_class"]
    wanted = there if per_class is None else check_count("per_class", per_class)
    if wanted > there:
        raise UserError(f"{folder} holds {there} images per class, fewer than the {wanted} asked for; generate more into it.")
    number = -(-len(stored["identity"]["class_names"]) * there // stored["shard_size"])
    for shard in range(number):
        sidecar = read_sidecar(folder, shard)
        damage = f"its sidecar {shard:05d}.json is missing" if sidecar is None else None
        if verify and sidecar is not None:
            damage = shard_damage(folder, sidecar)
        if damage:
            raise UserError(f"shard {shard} of {folder} is damaged ({damage}); run `bridgejax generate` again to make it anew.")
    files = tuple(folder / tfds_files.shard_name(shard, tfds_files.TFRECORD) for shard in range(number))
    identity = stored["identity"]
    return SyntheticSet(folder, tuple(identity["class_names"]), wanted, identity, files)
