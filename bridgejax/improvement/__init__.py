"""One call from a folder of photographs to a better classifier: what `bridgejax.improve` does."""

from __future__ import annotations

from bridgejax.improvement.one_call import improve
from bridgejax.improvement.outcome import Improved

__all__ = ["Improved", "improve"]
