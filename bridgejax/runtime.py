"""Process start-up: the compilation cache, joining other processes, and what must hold before anything random is drawn.

Several processes work on one command when each finds in its environment

    BRIDGEJAX_COORDINATOR   host:port on which process 0 listens
    BRIDGEJAX_PROCESSES     how many there are
    BRIDGEJAX_PROCESS_ID    this one's number, from 0

`launch/local.sh` sets them on one machine; any other launcher may. Without them JAX finds the others where SLURM, Open MPI, an
indexed job of Kubernetes or a TPU pod started several; BRIDGEJAX_PROCESSES=1 keeps a process alone there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import bridgejax
from bridgejax.errors import UserError
from bridgejax.files import expanded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

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


def start(alone: bool = False, settings: Mapping[str, object] | None = None) -> None:
    """Checks the random number settings, joins the other processes, and turns on the cache folder.

    It holds JAX's compiled programs and the entries of `bridgejax.disk_cache`. If JAX has a compilation cache already, that one
    stays and the disk cache is off. With several processes only the first one fills JAX's.

    Args:
      alone: works for itself, whatever processes the environment names.
      settings: what all processes of a command have in common, by name, of values that JSON can hold.

    Raises:
      UserError: noise would depend on the device count under the present settings, there is no device of the kind that the
        environment asks for, the processes cannot be joined, or they differ in version or settings.
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
        os.environ[PROCESSES] = "1"
        os.environ.pop(COORDINATOR, None)
    _join()
    check_devices()
    _check_alike(settings or {})
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


@dataclasses.dataclass(frozen=True)
class Place:
    """Where this process stands among those of its command."""

    launcher: str  # what started them, in words
    process: int | None  # its number, from 0; None where only the metadata of its machine tells
    processes: int | None  # how many there are; None where only JAX finds out
    coordinator: str | None = None  # host:port of process 0; None lets JAX find it


def place() -> Place | None:
    """Returns this process's place by its environment; None if it is alone.

    Raises:
      UserError: the variables of bridgejax's own are incomplete.
    """
    environment = os.environ
    if address := environment.get(COORDINATOR):
        numbers = {}
        for name in (PROCESSES, PROCESS_ID):
            text = environment.get(name, "")
            if not text.isdecimal():
                raise UserError(f"{name} is {text!r}, but {COORDINATOR} is set; give a whole number (launch/local.sh does).")
            numbers[name] = int(text)
        if not numbers[PROCESS_ID] < numbers[PROCESSES]:
            raise UserError(f"{PROCESS_ID} is {numbers[PROCESS_ID]}; give a number below {PROCESSES}, {numbers[PROCESSES]}.")
        return Place(f"{COORDINATOR}={address}", numbers[PROCESS_ID], numbers[PROCESSES], address)
    if environment.get(PROCESSES) == "1":
        return None
    # What JAX's own detection reads (docs of jax.distributed.initialize); a step of SLURM has a list of its nodes.
    for launcher, needed, count, number in (
        ("SLURM", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID"),
        ("Open MPI", "OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ):
        if needed in environment and environment.get(count, "1") != "1":
            return Place(launcher, int(environment.get(number, "0")), int(environment[count]))
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return Place("Kubernetes", int(environment["JOB_COMPLETION_INDEX"]), None)
    hosts = len(environment.get("TPU_WORKER_HOSTNAMES", "").split(","))
    if hosts > 1:
        return Place("TPU metadata", int(environment.get("TPU_WORKER_ID", "0")), hosts)
    if any(Path("/dev").glob("accel[0-9]*")) and importlib.util.find_spec("libtpu"):
        return Place("TPU metadata", None, None)
    return None


def _join() -> None:
    """Joins the other processes of the command, if there are any."""
    from bridgejax import progress

    found = place()
    if found is None:
        return
    if found.launcher == "Kubernetes" and not importlib.util.find_spec("kubernetes"):
        os.environ[PROCESSES] = "1"
        progress.stage_heading("  this pod works alone: its indexed job's others are found by the package `kubernetes`")
        return
    global _renew
    if threading.current_thread() is threading.main_thread():
        _renew = _end_on_signal()
    import jax

    # It would catch SIGTERM, which `listening` does where there is something to save.
    jax.config.update("jax_enable_preemption_service", False)
    given = () if found.coordinator is None else (found.coordinator, found.processes, found.process)
    try:
        jax.distributed.initialize(*given)
        # The devices of all meet here and not at their first use, when a process that found a wrong input may be gone.
        jax.devices()
    except (RuntimeError, ValueError, OSError) as error:
        if found.process is None and not isinstance(error, RuntimeError):
            return  # a machine with TPUs of its own, outside Google's cloud
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        where = f"at {found.coordinator}" if found.coordinator else f"of {found.launcher} ({PROCESSES}=1 keeps it alone)"
        raise UserError(f"process {found.process} could not join the others {where} ({reason}).") from error
    sys.excepthook = _end_on_error
    progress.quiet = not is_first()
    # The libraries underneath announce their connections on stdout, which is the command's own.
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", buffering=1)


def _check_alike(settings: Mapping[str, object]) -> None:
    """Compares this process's version and settings with those of process 0; every process gets the same sentence.

    Raises:
      UserError: a process has others.
    """
    import jax

    if jax.process_count() == 1:
        return
    import numpy as np

    from bridgejax.identity import digest
    from bridgejax.mesh import gathered

    def others(*values: object) -> npt.NDArray[np.int64]:
        """Returns, for each process that differs from the first, its number and the place of the first value that does."""
        own = np.array([list(bytes.fromhex(digest(value))) for value in values], np.uint8)
        differs = (every := gathered(own)) != every[:1]
        places = np.argwhere(differs.any(axis=2))
        return places[np.unique(places[:, 0], return_index=True)[1]]

    names = sorted(settings)
    for process, _ in others([bridgejax.__version__, names]):
        raise UserError(
            f"process {process} runs another version of bridgejax than process 0 (this is {bridgejax.__version__} in process "
            f"{jax.process_index()}); install one version on all machines."
        )
    for process, number in others(*(settings[name] for name in names)) if names else ():
        raise UserError(
            f"process {process} has another config.{names[number]} than process 0; start all processes with the same file and "
            "the same --config.KEY=VALUE."
        )


def is_first() -> bool:
    """Tells whether this is process 0 of the command, the one that speaks and writes what is written once."""
    return _number() == 0


def _number() -> int:
    try:
        found = place()
    except (UserError, ValueError):
        return 0
    if found is None:
        return 0
    if found.process is not None or "jax" not in sys.modules:
        return found.process or 0
    import jax

    return jax.process_index()


# -- the end -------------------------------------------------------------------------------------------------------------------

# SIGTERM is how schedulers ask a process to end, SIGUSR1 what SLURM's `--signal=USR1@SECONDS` sends before.
_ENDING = (signal.SIGTERM, signal.SIGUSR1)
_came: list[str] = []
_listens = False
_leaving: int | None = None  # the code of one process of several that is about to end


def _note(number: int, _: object) -> None:
    _came.append(signal.Signals(number).name)


def _end_on_signal() -> Callable[[], object]:
    """Has SIGTERM and SIGUSR1 end this process of several, with the exit code on which schedulers retry.

    A thread does it: Python calls no handler while joining, or a collective operation, waits for the others. What is half-made
    does not count, as after a kill. The others find this process gone where they meet next.

    Returns:
      A function that sets the wakeup descriptor again, to call after another event loop (Orbax's) has set its own.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in _ENDING:
        signal.signal(number, _note)  # without a handler of Python's the descriptor gets nothing

    def wait() -> None:
        while number := os.read(reading, 1):
            if number[0] in _ENDING and not _listens:
                if _leaving is not None:
                    _exit(_leaving)
                name = signal.Signals(number[0]).name
                leave_failed(os.EX_TEMPFAIL, f"bridgejax: ended by {name}; what is finished is kept, run the command again.")

    threading.Thread(target=wait, daemon=True).start()
    renew = functools.partial(signal.set_wakeup_fd, writing, warn_on_full_buffer=False)
    renew()
    return renew


_renew: Callable[[], object] = lambda: None  # noqa: E731


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """While the block lasts, SIGTERM and SIGUSR1 are noted for `end_asked` instead of ending the process at once.

    A signal on which the block did not end is sent again after it.
    """
    global _listens
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.signal(number, _note) for number in _ENDING} if main else {}
    _listens, late = True, []
    try:
        yield
        late = list(_came)
    finally:
        _came.clear()
        _listens = False
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if main:
            _renew()
        for name in late[:1]:
            os.kill(os.getpid(), signal.Signals[name])


def end_asked() -> str | None:
    """Returns the name of the signal that asked the process to end since it is `listening`, or None."""
    return _came[0] if _came else None


def leave_failed(code: int, message: str) -> int:
    """Prints why the command failed and returns the exit code; one process of several ends here at once.

    An ordinary exit would wait for the others, who wait for this one. All processes mostly fail alike, so the first one speaks
    before the others do, and a launcher that then ends them keeps the sentence single. A command that is to be started again
    (`os.EX_TEMPFAIL`) ended in all of them; there the first one alone speaks, and ends last, since its end aborts the others.
    """
    global _leaving
    number = _number()
    if _is_one_of_several():
        if _leaving is not None:
            threading.Event().wait()  # another thread ends the process
        _leaving = code
    if not number:
        print(message, file=sys.stderr, flush=True)
    if code == os.EX_TEMPFAIL:
        time.sleep(0 if number or not _is_one_of_several() else 2.0)
    elif number:
        time.sleep(2.0)
        print(message.replace("bridgejax:", f"bridgejax, process {number}:", 1), file=sys.stderr, flush=True)
    if _is_one_of_several():
        _exit(code)
    return code


def _is_one_of_several() -> bool:
    try:
        return place() is not None
    except UserError:
        return True


def _end_on_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
    """Prints an error that nobody expected and ends this process at once, for the same reason as `leave_failed`."""
    from bridgejax.mesh import OTHERS_GONE, lost_another

    if _leaving is not None or lost_another(error):
        leave_failed(os.EX_TEMPFAIL, f"bridgejax: {OTHERS_GONE}")
    with contextlib.suppress(OSError):
        sys.__excepthook__(kind, error, trace)
        sys.stderr.flush()
    _exit(1)


def _exit(code: int) -> NoReturn:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)
