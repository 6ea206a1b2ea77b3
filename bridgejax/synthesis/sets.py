"""A finished synthetic set, read without TensorFlow."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bridgejax.data.records import decode_example, read_records
from bridgejax.errors import UserError
from bridgejax.identity import digest
from bridgejax.synthesis import tfds_files
from bridgejax.synthesis.plan import check_count
from bridgejax.synthesis.store import read_json, shard_damage, sidecar_path, stored_set


@dataclasses.dataclass(frozen=True)
class SyntheticSet:
    """Generated images with their labels, prompts and seeds.

    Iterating yields one dict per image in the order (index, class): "image" uint8 [height, width, 3], "label" int,
    "class_name", "prompt", "negative_prompt", "generator" (str), "seed", "index" (int).
    """

    directory: Path
    class_names: tuple[str, ...]
    per_class: int  # images per class that are read; the folder may hold more
    identity: Mapping[str, Any]  # what decides the pixels
    shard_files: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the pixels of this set, and how many there are."""
        return digest({"identity": self.identity, "per_class": self.per_class})

    def __len__(self) -> int:
        return len(self.class_names) * self.per_class

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.records()

    def records(self, decode: bool = True) -> Iterator[dict[str, Any]]:
        """Yields the records; with `decode=False` "image" is the PNG file's bytes.

        Raises:
          UserError: a shard is damaged.
        """
        for file in self.shard_files:
            for payload in read_records(file):
                record = _plain(decode_example(payload))
                if record["index"] < self.per_class:
                    if decode:
                        record["image"] = np.asarray(Image.open(io.BytesIO(record["image"])).convert("RGB"))
                    yield record


def _plain(features: Mapping[str, list[Any]]) -> dict[str, Any]:
    record = {}
    for name, values in features.items():
        value = values[0] if values else b""
        record[name] = value.decode() if isinstance(value, bytes) and name != "image" else value
    return record


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
    info = read_json(folder / tfds_files.INFO_FILE)
    if stored is None or info is None:
        raise UserError(f"{folder} holds no finished synthetic set; run `bridgejax generate` on it first.")
    there = stored["per_class"]
    wanted = there if per_class is None else check_count("per_class", per_class)
    if wanted > there:
        raise UserError(f"{folder} holds {there} images per class, fewer than the {wanted} asked for; generate more into it.")
    number = len(info["splits"][0]["shardLengths"])
    for shard in range(number):
        sidecar = read_json(sidecar_path(folder, shard))
        damage = f"its sidecar {shard:05d}.json is missing" if sidecar is None else None
        if verify and sidecar is not None:
            damage = shard_damage(folder, sidecar)
        if damage:
            raise UserError(f"shard {shard} of {folder} is damaged ({damage}); run `bridgejax generate` again to make it anew.")
    files = tuple(folder / tfds_files.shard_name(shard, tfds_files.TFRECORD) for shard in range(number))
    identity = json.loads(json.dumps(stored["identity"]))
    return SyntheticSet(folder, tuple(identity["class_names"]), wanted, identity, files)
