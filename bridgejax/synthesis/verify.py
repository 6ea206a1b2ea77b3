"""Every checksum of a synthetic set read, and what is damaged or missing of it named."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from bridgejax.errors import UserError
from bridgejax.files import Place, StoreObject, place
from bridgejax.identity import digest
from bridgejax.synthesis import tfds_files
from bridgejax.synthesis.store import IDENTITY_FILE, plan_of, read_json, shard_state, stored_set

_THREADS = 8


@dataclasses.dataclass(frozen=True)
class SetCheck:
    """What a look at every checksum of a synthetic set found.

    Attributes:
      directory: the set's folder.
      shards: how many it should have.
      damaged: shard → what is wrong with it.
      missing: shards that are not there.
      finished: whether the files are there by which TFDS opens it.
    """

    directory: Place
    shards: int
    damaged: Mapping[int, str]
    missing: tuple[int, ...]
    finished: bool

    @property
    def whole(self) -> bool:
        return not self.damaged and not self.missing and self.finished

    def lines(self) -> list[str]:
        """Returns what was found as a person reads it: a line per damaged shard, one for what is missing, and the sum."""
        lines = [f"shard {shard} of {self.directory} is damaged: {what}" for shard, what in self.damaged.items()]
        if self.missing:
            lines.append(f"missing of {self.directory}: shards {_ranges(self.missing)}")
        if not self.finished:
            lines.append(f"{self.directory} is not finished: it lacks {tfds_files.INFO_FILE}")
        whole = self.shards - len(self.damaged) - len(self.missing)
        return [*lines, f"{self.directory}: {whole} of {self.shards} shards are whole"]


def verify_set(directory: str | Path | StoreObject) -> SetCheck:
    """Reads every byte of a synthetic set and compares it with the checksums that were kept when it was made.

    Nothing is changed. The next `generate_set` makes anew exactly what is damaged or missing.

    Args:
      directory: its folder, finished or not, or the URL of one on an object store.

    Raises:
      UserError: the folder holds no synthetic set.
    """
    folder = place(directory)
    stored = stored_set(folder)
    if stored is None:
        raise UserError(f"{folder} holds no synthetic set (no shard beside {IDENTITY_FILE}); give the folder of one.")
    plan, identity = plan_of(stored), digest(stored["identity"])
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        states = list(pool.map(lambda shard: shard_state(folder, plan, identity, shard), range(plan.num_shards)))
    return SetCheck(
        folder,
        plan.num_shards,
        {shard: state for shard, state in enumerate(states) if state},
        tuple(shard for shard, state in enumerate(states) if state == ""),
        read_json(folder / tfds_files.INFO_FILE) is not None,
    )


def _ranges(numbers: tuple[int, ...]) -> str:
    """Returns ascending numbers as text, neighbours joined: 0–3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
