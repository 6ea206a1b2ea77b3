"""The settings of a part, and the services it can call."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Context:
    """The settings of a part.

    Attributes:
      part: its name.
      smoke: tiny shapes, on whatever device there is.
      until: `time.time()` at which the part is ended.
      matrix_rate: measured bfloat16 matrix rate of the device in TFLOP/s, if it is known.
      folder: for files that go when the run ends.
    """

    part: str
    smoke: bool
    until: float
    matrix_rate: float | None
    folder: str

    @property
    def scratch(self) -> Path:
        """The folder as a path."""
        return Path(self.folder)

    def left(self) -> float:
        """Returns the seconds until the part is ended."""
        return self.until - time.time()

    def share(self, rate: float) -> dict[str, float]:
        """Returns the row's cells for a rate in TFLOP/s: itself, and its share of the matrix rate where that is known."""
        cells = {"TFLOP/s": rate}
        if self.matrix_rate:
            cells["of the matrix rate"] = rate / self.matrix_rate
        return cells

    def to_json(self) -> str:
        """Returns the text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Context:
        """Returns the context that `to_json` wrote."""
        return cls(**json.loads(text))
