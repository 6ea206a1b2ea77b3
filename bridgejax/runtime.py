"""Process start-up: the compilation cache, and what must hold before anything random is drawn."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Returns where compiled programs are kept: $BRIDGEJAX_CACHE_DIR, else the user's cache folder."""
    if chosen := os.environ.get("BRIDGEJAX_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bridgejax"


def start() -> None:
    """Turns on the persistent compilation cache (unless JAX has one already) and checks the random number settings.

    Raises:
      UserError: noise would depend on the device count under the present settings.
    """
    import jax

    from bridgejax.mesh import check_randomness

    check_randomness()
    if jax.config.values.get("jax_compilation_cache_dir") is None:
        directory = cache_directory() / "xla"
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # no home to write to: everything works, only the second start is slower
        jax.config.update("jax_compilation_cache_dir", str(directory))
        # The default thresholds skip programs that take seconds on a CPU in sum.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
