"""Config files: running one, and what is wrong with it in one sentence."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridgejax.config.config_dict import check_config, set_value
from bridgejax.config.settings import KEYS, Settings
from bridgejax.errors import UserError, choices
from bridgejax.fields import groups_of
from bridgejax.files import check_link

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def load_config(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """Reads a config file, applies `--config.KEY=VALUE` overrides and returns the checked, locked ConfigDict.

    Args:
      spec: `FILE.py` or `FILE.py:ARG`; ARG is handed to the file's `get_config`.
      overrides: (dotted key, text) pairs; the text is read as a value of the key's type, see `bridgejax.fields.Key.read`.

    Raises:
      UserError: the file, a key or a value is wrong.
    """
    head, separator, tail = spec.partition(".py:")
    config = _call_get_config(Path(f"{head}.py" if separator else spec), tail if separator else None)
    for key, text in overrides:
        set_value(config, key, text)
    check_config(config)
    return config


def _call_get_config(path: Path, arg: str | None) -> ConfigDict:
    from ml_collections import ConfigDict

    if not path.is_file():
        check_link(path)
        raise UserError(f"config file {path} was not found; give --config FILE.py, for instance configs/quickstart.py.")
    module_spec = importlib.util.spec_from_file_location(f"bridgejax_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"config file {path} is not a Python file; its name should end in .py.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"config file {path} defines no get_config(arg=None); add it, starting from default_config().")
        config = module.get_config(arg) if arg is not None else module.get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == module_spec.origin]
        where = f", line {frames[-1].lineno}" if frames else ""
        raise UserError(f"config file {path}{where}: {_message(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"config file {path}: get_config returned {type(config).__name__}; return a ConfigDict.")
    return config


def _message(error: BaseException) -> str:
    """Returns what went wrong in a config file, in our words where the error's own are none: a wrong key or value, an exit."""
    from ml_collections import ConfigDict

    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r}); let get_config return a config, or raise an error that says what is wrong."
    if isinstance(error, AttributeError | KeyError | TypeError):
        # ConfigDict's complaint is a dump of a group's fields; the group (known by its keys) and the key are in its frames.
        names = [name.rpartition(".") for name in KEYS]
        prefixes = {frozenset(leaf for group, _, leaf in names if group == shown): f"{shown}." for shown in groups_of(Settings)}
        prefixes[frozenset(vars(Settings()))] = ""
        for frame, _ in traceback.walk_tb(error.__traceback__):
            node, values = frame.f_locals.get("self"), frame.f_locals
            leaf = values.get("key", values.get("attribute"))
            if not isinstance(node, ConfigDict) or not isinstance(leaf, str):
                continue
            name = f"{prefixes.get(frozenset(node), '')}{leaf}"
            if leaf not in node:
                return f"{name} is not a key of the config; {choices(name, (*groups_of(Settings), *KEYS))}"
            if isinstance(error, TypeError) and name in KEYS and "value" in values:
                try:
                    KEYS[name].checked(values["value"])
                except UserError as wrong:
                    return str(wrong)
    return " ".join(str(error).strip("\"'").split()) or type(error).__name__
