"""Encoded images that stay on disk until they are asked for: large sets need no memory."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np
import numpy.typing as npt

from bridgejax.errors import UserError


class StoredImages(Sequence[bytes], abc.ABC):
    """The bytes of image files, each read from disk when it is asked for, on every thread that asks."""

    @abc.abstractmethod
    def read(self, position: int) -> bytes:
        """Returns one image's bytes.

        Raises:
          UserError: it is gone or cannot be read.
        """

    @abc.abstractmethod
    def select(self, positions: Iterable[int]) -> Self:
        """Returns the images at the given positions, in that order."""

    @abc.abstractmethod
    def size(self, position: int) -> int:
        """Returns how many bytes an image has."""

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> bytes | Self:
        return self.select(range(*index.indices(len(self)))) if isinstance(index, slice) else self.read(index)


class FileImages(StoredImages):
    """Files of an image each."""

    def __init__(self, paths: Iterable[Path]):
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, position: int) -> bytes:
        path = self.paths[position]
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"image {path} could not be read ({error.strerror}); put it back and start again.") from error

    def select(self, positions: Iterable[int]) -> FileImages:
        return FileImages(self.paths[position] for position in positions)

    def size(self, position: int) -> int:
        return self.paths[position].stat().st_size


class RecordImages(StoredImages):
    """Stretches of record files.

    Args:
      files: the files.
      places: int64 [n, 3]: for each image the number of its file, the first byte and the one after the last.
    """

    def __init__(self, files: Sequence[Path], places: npt.NDArray[np.int64]):
        self.files = tuple(files)
        self.places = np.asarray(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.places)

    def read(self, position: int) -> bytes:
        number, start, end = self.places[position].tolist()
        path = self.files[number]
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(start)
                data = file.read(end - start)
        except OSError as error:
            raise UserError(f"record file {path} could not be read ({error.strerror}); make it again.") from error
        if len(data) != end - start:
            raise UserError(f"record file {path} was cut short while it was in use; make it again.")
        return data

    def select(self, positions: Iterable[int]) -> RecordImages:
        return RecordImages(self.files, self.places[np.fromiter(positions, np.int64)])

    def size(self, position: int) -> int:
        return int(self.places[position, 2] - self.places[position, 1])
