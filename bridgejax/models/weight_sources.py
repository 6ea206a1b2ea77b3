"""Where weights lie: a built-in asset, a folder, a single file, or a name on the hub, for generators and classifiers alike.

Only here is the network asked, and only for a hub name that the hub's own cache does not hold.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from bridgejax.errors import UserError
from bridgejax.files import asset, check_link, expanded
from bridgejax.models.safetensors_files import PICKLES


@dataclasses.dataclass(frozen=True)
class WeightSources:
    """By what weights of one kind may be named."""

    kind: str  # such as "generator", for messages
    layout: str  # what a folder of them holds, for messages
    hub_files: tuple[str, ...]  # patterns of what is fetched from the hub
    builtin: tuple[str, ...] = ()  # names of assets
    single_file: bool = False  # whether one `.safetensors` file may hold them all

    def resolve(self, name: str | Path) -> Path:
        """Returns the folder, or the single file, of a name.

        Args:
          name: one of `builtin`, a path, or a hub name (owner/name; only as a string).

        Raises:
          UserError: there is no such thing, or the hub could not give it.
        """
        if not isinstance(name, str | Path):
            raise UserError(f"{name!r} is no {self.kind}; give the name or the folder of one as a string.")
        text = str(name)
        if text.startswith("builtin:"):
            return asset(text, self.builtin, self.kind)
        path = expanded(name)
        check_link(path)
        if path.is_dir():
            # Where a config is passed over, images differ; of weights, those that are wanted are looked at when they are read.
            for config in (config for pattern in ("*.json", "*/*.json") for config in path.glob(pattern)):
                check_link(config)
            return path
        if path.suffix in PICKLES:
            raise UserError(
                f"{path} is a pickle, which could run code and is not read; get the .safetensors file of the same model, "
                "or convert it where you trust it."
            )
        file = ["a .safetensors file"] if self.single_file else []
        if file and path.suffix == ".safetensors":
            if path.exists():
                return path
            raise UserError(f"there is no file {path}; give a .safetensors file, a folder with {self.layout} or a hub name.")
        if path.exists():
            options = " or ".join([f"a folder with {self.layout}", *file])
            raise UserError(f"{path} is a file; expected as {self.kind} {options}.")
        if isinstance(name, Path) or not is_hub_name(text):
            options = ", ".join([f"a folder with {self.layout}", *file, *map(repr, self.builtin)])
            raise UserError(f"there is no {self.kind} folder {path}; give {options} or a hub name (owner/name).")
        return fetch(text, self.hub_files)


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
