"""Faults of one machine, each on a small set or study of its own: what goes wrong, the repair, and what is left of it.

A worker is a child of a server process that has imported everything and run nothing (the start method "forkserver"), so that
it starts in milliseconds and whatever its caller has done. The generator, of 8×8 pixels, and the seeds are stand-ins without
JAX; everything that touches the disk is bridgejax's own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from bridgejax.data.records import decode_example, read_records
from bridgejax.errors import TryAgain, UserError
from bridgejax.files import write_json
from bridgejax.identity import fold_word
from bridgejax.studies.run_results import RESULT_FILE, RESULTS_FILE, read_results, read_run_record, write_results
from bridgejax.synthesis import generate_set, open_set
from bridgejax.synthesis import plan as set_plan

CLASSES, PER_CLASS, SHARD_SIZE = ("red", "green"), 8, 2
SHARDS = len(CLASSES) * PER_CLASS // SHARD_SIZE
RUNS = 5
LIMIT = 60.0  # seconds that a worker may take
_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"})  # audit events that a fault may hit
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])
# What a worker would import late, so that faults hit the files of sets alone.
Image.preinit()
with contextlib.suppress(ImportError):
    importlib.import_module("array_record.python.array_record_module")


class NullGenerator:
    """Makes pixels of prompt and seed alone, at once."""

    digest = "0" * 64
    default_height = default_width = 8
    dtype = "float32"

    def __call__(self, prompts: Sequence[str], *, seeds: Sequence[int], **_: object) -> np.ndarray:
        """Returns float32 [n, 8, 8, 3] in [0, 1]."""
        words = (hashlib.sha256(f"{prompt}/{seed}".encode()).digest() for prompt, seed in zip(prompts, seeds, strict=True))
        return np.stack([np.frombuffer(word * 6, np.uint8).reshape(8, 8, 3) / np.float32(255) for word in words])


@dataclass
class Ended:
    """How a worker ended: its exit code (negative: the signal), what it returned, what it printed."""

    code: int
    value: Any
    printed: str


@dataclass
class Left:
    """What a fault left after the repair.

    Attributes:
      lost, doubled, different: images.
      wrong_lines: lines of results.jsonl that are missing, doubled, torn or different.
      unfound: damages that no check noticed.
      litter: files that should not be there.
      note: what else was wrong.
    """

    lost: int = 0
    doubled: int = 0
    different: int = 0
    wrong_lines: int = 0
    unfound: int = 0
    litter: int = 0
    note: str = ""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not any((self.lost, self.doubled, self.different, self.wrong_lines, self.unfound, self.litter, self.note))


def _class_keys(_: int, class_names: Sequence[str]) -> np.ndarray:
    """Stands in for `bridgejax.identity.class_keys`, whose compilation would take longer than all else in a worker."""
    return np.array([fold_word(name) for name in class_names], np.int64)


def _seeds_of(keys: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Stands in for `bridgejax.identity.seeds_of`."""
    return keys << 16 | indices


def start(work: Callable[[], Any], at: int = 0, signal_sent: int = signal.SIGKILL, files: int | None = None) -> Worker:
    """Starts `work` in a worker.

    Args:
      work: what it does; a function of a module, with its arguments.
      at: the file operation before which it gets `signal_sent`; 0 for none.
      signal_sent: SIGKILL or SIGSTOP.
      files: the greatest size of a file that it may write, in bytes.
    """
    reading, writing = _SERVER.Pipe(duplex=False)
    process = _SERVER.Process(target=_serve, args=(writing, work, at, signal_sent, files), daemon=True)
    process.start()
    writing.close()
    return Worker(process, reading)


def _serve(
    writing: multiprocessing.connection.Connection, work: Callable[[], Any], at: int, signal_sent: int, files: int | None
) -> None:
    """What a worker does, which ends here."""
    printed = io.StringIO()
    code, value = 0, None
    try:
        sys.stdout = sys.stderr = printed
        set_plan.class_keys, set_plan.seeds_of = _class_keys, _seeds_of
        jax.process_index, jax.process_count = lambda: 0, lambda: 1  # without starting a backend
        tqdm.set_lock(threading.RLock())  # its own would be left over as a semaphore
        if files is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))
        if at:
            _strike(at, signal_sent)
        value = work()
    except TryAgain as error:
        code, value = os.EX_TEMPFAIL, str(error)
    except UserError as error:
        code, value = 2, str(error)
    except BaseException as error:
        code, value = 1, f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        writing.send((value, printed.getvalue()))
    os._exit(code)


def _strike(at: int, signal_sent: int) -> None:
    """Sends a signal to this process before its `at`-th file operation: opening, renaming, removing, syncing."""
    count = 0

    def look(*_: object) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal_sent)

    sync = os.fsync

    def fsync(descriptor: int) -> None:
        look()
        sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(lambda event, _: look() if event in _EVENTS else None)


@dataclass
class Worker:
    """A process that works, and the pipe on which it tells what came of it."""

    process: ForkServerProcess
    reading: multiprocessing.connection.Connection

    def wait(self, stopped: bool = False) -> Ended:
        """Returns how it ended, or with `stopped` that it is stopped; it is killed after `LIMIT` seconds."""
        end = time.monotonic() + LIMIT
        while not self.reading.poll(0.005 if stopped else 1.0):  # also where it is gone and its end is closed
            if stopped and self._is_stopped():
                return Ended(0, None, "stopped")
            if time.monotonic() > end:
                self.process.kill()
        try:
            value, printed = self.reading.recv()
        except (EOFError, OSError):
            value, printed = None, ""
        self.reading.close()
        self.process.join()
        return Ended(self.process.exitcode or 0, value, printed)

    def _is_stopped(self) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False


def call(work: Callable[[], Any], **faults: Any) -> Ended:
    """Does `work` in a worker; arguments as of `start`."""
    return start(work, **faults).wait()


# -- sets ----------------------------------------------------------------------------------------------------------------------


def make(folder: Path, shards: Sequence[int] | None = None, per_class: int = PER_CLASS) -> int:
    """Makes a set, or some of its shards as a worker does; returns how many images that were."""
    return generate_set(
        folder,
        pipeline=NullGenerator(),
        class_names=CLASSES,
        per_class=per_class,
        batch_size=SHARD_SIZE,
        shard_size=SHARD_SIZE,
        steps=1,
        guidance_scale=1.0,
        shards=shards,
    ).images_made


def read(folder: Path) -> int:
    """Returns how many images a set holds, once all of them were read."""
    return len(list(open_set(folder)))


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns what a folder holds."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def images_of(folder: Path) -> Counter[tuple[int, int, bytes]]:
    """Returns how often each (label, index, PNG) is in a set."""
    found: Counter[tuple[int, int, bytes]] = Counter()
    for file in sorted(folder.glob("*tfrecord*")):
        for payload in read_records(file):
            record = decode_example(payload)
            found[int(record["label"][0]), int(record["index"][0]), bytes(record["image"][0])] += 1
    return found


@dataclass(frozen=True)
class Truth:
    """A set, and the lines of a study, that nothing went wrong with."""

    folder: Path
    files: dict[str, bytes]
    operations: int  # file operations of making the set
    records: tuple[dict[str, Any], ...]
    line_operations: int

    @classmethod
    def make(cls, root: Path) -> Truth:
        """Makes it below `root`."""
        ended = call(partial(make, root / "truth"))
        if ended.code:
            raise UserError(f"the set without faults failed: {ended.value}")
        records = tuple(
            {
                "arm": "bridged",
                "seed": k,
                "shots": 2,
                "volume": 8,
                "test_accuracy": k / 9,
                "test_mean_per_class_accuracy": k / 7,
            }
            for k in range(RUNS)
        )
        truth = cls(root / "truth", files_of(root / "truth"), 0, records, 0)
        of_set = call(partial(_count, make, root / "a")).value
        of_lines = call(partial(_count, write_study, root / "b", truth)).value
        return cls(truth.folder, truth.files, of_set, records, of_lines)

    def judge(self, folder: Path) -> Left:
        """Returns what is wrong with a set after its repair."""
        found = files_of(folder)
        if found == self.files:
            return Left()
        try:
            images = images_of(folder)
        except UserError as error:
            return Left(note=str(error))
        true = images_of(self.folder)
        keys, true_keys = (Counter(key[:2] for key in each.elements()) for each in (images, true))
        return Left(
            lost=sum((true_keys - keys).values()),
            doubled=sum((keys - true_keys).values()),
            different=sum(1 for key in images if key[:2] in true_keys and key not in true),
            litter=len(set(found) - set(self.files)),
            note="" if images != true else f"files differ: {sorted(k for k in found if found[k] != self.files.get(k))[:3]}",
        )


def _count(work: Callable[..., Any], *arguments: Any) -> int:
    """Returns how many file operations `work` takes."""
    count = 0

    def look(event: str, _: object) -> None:
        nonlocal count
        count += event in _EVENTS

    sys.addaudithook(look)
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        sync(descriptor)

    os.fsync = fsync
    work(*arguments)
    return count


def _repaired(truth: Truth, folder: Path) -> Left:
    """Runs the command again, as a person would, and judges what it leaves."""
    ended = call(partial(make, folder))
    left = truth.judge(folder)
    if ended.code:
        left.note = f"the repair ended with {ended.code}: {ended.value}"
    return left


def _moment(draw: random.Random, operations: int) -> int:
    return draw.randint(1, operations)


def killed_driver(truth: Truth, folder: Path, draw: random.Random) -> Left:
    """SIGKILL of the process that makes the whole set."""
    call(partial(make, folder), at=_moment(draw, truth.operations))
    return _repaired(truth, folder)


def killed_worker(truth: Truth, folder: Path, draw: random.Random) -> Left:
    """SIGKILL of a worker among others, whose shards a new one makes."""
    order = draw.sample(range(SHARDS), SHARDS)
    workers = [start(partial(make, folder, order[k::2]), at=_moment(draw, truth.operations // 2) * (k == 0)) for k in range(2)]
    for worker in workers:
        worker.wait()
    call(partial(make, folder, order[0::2]))
    return _repaired(truth, folder)


def two_workers(truth: Truth, folder: Path, draw: random.Random) -> Left:
    """Two workers on the same shards at once, both to the end or one killed."""
    shards = draw.sample(range(SHARDS), draw.randint(1, SHARDS))
    at = _moment(draw, truth.operations // 2) * draw.randint(0, 1)
    ends = [worker.wait() for worker in [start(partial(make, folder, shards), at=at if k else 0) for k in range(2)]]
    left = _repaired(truth, folder)
    if ends[0].code not in (0, os.EX_TEMPFAIL):
        left.note = f"the worker beside another ended with {ends[0].code}: {ends[0].value}"
    return left


def hanging_worker(truth: Truth, folder: Path, draw: random.Random) -> Left:
    """A worker that hangs (SIGSTOP) while others finish the set, and wakes up afterwards."""
    hanging = start(partial(make, folder, range(SHARDS)), at=_moment(draw, truth.operations), signal_sent=signal.SIGSTOP)
    stopped = hanging.wait(stopped=True).printed == "stopped"
    left = _repaired(truth, folder)
    if stopped:
        os.kill(hanging.process.pid or 0, signal.SIGCONT)
        hanging.wait()
        late = truth.judge(folder)
        left = late if left.clean else left
    return left


def damaged_shard(truth: Truth, folder: Path, draw: random.Random) -> Left:
    """A file of a finished set cut short, with a bit flipped, gone, or in place of another."""
    shutil.copytree(truth.folder, folder)
    victim = folder / draw.choice([name for name in truth.files if "tfrecord-" in name or "sidecars/" in name])
    data = bytearray(victim.read_bytes())
    harm = draw.choice(("cut", "flip", "gone", "other"))
    if harm == "cut":
        victim.write_bytes(data[: draw.randrange(len(data))])
    elif harm == "flip":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        victim.write_bytes(data)
    elif harm == "gone":
        victim.unlink()
    else:
        others = [path for path in victim.parent.iterdir() if path.suffix[:5] == victim.suffix[:5] and path != victim]
        victim.write_bytes(draw.choice(others).read_bytes())
    found = call(partial(read, folder))  # what training does first
    left = _repaired(truth, folder)
    # A flipped space of a sidecar, which is JSON, changes nothing that it says.
    if found.code == 0 and "sidecars" not in str(victim):
        left.unfound = 1
    return left


def full_disk(truth: Truth, folder: Path, draw: random.Random) -> Left:
    """No space: files end at a size, or the disk refuses to keep what was written."""
    if draw.random() < 0.5:
        ended = call(partial(make, folder), files=draw.randint(0, 3000))
    else:
        number = draw.randint(1, 3 * SHARDS)
        ended = call(partial(_refusing, folder, number))
    left = _repaired(truth, folder)
    if ended.code not in (0, 2, os.EX_TEMPFAIL):
        left.note = f"no sentence, but exit code {ended.code}: {ended.value}"
    return left


def _refusing(folder: Path, number: int) -> int:
    """Makes a set, with the `number`-th fsync refused."""
    sync, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    os.fsync = fsync
    return make(folder)


def clock_jump(truth: Truth, folder: Path, draw: random.Random) -> Left:
    """The clock jumps by up to ten years while half of the set is made; files of before are of the future, or of long ago."""
    call(partial(_jumping, folder, draw.uniform(-3e8, 3e8)))
    for path in folder.rglob("*"):
        stamp = max(0.0, time.time() + draw.uniform(-3e8, 3e8))
        os.utime(path, (stamp, stamp))
    ended = call(partial(make, folder))
    left = truth.judge(folder)
    if ended.value != len(CLASSES) * PER_CLASS // 2:
        left.note = f"{ended.value} images were made again instead of the missing half"
    return left


def _jumping(folder: Path, jump: float) -> int:
    now = time.time
    time.time = lambda: now() + jump
    return make(folder, range(0, SHARDS, 2))


# -- results -------------------------------------------------------------------------------------------------------------------


def write_study(workdir: Path, truth: Truth, numbers: Sequence[int] = range(RUNS)) -> None:
    """Writes the records of runs that have none, and gathers all into results.jsonl, as workers and the command do."""
    for number in numbers:
        folder = workdir / "runs" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        if not read_run_record(folder, "identity"):
            write_json(folder / RESULT_FILE, {"identity": "identity", "result": truth.records[number]})
    records = [read_run_record(workdir / "runs" / str(number), "identity").get("result") for number in range(RUNS)]
    write_results(workdir, [record for record in records if isinstance(record, dict)])


def results_files(truth: Truth, folder: Path, draw: random.Random) -> Left:
    """Records and results.jsonl: a writer killed, two at once, or a file torn; then the command again."""
    harm = draw.choice(("killed", "two", "torn"))
    numbers = draw.sample(range(RUNS), RUNS)
    at = _moment(draw, truth.line_operations)
    workers = [
        start(partial(write_study, folder, truth, numbers), at=at if harm == "killed" or k else 0)
        for k in range(1 if harm != "two" else 2)
    ]
    for worker in workers:
        worker.wait()
    if harm == "torn":
        victims = [path for path in folder.rglob("*") if path.is_file()]
        victim = draw.choice(victims) if victims else folder / RESULTS_FILE
        data = victim.read_bytes() if victim.is_file() else b"{"
        victim.write_bytes(data[: draw.randrange(len(data))])
    ended = call(partial(write_study, folder, truth))
    left = Left(note=f"{ended.value}" if ended.code else "")
    lines = [json.loads(line) for line in (folder / RESULTS_FILE).read_text().splitlines()]
    left.wrong_lines = sum(a != b for a, b in zip(lines, truth.records, strict=False)) + abs(len(lines) - RUNS)
    left.wrong_lines += len(read_results(folder)) != RUNS
    return left


KINDS: dict[str, Callable[[Truth, Path, random.Random], Left]] = {
    "worker killed": killed_worker,
    "driver killed": killed_driver,
    "two workers on one shard": two_workers,
    "worker hangs and wakes up": hanging_worker,
    "shard cut, flipped, gone or swapped": damaged_shard,
    "disk full": full_disk,
    "clock jumps": clock_jump,
    "results torn, killed or written twice": results_files,
}
