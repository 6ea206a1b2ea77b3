"""Measures the quick start and what its parts reach; writes docs/results/quickstart.md.

    python -m benchmarks quickstart             # time cold and warm, memory, parity with PyTorch, the generator alone
    python -m benchmarks quickstart --quick     # parity with PyTorch alone, printed; the page is left as it is

Many seeds of its arms on two tasks: `python -m benchmarks two_tasks`.

Every figure stands beside the command that gives it. A part whose packages or config are missing is named and left out; the
figures that an earlier call wrote for such a part stay.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result_tables import level, points, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "quickstart.md"
CONFIG, GENERATOR = "configs/quickstart.py", "configs/generator.py"
METRIC = "test_mean_per_class_accuracy"
_POLL_SECONDS = 0.25
_KIB_PER_GIB = 1 << 20
PARTS = ("quickstart", "generator", "parity")


def tree_memory(root: int) -> int:
    """Returns the resident KiB of a process and its descendants, from /proc; a page that two share counts in both."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name in brackets may hold spaces; what follows it does not.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    total, pending = 0, [root]
    while pending:
        process = pending.pop()
        pending += parents.get(process, [])
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total


def run_study(config: str, workdir: Path, cache: Path) -> dict[str, float]:
    """Runs a config; returns its wall "seconds", its "processor_seconds", of these the "kernel_seconds", and the "peak_gib" of
    its process tree.

    Raises:
      SystemExit: the run failed.
    """
    command = [sys.executable, "-m", "bridgejax", "run", "--config", config, "--workdir", str(workdir)]
    # A cache that the caller has set for JAX would make the cold run warm.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))
    }
    environment["BRIDGEJAX_CACHE_DIR"] = str(cache)
    print(f"$ {shlex.join(command)}", file=sys.stderr)
    began, peak, before = time.monotonic(), 0, _children_seconds()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(_POLL_SECONDS)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        raise SystemExit(f"{shlex.join(command)} failed with exit code {process.returncode}.")
    user, kernel = (after - earlier for after, earlier in zip(_children_seconds(), before, strict=True))
    taken = {"seconds": time.monotonic() - began, "processor_seconds": user + kernel, "kernel_seconds": kernel}
    return {**taken, "peak_gib": peak / _KIB_PER_GIB}


def _children_seconds() -> tuple[float, float]:
    """The processor time of all child processes that have ended: where other work shares the machine, it says more."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime, used.ru_stime


def quickstart(scratch: Path) -> list[str]:
    """Cold, warm and repeated run of the quick start, with its stages and memory."""
    cache = scratch / "cache"
    cold = run_study(CONFIG, scratch / "cold", cache)
    warm = run_study(CONFIG, scratch / "warm", cache)
    again = run_study(CONFIG, scratch / "warm", cache)
    same = _untimed(scratch / "cold") == _untimed(scratch / "warm")
    summary = json.loads((scratch / "cold" / "summary.json").read_text())
    arms = summary["arms"]
    names = {arm["arm"] for arm in arms.values()}
    counts = f"{len(names)} arms × 1 and 4 photographs per class × {len(summary['seeds'])} seeds"
    rows = [
        [f"wall time, {counts}, empty compilation cache", _seconds(cold["seconds"])],
        [f"wall time, {counts}, compiled programs cached, new workdir", _seconds(warm["seconds"])],
        ["the same command on the finished workdir", _seconds(again["seconds"])],
        ["processor time (cold; warm)", f"{_seconds(cold['processor_seconds'])}; {_seconds(warm['processor_seconds'])}"],
        ["of it in the kernel", "; ".join(_share(run["kernel_seconds"], run["processor_seconds"]) for run in (cold, warm))],
        ["of the seconds of steps, waiting for input", "; ".join(_stall(scratch / name) for name in ("cold", "warm"))],
        ["peak memory of the process tree (cold; warm)", f"{cold['peak_gib']:.2f} GiB; {warm['peak_gib']:.2f} GiB"],
        ["cold and warm results.jsonl alike but for times", "yes" if same else "no"],
    ]
    for name in ("cold", "warm"):
        stages = json.loads((scratch / name / "seconds.json").read_text())
        rows += [[f"of the {name} run: {stage}", _seconds(value)] for stage, value in stages.items()]
    command = f"python -m bridgejax run --config {CONFIG} --workdir DIR"
    against = [d for d in summary["differences"] if arms[d["against"]]["arm"] == summary["baseline"]]
    minus = {d["arm"]: points(d[METRIC]) for d in against}
    levels = [[e, minus.get(e, ""), level(arms[e][METRIC]), level(arms[e]["test_accuracy"])] for e in summary["order"]]
    heads = ["arm", "minus the control, points of mean per class", "mean per class, %", "top-1, %"]
    return [*table(["measured", f"`{command}`"], rows), "", *table(heads, levels)]


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %"


def _stall(workdir: Path) -> str:
    """The share of a study's training in which the device may have waited for batches."""
    runs = [json.loads(line)["seconds"] for line in (workdir / "results.jsonl").read_text().splitlines()]
    return _share(*(sum(run[name] for run in runs) for name in ("input_stall", "train")))


def _untimed(workdir: Path) -> list[Any]:
    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: strip(item) for name, item in value.items() if "seconds" not in name}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return [strip(json.loads(line)) for line in (workdir / "results.jsonl").read_text().splitlines()]


def generator(scratch: Path) -> list[str]:
    """What a classifier learns from generated images alone, more of them than the quick start makes."""
    run_study(GENERATOR, scratch / "generator", scratch / "generator-cache")
    summary = json.loads((scratch / "generator" / "summary.json").read_text())
    found = next(iter(summary["arms"].values()))
    row = [str(found[METRIC]["seeds"]), level(found[METRIC]), level(found["test_accuracy"])]
    command = f"python -m bridgejax run --config {GENERATOR} --workdir DIR"
    return [f"`{command}`", "", *table(["seeds", "mean per class, %", "top-1, %"], [row])]


def parity(scratch: Path) -> list[str] | None:
    """The generator here and in PyTorch diffusers on the same latents; None without PyTorch and diffusers."""
    try:
        import torch
        from diffusers import StableDiffusionPipeline
    except ImportError:
        print("parity: left out, PyTorch or diffusers is not installed (pip install '.[parity]')", file=sys.stderr)
        return None
    import numpy as np

    from bridgejax.diffusion import load_pipeline

    ours = load_pipeline("builtin:tiny_diffusion", dtype="float32")
    theirs = StableDiffusionPipeline.from_pretrained(ours.folder, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    height, width = ours.default_height // ours.vae_factor, ours.default_width // ours.vae_factor
    prompts = ["a photo of a bird", "a photo of a vehicle", "a photo of a flower", "a photo of a tool"]
    latents = np.random.default_rng(0).normal(size=(len(prompts), height, width, 4)).astype(np.float32)
    rows = []
    for guidance in (1.0, 3.0):
        noise = torch.from_numpy(np.ascontiguousarray(latents.transpose(0, 3, 1, 2)))
        expected = theirs(
            prompts,
            latents=noise,
            num_inference_steps=10,
            guidance_scale=guidance,
            height=ours.default_height,
            width=ours.default_width,
            output_type="np",
        ).images
        found = np.asarray(ours(prompts, latents=latents, steps=10, guidance_scale=guidance))
        rows.append(
            [f"guidance {guidance:g}", f"{np.abs(found - expected).max():.1e}", f"{np.abs(found - expected).mean():.1e}"]
        )
    head = f"{len(prompts)} images, 10 steps, float32, the same latents"
    return table([head, "largest difference (images in 0 to 1)", "mean"], rows)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value) // 60} min {int(value) % 60:02d} s"


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    import jax

    return f"{len(os.sched_getaffinity(0))} CPU cores ({model}), Python {platform.python_version()}, jax {jax.__version__}"


TITLES = {
    "quickstart": "Quick start",
    "generator": "Trained on generated images alone",
    "parity": "The generator beside PyTorch diffusers",
}
COMMANDS = {
    "quickstart": "python -m benchmarks quickstart --parts quickstart",
    "generator": "python -m benchmarks quickstart --parts generator",
    "parity": "python -m benchmarks quickstart --parts parity",
}


def write_results(measured: Mapping[str, list[str]]) -> None:
    """Replaces the measured parts of docs/results/quickstart.md and keeps the others."""
    from bridgejax.files import write_atomic

    kept: dict[str, str] = {}
    if RESULTS.is_file():
        for block in RESULTS.read_text(encoding="utf-8").split("\n## ")[1:]:
            title, _, body = block.partition("\n")
            kept[title.strip()] = body.strip()
    for part, lines in measured.items():
        where = f"`{COMMANDS[part]}`, on {machine()}."
        kept[TITLES[part]] = "\n".join([where, "", *lines])
    order = [title for title in TITLES.values() if title in kept]
    text = "# Quick start: what it reaches\n\nEach figure stands beside the command that measures it.\n"
    text += "".join(f"\n## {title}\n\n{kept[title]}\n" for title in order)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS, text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the parts asked for, prints them and keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="only these (default: all)")
    parser.add_argument("--quick", action="store_true", help="parity alone; the page is left as it is")
    options = parser.parse_args(arguments)
    parts = options.parts or (["parity"] if options.quick else PARTS)
    measures = {"quickstart": quickstart, "generator": generator, "parity": parity}
    with tempfile.TemporaryDirectory(prefix="bridgejax-benchmark-") as temporary:
        for part in parts:
            lines = measures[part](Path(temporary))
            if lines is not None:
                print(f"\n{TITLES[part]}\n" + "\n".join(lines), flush=True)
                if not options.quick:
                    write_results({part: lines})
