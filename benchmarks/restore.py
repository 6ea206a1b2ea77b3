"""Restoring the training state of a ViT-B/16 with AdamW onto another mesh, fewer devices included.

    python -m benchmarks restore [--network vit_b16] [--repeats 3] [--quick]

One process saves the state split over eight virtual devices. Others, with as many devices as they use, restore it: the time is
from opening the folder of checkpoints to the last array in its place, which a restart takes beside loading the network. Pages
of the files are dropped from memory before, as after a change of machine. Keeps docs/results/restore.json and .md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import facts, measured
from benchmarks.networks import NETWORKS, write_config
from benchmarks.paired import Spread
from benchmarks.result_tables import table

if TYPE_CHECKING:
    from bridgejax.training import TrainState

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "restore"
SAVED_ON = "fsdp=8"
RESTORED_ON = ("fsdp=8", "fsdp=4", "data=2,fsdp=2", "data=2", "data=1")
LIMIT = 60.0


def work(part: str, axes: str, network: str, folder: Path) -> dict[str, Any]:
    """Saves a state, or restores it, on a mesh of all devices; returns what was measured."""
    import jax

    from bridgejax import runtime
    from bridgejax.mesh import bytes_per_device, make_mesh
    from bridgejax.models import load_classifier
    from bridgejax.training import TrainState, make_optimizer
    from bridgejax.training.checkpoints import Checkpoints

    runtime.start(alone=True)
    mesh = make_mesh([(name, int(size)) for name, _, size in (axis.partition("=") for axis in axes.split(","))])
    write_config(network, 224, folder / "network")
    state = TrainState.create(load_classifier(folder / "network", pretrained=False), make_optimizer("adamw", 1e-3), mesh=mesh)
    if part == "save":  # numbers as after steps: other than the restoring process begins with, and none that compress well
        state = dataclasses.replace(state, **_noisy({"params": state.params, "opt_state": state.opt_state}))
    jax.block_until_ready((state.params, state.opt_state))
    told = {"bytes": bytes_per_device((state.params, state.other, state.opt_state)), "sums": _sums(state)}
    files = [path for path in (folder / "checkpoints").rglob("*") if path.is_file()]
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    checkpoints = Checkpoints(folder / "checkpoints")
    if part == "save":
        checkpoints.save(1, state, {})
        copied = time.perf_counter() - began
        checkpoints.close()
        os.sync()
        return {**told, "copied": copied, "seconds": time.perf_counter() - began}
    restored = checkpoints.restore(1, state)
    jax.block_until_ready((restored.params, restored.opt_state))
    seconds = time.perf_counter() - began
    checkpoints.close()
    return {**told, "sums": _sums(restored), "seconds": seconds, "disk_bytes": sum(file.stat().st_size for file in files)}


def _noisy(tree: Any) -> Any:
    import jax

    def add(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: x + jax.random.uniform(jax.random.key(x.size), x.shape, x.dtype) if x.dtype == "float32" else x, tree
        )

    return jax.jit(add, out_shardings=jax.tree.map(lambda x: x.sharding, tree))(tree)


def _sums(state: TrainState) -> list[float]:
    import jax

    return [float(jax.numpy.abs(leaf).sum()) for leaf in jax.tree.leaves((state.params, state.opt_state))]


def measure(part: str, axes: str, network: str, folder: Path) -> dict[str, Any]:
    """Does `work` in a process with as many virtual devices as the axes need."""
    devices = 1
    for axis in axes.split(","):
        devices *= int(axis.partition("=")[2])
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "benchmarks.restore", "--part", part, "--axes", axes, "--network", network]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [*command, "--folder", str(folder)], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def page(run: dict[str, Any]) -> str:
    """Returns a run in Markdown."""
    saved = run["saved"]
    rows = [
        [axes.replace("=", " ").replace(",", ", "), f"{row['bytes'] / 2**20:.0f}", Spread(**row["seconds"]).shown()]
        for axes, row in run["restored"].items()
    ]
    text = [
        "# Restoring a training state onto another mesh\n",
        measured(run),
        f"{NETWORKS[run['network']].title} with AdamW, {run['disk_bytes'] / 2**20:.0f} MiB on disk, saved on {SAVED_ON} in "
        f"{saved['seconds']:.1f} s, of which training waits {saved['copied']:.1f} s. Seconds are medians with the least and "
        f"the greatest of {run['repeats']}; at most {LIMIT:g}.\n",
        *table(["restored on", "MiB a device", "seconds"], rows),
    ]
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and keeps; returns 1 where a restore takes longer than it may or gives other numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks restore", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--network", choices=tuple(NETWORKS), default="vit_b16", help="default vit_b16")
    add("--repeats", type=int, default=3, help="restores of each kind; default 3")
    add("--quick", action="store_true", help="a ResNet-18, onto two devices, once; the results are left as they are")
    add("--part", choices=("save", "restore"), help=argparse.SUPPRESS)
    add("--axes", help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        print(json.dumps(work(options.part, options.axes, options.network, options.folder)))
        return 0
    meshes = RESTORED_ON
    if options.quick:
        options.network, options.repeats, meshes = "resnet18", 1, ("data=2",)
    load, restored, same = [os.getloadavg()[0]], {}, True
    with tempfile.TemporaryDirectory(prefix="restore-") as folder:
        saved = measure("save", SAVED_ON, options.network, Path(folder))
        for axes in meshes:
            times = [measure("restore", axes, options.network, Path(folder)) for _ in range(options.repeats)]
            same &= all(abs(a - b) <= 1e-4 * abs(b) for each in times for a, b in zip(each["sums"], saved["sums"], strict=True))
            spread = vars(Spread.of([each["seconds"] for each in times]))
            restored[axes] = {"bytes": times[0]["bytes"], "seconds": spread}
    run = {
        "command": f"python -m benchmarks restore --network {options.network} --repeats {options.repeats}",
        **{"network": options.network, "repeats": options.repeats, "disk_bytes": times[0]["disk_bytes"]},
        **{"saved": {key: saved[key] for key in ("bytes", "copied", "seconds")}, "restored": restored},
        **{"load": [*load, os.getloadavg()[0]], "machine": facts()},
    }
    text = page(run)
    print(text)
    if not same:
        print("The restored numbers are not those that were saved.", file=sys.stderr)
    if not options.quick:
        RESULTS.with_suffix(".json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        RESULTS.with_suffix(".md").write_text(text, encoding="utf-8")
    return int(not same or any(row["seconds"]["high"] > LIMIT for row in restored.values()))


if __name__ == "__main__":
    sys.exit(main())
