"""Model folders from the hub, by name: the only place that may ask the network, and only when it is given a hub name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bridgejax.errors import UserError


def is_hub_name(name: str) -> bool:
    """Returns whether `name` has the form owner/name."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def fetch(name: str, patterns: Sequence[str]) -> Path:
    """Returns the local folder of a hub model: the cached one where there is no network.

    Args:
      name: owner/name.
      patterns: the files wanted, as shell patterns.

    Raises:
      UserError: the package is missing, or the hub could not give the model.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"there is no folder {name}, and hub names need the package huggingface_hub; install it.") from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the hub raises many kinds, for many causes; the cause is chained
        raise UserError(
            f"there is no folder {name}, and the hub could not give a model of that name ({type(error).__name__}); "
            "check the name, the network and, for gated models, your login."
        ) from error
