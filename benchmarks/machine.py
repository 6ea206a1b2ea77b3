"""What a figure was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import MissingPackage, Worker, interleaved
from benchmarks.worker import Prepared

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("jax", "jaxlib", "flax", "torch", "timm", "diffusers", "efficientnet-lite-pytorch")
_SIDE = 2048  # of the square matrices whose product gives the rate


def facts() -> dict[str, Any]:
    """Returns the machine's facts, as JSON."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def measured(run: Mapping[str, Any]) -> str:
    """Returns by which command, on what machine and at what load a run was measured, for its page."""
    machine, load = run["machine"], run["load"]
    where = f"on {machine['cores']} CPU cores ({machine['cpu']}), commit {machine['commit'] or 'unknown'}"
    return f"`{run['command']}`, {where}, load {load[0]:.1f} before and {load[1]:.1f} after.\n"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD")
    return f"{commit} with changes" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def matrix_rates(repeats: int) -> dict[str, dict[str, float | None]]:
    """Returns how fast a large float32 matrix product is, by "jax" and "torch" (if installed).

    Each holds "flops", operations per second in the quickest turn, and "others", the share of the machine that other programs
    took meanwhile.
    """
    rates: dict[str, dict[str, float | None]] = {}
    for name, target in (("jax", "benchmarks.machine:jax_product"), ("torch", "benchmarks.machine:torch_product")):
        with Worker(target) as worker:
            try:
                worker.prepare()
            except MissingPackage:
                continue
            turns = interleaved({name: worker}, repeats)[name]
        rates[name] = {"flops": 2 * _SIDE**3 / min(turns.seconds), "others": turns.others}
    return rates


def jax_product() -> Prepared:
    """Prepares the matrix product in JAX."""
    import jax

    a = jax.random.normal(jax.random.key(0), (_SIDE, _SIDE))
    product = jax.jit(lambda a: a @ a)
    return Prepared(lambda: product(a).block_until_ready())


def torch_product() -> Prepared:
    """Prepares the matrix product in PyTorch."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    a = torch.randn(_SIDE, _SIDE)
    return Prepared(lambda: a @ a)
