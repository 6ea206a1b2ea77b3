"""Numbers about the images of a synthetic set, kept beside them: columns that TFDS does not see and that no shard holds.

    columns/score-0123456789ab.npz   label, index and value of each image, and what made the values

A file holds as many images as the set had when it was written. Sets only grow at their end, so it stays right for these.
"""

from __future__ import annotations

import io
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bridgejax.data import Examples, synthetic_examples
from bridgejax.files import canonical_json, remove_temporary_files, write_atomic
from bridgejax.identity import digest
from bridgejax.synthesis.reader import open_set
from bridgejax.synthesis.store import writing

COLUMNS = "columns"
Values = npt.NDArray[np.float32]


def column_file(directory: Path, name: str, made_by: Mapping[str, object]) -> Path:
    """Returns where the column of this name and origin lies in a set's folder."""
    return directory / COLUMNS / f"{name}-{digest([name, made_by])[:12]}.npz"


def kept_column(
    directory: str | Path,
    name: str,
    made_by: Mapping[str, object],
    compute: Callable[[Examples], Values],
    *,
    alone: bool = True,
) -> Values:
    """Returns a column of a finished set, float32 [n] by (index, class): read from its file, or computed and written there.

    Args:
      directory: the set's folder.
      name: of the column.
      made_by: all that decides the values besides the images, as plain JSON.
      compute: images in set order → float32 [n].
      alone: whether each value depends on its image alone; then only images that the file lacks are computed.

    Raises:
      UserError: the folder holds no finished set or cannot be written, or as `compute` raises.
    """
    folder = Path(directory)
    examples = synthetic_examples(folder)
    made_by = {**made_by, "set": digest(open_set(folder, verify=False).identity)}
    file = column_file(folder, name, made_by)
    known = _read(file, made_by, examples)
    if len(known) >= len(examples):
        return known[: len(examples)]
    if not alone:
        known = known[:0]
    new = np.asarray(compute(examples.select(range(len(known), len(examples)))), np.float32)
    values = np.concatenate([known, new])
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        label=examples.labels,
        index=_indices(examples),
        value=values,
        made_by=np.asarray(canonical_json(made_by)),
    )
    with writing(folder):
        file.parent.mkdir(exist_ok=True)
    remove_temporary_files(file.parent)  # of a process that was killed
    write_atomic(file, buffer.getvalue())
    return values


def _indices(examples: Examples) -> npt.NDArray[np.int64]:
    return np.asarray([int(name.rpartition("/")[2]) for name in examples.ids], np.int64)


def _read(file: Path, made_by: Mapping[str, object], examples: Examples) -> Values:
    """Returns what a file holds for the first images; nothing where there is no file. A damaged one is named on stderr."""
    nothing = np.zeros(0, np.float32)
    if not file.exists():
        return nothing
    try:
        with np.load(file, allow_pickle=False) as stored:
            value, label, index = (stored[name] for name in ("value", "label", "index"))
            origin = str(stored["made_by"])
        count = min(len(value), len(examples))
        same = np.array_equal(label[:count], examples.labels[:count])
        if origin != canonical_json(made_by) or value.ndim != 1 or not np.isfinite(value).all():
            raise ValueError("it does not hold what its name says")
        if not same or not np.array_equal(index[:count], _indices(examples)[:count]):
            raise ValueError("it is of other images")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        print(f"{file} is damaged ({error}); computing it again", file=sys.stderr, flush=True)
        return nothing
    return value.astype(np.float32)
