"""What a person sees while work goes on: one line per stage, bars with rate and time left, and a page in the workdir.

    with shown_in(workdir):                        # progress.html, and at the end a line on where the time went
        with progress(300, "generate", "img") as bar:
            with spent("store"): …                 # time that is held but makes nothing
            bar.update(32)

Time inside a bar is productive, apart from what `spent` and the compiler take of it. Every process that works in the folder
tells how far it is in a file of its own, and the first one makes the page of them, every few seconds and at each bar's end.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bridgejax.files import TEMPORARY_PREFIX, write_atomic
from bridgejax.progress_page import PAGE_FILE, Now, ProcessState, document, share
from bridgejax.workdir import LOCK_FILE

quiet = False  # in all processes of a command but the first
COMPILE, WAIT = "compile", "wait"
# By a bar's first word, whose account its time goes to; all others train. Who hands out shards and runs waits for others.
_ACCOUNTS = {word: word for word in ("generate", "invert", "encode", "sentences", "export", "merge")} | {
    "shard": WAIT,
    "run": WAIT,
}
_SECONDS_BETWEEN = 5.0  # two writes
_BEGAN = time.monotonic()
_FILE = f"{TEMPORARY_PREFIX}progress-"


class _Clock:
    """Where a process's time goes: each moment counts as what was entered last and not left yet."""

    def __init__(self, began: float) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._entered = ["start"]
        self._since = began
        self._lock = threading.Lock()

    def _charge(self) -> None:
        now = time.monotonic()
        self.seconds[self._entered[-1]] += now - self._since
        self._since = now

    def enter(self, kind: str) -> None:
        with self._lock:
            self._charge()
            self._entered[0] = "other"  # the start is over with the first thing that is done
            self._entered.append(kind)

    def leave(self, kind: str) -> None:
        with self._lock:
            self._charge()
            # Runs take turns inside their bars, so that what is left need not be what was entered last.
            del self._entered[len(self._entered) - 1 - self._entered[::-1].index(kind)]

    def read(self) -> dict[str, float]:
        with self._lock:
            self._charge()
            return {kind: round(seconds, 3) for kind, seconds in self.seconds.items()}

    def compiled(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Takes what JAX's compiler took out of the present account; a listener of `jax.monitoring`."""
        if event == "/jax/core/compile/backend_compile_duration":
            with self._lock:
                self._charge()
                taken = min(duration_secs, self.seconds[self._entered[-1]])
                self.seconds[self._entered[-1]] -= taken
                self.seconds[COMPILE] += taken


class _Bar:
    """A piece of work of known length: a tqdm bar on a terminal, a row of the page."""

    def __init__(self, bar: Any, what: str, unit: str, total: int, first: int, shards: tuple[int, int] | None) -> None:
        self._bar, self._what, self._unit, self._total, self._first, self._shards = bar, what, unit, total, first, shards
        self._done, self._began, self._retried, self.failed = first, time.monotonic(), 0, False
        self.kind = _ACCOUNTS.get(what.partition(" ")[0], "train")

    def __enter__(self) -> _Bar:
        if _log is not None:
            _log.clock.enter(self.kind)
            _log.bars[:] = [*(bar for bar in _log.bars if not bar.failed), self]
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._bar.close()
        if _log is not None and self in _log.bars:
            _log.clock.leave(self.kind)
            self.failed = error is not None and not isinstance(error, GeneratorExit)
            if not self.failed:
                _log.bars.remove(self)
            _log.write()

    def update(self, count: int = 1) -> None:
        self._done += count
        self._bar.update(count)
        if _log is not None:
            _log.worked = True
            if self.kind != WAIT:
                _log.made[self.kind] += count

    def shard_done(self) -> None:
        if self._shards is not None:
            self._shards = (self._shards[0], self._shards[1] + 1)

    def tried_again(self) -> None:
        """Counts a unit that failed and is given out once more."""
        self._retried += 1

    def set_postfix(self, **values: object) -> None:
        self._bar.set_postfix(**values)

    def state(self) -> Now:
        rate = (self._done - self._first) / max(1e-9, time.monotonic() - self._began)
        shards = None if self._shards is None else list(self._shards)
        return Now(
            what=self._what,
            unit=self._unit,
            done=self._done,
            total=self._total,
            rate=rate,
            failed=self.failed,
            retried=self._retried,
            shards=shards,
        )


class _Log:
    """What this process did for a workdir."""

    def __init__(self, workdir: Path, first: bool) -> None:
        self.workdir, self.first = workdir, first
        self.clock = _Clock(_BEGAN)
        self.bars: list[_Bar] = []
        self.made: collections.Counter[str] = collections.Counter()
        self.worked = False
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._go_on, daemon=True)
        self._writer.start()

    def _go_on(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN):
            self.write()

    def state(self, stopped: str | None = None) -> ProcessState:
        seconds = self.clock.read()
        return ProcessState(
            process=self._name,
            updated=time.time(),
            seconds=seconds,
            productive=sum(seconds.get(kind, 0.0) for kind in self.made),
            made=dict(self.made),
            now=self.bars[-1].state() if self.bars else None,
            stopped=stopped,
        )

    def write(self, ended: bool = False, stopped: str | None = None) -> None:
        """Writes the page or this process's file, if it made anything; what keeps it from that is not worth a failure."""
        if not self.worked:
            return
        # A dictionary may grow while the other thread reads it: the next time is soon enough.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if self.first:
                states = [self.state(stopped), *self._others()]
                write_atomic(self.workdir / PAGE_FILE, document(states, ended))
            elif (lock := self.workdir / LOCK_FILE).exists():  # else nobody makes a page of it
                file = self.workdir / f"{_FILE}{self._name}.json"
                write_atomic(file, json.dumps(self.state(stopped)))
                if not lock.exists():  # the first process has left, and removed such files before this one was there
                    file.unlink(missing_ok=True)

    def _others(self) -> Iterator[ProcessState]:
        for file in sorted(self.workdir.glob(f"{_FILE}*.json")):
            with contextlib.suppress(OSError, ValueError):
                yield json.loads(file.read_text(encoding="utf-8"))

    def end(self, stopped: str | None) -> None:
        """Writes for the last time; the first process removes what the others left."""
        self._ended.set()
        self._writer.join(timeout=60)
        # Another process has left its file before the first one ended its wait for it; after that it only tells a failure.
        if self.first or stopped is not None:
            self.write(ended=True, stopped=stopped)
        if not self.first:
            return
        for file in self.workdir.glob(f"*{_FILE}*"):  # and what a write of one that was killed left
            file.unlink(missing_ok=True)


_log: _Log | None = None


@contextlib.contextmanager
def shown_in(workdir: Path, first: bool = True) -> Iterator[None]:
    """Shows the work that is done inside in the workdir's progress.html, while it goes on and after; none if nothing is made.

    Args:
      workdir: the folder; whoever opens it does so inside, so that its lock is gone when the others' files are removed.
      first: whether this process makes the page; others leave a file for it.
    """
    global _log
    if _log is not None:  # one command, one page
        yield
        return
    import jax

    log = tell_in(workdir, first)
    stopped = None
    try:
        yield
    except BaseException as error:
        stopped = " ".join(str(error).split()) or type(error).__name__
        raise
    finally:
        _log = None
        with contextlib.suppress(ValueError, AssertionError):  # another part of the program took the listeners away
            jax.monitoring.unregister_event_duration_listener(log.clock.compiled)
        log.end(stopped)
        if log.made and stopped is None:
            stage_heading(where_time_went(log.state()))


def tell_in(workdir: Path, first: bool = False) -> _Log:
    """Tells the page of a workdir what this process does from now on, until it ends: for workers of another process."""
    global _log
    if _log is None or _log.workdir != workdir:
        import jax

        if _log is not None:
            _log.end(None)
        _log = _Log(workdir, first)
        jax.monitoring.register_event_duration_secs_listener(_log.clock.compiled)
    return _log


@contextlib.contextmanager
def spent(kind: str) -> Iterator[None]:
    """Counts the time inside as spent on something else than what the bar around it makes, such as "store" or "wait"."""
    log = _log
    if log is not None:
        log.clock.enter(kind)
    try:
        yield
    finally:
        if log is not None:
            log.clock.leave(kind)


def where_time_went(state: ProcessState) -> str:
    """Returns a line such as "83 % of 120 s went into work (generate 70 %, train 13 %); start 9 %, compile 8 %"."""
    held = sum(state["seconds"].values())

    def parts(of: Mapping[str, float]) -> str:
        rows = sorted(of.items(), key=lambda row: -row[1])
        return ", ".join(f"{kind} {share(seconds, held)}" for kind, seconds in rows if seconds >= 0.005 * held)

    work = {kind: seconds for kind, seconds in state["seconds"].items() if kind in state["made"]}
    rest = {kind: seconds for kind, seconds in state["seconds"].items() if kind not in state["made"]}
    return f"{share(sum(work.values()), held)} of {held:.0f} s went into work ({parts(work)}); {parts(rest)}"


def stage_heading(text: str) -> None:
    """Prints a one-line heading on stderr."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def progress(total: int, description: str, unit: str, initial: int = 0, shards: tuple[int, int] | None = None) -> _Bar:
    """Returns a bar with rate and time left: on a terminal by tqdm, and on the page of the workdir if there is one.

    Use it as a context manager and call `.update(n)`.

    Args:
      total: how much there is to do.
      description: what; its first word says for which account, else it is "train".
      unit: of what.
      initial: how much was there before.
      shards: how many shards the work consists of and how many were there; `.shard_done()` counts on.
    """
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        leave=False,
        dynamic_ncols=True,
        disable=quiet or sys.stderr is None or not sys.stderr.isatty(),
        file=sys.stderr,
    )
    return _Bar(bar, description, unit, total, initial, shards)
