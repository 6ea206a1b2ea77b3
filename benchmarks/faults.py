"""Faults on purpose: kills, damage, full disks, clocks, hangs, and what is left of them after the same command again.

    python -m benchmarks faults --count 500 --seed 0 --minutes 30 --studies 12 --ray 4

`--count` is of the fast faults, in turn over their kinds (`benchmarks/fault_kinds.py`). `--studies` are whole studies in
processes whose driver or worker is killed, mostly while a checkpoint is written; `--ray` are studies on a Ray node of this
machine that is killed and replaced. Each ends by running the same command again; images and results are then compared with
those of a study that nothing happened to. The time bound is looked at between faults. Results: docs/results/faults.json and
docs/scale/faults.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.fault_kinds import KINDS, Left, Truth
from benchmarks.result_tables import table

ROOT = Path(__file__).resolve().parent.parent
JSON, PAGE = ROOT / "docs" / "results" / "faults.json", ROOT / "docs" / "scale" / "faults.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
COUNTED = ("lost", "doubled", "different", "wrong_lines", "unfound", "litter")
STUDY = (
    *("task.shots=2", "generator.steps=1", "generator.batch_size=4", "synthetic.per_class=2", "synthetic.shard_size=4"),
    *("classifier.image_size=32", "training.batch_size=8", "training.steps=6", "training.checkpoint_seconds=0"),
    *("training.evaluations=1", "arms=bridged", "study.baseline=bridged", "study.seeds=2"),
)


@dataclass
class Tally:
    """The faults of one kind."""

    faults: int = 0
    seconds: float = 0.0
    left: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    notes: list[str] = field(default_factory=list)

    def add(self, left: Left, seconds: float, where: str) -> None:
        """Counts a fault and what it left."""
        self.faults += 1
        self.seconds += seconds
        for name in COUNTED:
            self.left[name] += getattr(left, name)
        if not left.clean:
            self.notes.append(f"{where}: {left}")


def fast(count: int, seed: int, end: float, root: Path) -> dict[str, Tally]:
    """Carries out fast faults until there are `count`, or until the time is over."""
    truth = Truth.make(root)
    found = {name: Tally() for name in KINDS}
    for number, (name, kind) in enumerate(itertools.islice(itertools.cycle(KINDS.items()), count)):
        if time.monotonic() > end:
            break
        began = time.monotonic()
        folder = root / str(number)
        try:
            left = kind(truth, folder, random.Random(f"{seed}/{number}"))
        except Exception as error:  # a fault that the campaign cannot judge is a finding, not its end
            left = Left(note=f"{type(error).__name__}: {error}")
        found[name].add(left, time.monotonic() - began, f"fault {number}, seed {seed}")
        shutil.rmtree(folder, ignore_errors=True)
    return found


# -- whole studies -------------------------------------------------------------------------------------------------------------


def study(workdir: Path, *options: str) -> subprocess.Popen[bytes]:
    """Starts the small study on a workdir, in a process group of its own."""
    settings = [f"--config.{setting}" for setting in (*STUDY, *options)]
    command = [sys.executable, "-m", "bridgejax", "study", "--config", str(ROOT / "configs" / "quickstart.py"), *settings]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    return subprocess.Popen(
        [*command, "--workdir", str(workdir)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    """Waits for a study; returns what it said last if it failed, else ''."""
    _, errors = process.communicate()
    return errors.decode(errors="replace").strip()[-300:] if process.returncode else ""


def plain_results(workdir: Path) -> list[Any]:
    """Returns a study's lines without the times that things took."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if "seconds" not in key}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return [strip(json.loads(line)) for line in (workdir / "results.jsonl").read_text().splitlines()]


def judge_study(workdir: Path, truth: Path) -> Left:
    """Compares a finished study with one that nothing happened to."""
    from benchmarks.fault_kinds import images_of

    ours, theirs = images_of(workdir / "synthetic"), images_of(truth / "synthetic")
    lines, true = plain_results(workdir), plain_results(truth)
    litter = [path for path in workdir.rglob("*") if path.name.startswith((".tmp", ".lock")) or path.name == "checkpoints"]
    return Left(
        lost=sum((theirs - ours).values()),
        different=sum((ours - theirs).values()),
        wrong_lines=sum(a != b for a, b in zip(lines, true, strict=False)) + abs(len(lines) - len(true)),
        litter=len(litter),
        note=" ".join(str(path.relative_to(workdir)) for path in litter),
    )


def children_of(pid: int) -> list[int]:
    """Returns the processes that one has started and that do work."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


def killed_study(truth: Path, workdir: Path, seconds: float, draw: random.Random) -> Left:
    """Kills the driver, or a worker process, of a study at some moment; then the same command."""
    options = ("executor=processes", "executor_options.workers=1", "executor_options.tries=9")
    process = study(workdir, *options)
    time.sleep(draw.uniform(0.2, 1.0) * seconds)
    if process.poll() is None:
        victims = [process.pid] if draw.random() < 0.5 else children_of(process.pid)
        for pid in victims or [process.pid]:
            os.kill(pid, signal.SIGKILL)
    finish(process)
    note = finish(study(workdir, *options))
    left = judge_study(workdir, truth)
    left.note = " ".join(filter(None, (left.note, note)))
    return left


def lost_node(truth: Path, workdir: Path, seconds: float, draw: random.Random) -> Left:
    """Kills one of the two nodes of a Ray cluster on this machine while a study works; another comes later."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        node = cluster.add_node(num_cpus=1)
        process = study(workdir, "executor=ray", f"executor_options.address={cluster.address}", "executor_options.tries=9")
        time.sleep(draw.uniform(0.2, 1.0) * seconds)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        note = finish(process)
    finally:
        cluster.shutdown()
    left = judge_study(workdir, truth)
    left.note = " ".join(filter(None, (left.note, note)))
    return left


def slow(kinds: Sequence[tuple[str, Callable[..., Left], int]], seed: int, end: float, root: Path) -> dict[str, Tally]:
    """Carries out faults of whole studies."""
    if not any(count for _, _, count in kinds):
        return {}
    truth = root / "study"
    for _ in range(2):  # the second time with compiled programs at hand: how long a study takes
        shutil.rmtree(truth, ignore_errors=True)
        began = time.monotonic()
        if note := finish(study(truth)):
            raise RuntimeError(f"the study without faults failed: {note}")
        seconds = time.monotonic() - began
    found = {}
    for name, kind, count in kinds:
        tally = found[name] = Tally()
        for number in range(count):
            if time.monotonic() > end:
                break
            began, workdir = time.monotonic(), root / f"{name} {number}"
            try:
                left = kind(truth, workdir, seconds, random.Random(f"{seed}/{name}/{number}"))
            except Exception as error:
                left = Left(note=f"{type(error).__name__}: {error}")
            tally.add(left, time.monotonic() - began, f"{name} {number}, seed {seed}")
            print(f"{name} {number}: {left}", file=sys.stderr, flush=True)
            shutil.rmtree(workdir, ignore_errors=True)
    return {name: tally for name, tally in found.items() if tally.faults}


# -- the page ------------------------------------------------------------------------------------------------------------------


def section(run: dict[str, Any]) -> str:
    """Returns the table of a campaign, with its command and its machine."""
    heads = [
        "fault",
        "how many",
        "s each",
        "images lost",
        "doubled",
        "different",
        "wrong lines",
        "not found",
        "files left over",
    ]
    rows = [
        [name, str(each["faults"]), f"{each['seconds'] / max(1, each['faults']):.2f}", *(str(each["left"][c]) for c in COUNTED)]
        for name, each in run["kinds"].items()
    ]
    total = sum(each["faults"] for each in run["kinds"].values())
    sums = [str(sum(each["left"][c] for each in run["kinds"].values())) for c in COUNTED]
    rows.append(["**all**", f"**{total}**", "", *sums])
    notes = [f"- {note}" for each in run["kinds"].values() for note in each["notes"]]
    told = f"`{run['command']}`, {run['seconds'] / 60:.1f} minutes on {run['machine']['cpu']}, {run['machine']['cores']} cores."
    return "\n".join([told, "", *table(heads, rows), *([""] if notes else []), *notes])


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out a campaign, prints its table and keeps it; returns 1 if a fault left anything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks faults", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--count", type=int, default=500, help="fast faults; default 500")
    add("--seed", type=int, default=0, help="decides every fault; default 0")
    add("--minutes", type=float, default=60.0, help="no fault begins later; default 60")
    add("--studies", type=int, default=0, help="whole studies whose driver or worker is killed")
    add("--ray", type=int, default=0, help="whole studies on Ray that lose a node")
    add("--quick", action="store_true", help="24 fast faults; files are left as they are")
    options = parser.parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.quick:
        options.count = 24
    began = time.monotonic()
    end = began + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="faults-") as root:
        kinds = fast(options.count, options.seed, end, Path(root))
        whole = (
            ("a study's driver or worker killed", killed_study, options.studies),
            ("a Ray node killed", lost_node, options.ray),
        )
        kinds |= slow(whole, options.seed, end, Path(root))
    words = [f"--{name} {getattr(options, name)}" for name in ("count", "seed", "minutes", "studies", "ray")]
    run = {
        "command": f"python -m benchmarks faults {' '.join(words)}",
        "seconds": round(time.monotonic() - began, 1),
        "machine": {"cpu": machine.facts()["cpu"], "cores": os.cpu_count()},
        "kinds": {name: vars(tally) for name, tally in kinds.items() if tally.faults},
    }
    text = section(run)
    print(text)
    if not options.quick:
        JSON.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return int(any(tally.notes for tally in kinds.values()))
