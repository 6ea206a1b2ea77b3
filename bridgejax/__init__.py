"""bridgejax: better image classifiers from class names and generated images, in JAX.

Import from the rooms: `bridgejax.diffusion`, `bridgejax.synthesis`, `bridgejax.training`, `bridgejax.models`,
`bridgejax.data`, `bridgejax.evaluation`, `bridgejax.mesh`. `bridgejax.improve` does all of it in one call. The package itself
imports nothing heavy.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Imports `improve` when it is first asked for."""
    if name != "improve":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("bridgejax.improvement"), name)
