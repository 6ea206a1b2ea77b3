"""Process start-up: the compilation cache, joining other processes, and what must hold before anything random is drawn.

Several processes work on one command when each finds in its environment

    BRIDGEJAX_COORDINATOR   host:port on which process 0 listens
    BRIDGEJAX_PROCESSES     how many there are
    BRIDGEJAX_PROCESS_ID    this one's number, from 0

`launch/local.sh` sets them on one machine; any other launcher may.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from bridgejax.errors import UserError
from bridgejax.files import expanded

COORDINATOR, PROCESSES, PROCESS_ID = "BRIDGEJAX_COORDINATOR", "BRIDGEJAX_PROCESSES", "BRIDGEJAX_PROCESS_ID"


def cache_directory() -> Path | None:
    """Returns the cache folder: $BRIDGEJAX_CACHE_DIR, else the user's cache folder; None for a user without a home folder."""
    if chosen := os.environ.get("BRIDGEJAX_CACHE_DIR"):
        return expanded(chosen)
    try:
        return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bridgejax"
    except UserError:
        return None


def check_devices() -> None:
    """Makes sure that JAX finds the devices that the environment asks for.

    Raises:
      UserError: it does not; the variable is named.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # with CUDA's plugin missing, JAX fails an assertion
        reason = " ".join(str(error).partition(" (set JAX_PLATFORMS")[0].split())[:300] or "its plugin is not installed"
        named = {name: os.environ[name] for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME") if os.environ.get(name)}
        if not named:
            raise UserError(f"JAX found no usable device: {reason}.") from error
        shown = " and ".join(f"{name}={value}" for name, value in named.items())
        raise UserError(
            f"JAX found no device of {shown} ({reason}); unset it to take what there is, or install JAX for that device."
        ) from error


def start(alone: bool = False) -> None:
    """Checks the random number settings, joins the other processes, and turns on the cache folder.

    It holds JAX's compiled programs and the entries of `bridgejax.disk_cache`. If JAX has a compilation cache already, that one
    stays and the disk cache is off. With several processes only the first one fills JAX's.

    Args:
      alone: works for itself, whatever processes the environment names.

    Raises:
      UserError: noise would depend on the device count under the present settings, there is no device of the kind that the
        environment asks for, or the processes cannot be joined.
    """
    import jax

    from bridgejax import disk_cache
    from bridgejax.allocator import keep_freed_memory
    from bridgejax.jax_defaults import use_jax_defaults
    from bridgejax.mesh import check_randomness

    keep_freed_memory()  # before the threads that run programs start
    check_randomness()
    gc.freeze()  # what imports made stays: going through it again and again costs more than a small network's weights
    if alone:
        os.environ.pop(COORDINATOR, None)
    else:
        _join()
    check_devices()
    use_jax_defaults()
    cache = cache_directory()
    if jax.config.values.get("jax_compilation_cache_dir") is None and cache is not None:
        directory = cache / "xla"
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # no home to write to: everything works, only the second start is slower
        jax.config.update("jax_compilation_cache_dir", str(directory))
        disk_cache.use(cache)
        # The default thresholds skip programs that take seconds on a CPU in sum.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _join() -> None:
    """Joins the processes that the environment names, if it names any."""
    address = os.environ.get(COORDINATOR)
    if not address:
        return
    numbers = {}
    for name in (PROCESSES, PROCESS_ID):
        text = os.environ.get(name, "")
        if not text.isdecimal():
            raise UserError(f"{name} is {text!r}, but {COORDINATOR} is set; give a whole number (launch/local.sh does).")
        numbers[name] = int(text)
    if not numbers[PROCESS_ID] < numbers[PROCESSES]:
        raise UserError(f"{PROCESS_ID} is {numbers[PROCESS_ID]}; give a number below {PROCESSES}, {numbers[PROCESSES]}.")
    import jax

    from bridgejax import progress

    # It would catch SIGTERM; here a killed process may just die, since what it left half-made is made again.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(address, numbers[PROCESSES], numbers[PROCESS_ID])
        # The devices of all meet here and not at their first use, when a process that found a wrong input may be gone.
        jax.devices()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"process {numbers[PROCESS_ID]} could not join the others at {address} ({reason}).") from error
    sys.excepthook = _end_on_error
    progress.quiet = not is_first()
    # The libraries underneath announce their connections on stdout, which is the command's own.
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", buffering=1)


def is_first() -> bool:
    """Tells whether this is process 0 of the command, the one that speaks and writes what is written once."""
    return os.environ.get(PROCESS_ID, "0") in ("", "0") or not os.environ.get(COORDINATOR)


def leave_failed(code: int, message: str) -> int:
    """Prints why the command failed and returns the exit code; one process of several ends here at once.

    An ordinary exit would wait for the others, who wait for this one. All processes mostly fail alike, so the first one speaks
    before the others do, and a launcher that then ends them keeps the sentence single.
    """
    if not os.environ.get(COORDINATOR):
        print(message, file=sys.stderr)
        return code
    if not is_first():
        time.sleep(2.0)
    print(message, file=sys.stderr, flush=True)
    _exit(code)


def _end_on_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
    """Prints an error that nobody expected and ends this process at once, for the same reason as `leave_failed`."""
    with contextlib.suppress(OSError):
        sys.__excepthook__(kind, error, trace)
        sys.stderr.flush()
    _exit(1)


def _exit(code: int) -> NoReturn:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)
