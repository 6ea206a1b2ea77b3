"""How long a process takes to its first image: with an empty cache folder, and with what the first one left there.

    python -m benchmarks cold_start [--model builtin:tiny_diffusion] [--model reduced] [--model FOLDER] [--steps 5]
                                    [--quick] [--page]

Two processes per model, one after the other, share one fresh cache folder (as `BRIDGEJAX_CACHE_DIR`, with the settings that
every command has). Told per process, in seconds: interpreter and imports; load (weights to devices); the tokenizer; the first
image; the sampler's tracing, lowering and compiling (or fetching from the cache, which goes on beside the loading) and all
other programs; a second image for comparison; the total from process start to first image, and the processor time spent until
then. "reduced" is a random model of Stable Diffusion's depth and an eighth of its width, made by PyTorch. --page writes
docs/results/cold_start.md.

Exits with 1 unless the second process reaches its first image in less than `--limit` of the first's time (a quarter, unless
told otherwise) and the sampler's program comes out of the cache in under a quarter of the time that compiling it took. --quick
takes the embedded generator alone, two steps, and judges nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.random_generator import write_in_process

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "cold_start.md"
PHASES = ("import", "load", "tokenizer", "image", "trace", "lower", "compile", "other programs", "second image")
PHASES += ("total", "processor time")
_TRACE = "/jax/core/compile/jaxpr_trace_duration"
_LOWER = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILE = "/jax/core/compile/backend_compile_duration"  # a fetch from the cache, where it hits


def measure(model: str, steps: int, started: float) -> dict[str, float]:
    """Samples one image in this process and returns the seconds of each phase.

    Args:
      model: what `load_pipeline` takes.
      steps: denoising steps.
      started: `time.time()` just before this process was started.
    """
    from bridgejax import runtime
    from bridgejax.diffusion import load_pipeline

    runtime.start()
    import jax

    phases = {"import": time.time() - started}
    events: list[tuple[str, str, float]] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **kw: events.append((event, str(kw.get("fun_name", "")), seconds))
    )
    began = time.time()
    pipe = load_pipeline(model)
    jax.block_until_ready(pipe._state)
    phases["load"] = time.time() - began
    began = time.time()
    _ = pipe.tokenizers
    phases["tokenizer"] = time.time() - began
    began = time.time()
    pipe("a photo of a bird", seeds=0, steps=steps, guidance_scale=3.0).block_until_ready()
    phases["image"] = time.time() - began
    phases["total"] = time.time() - started
    phases["processor time"] = time.process_time()
    for name, event in (("trace", _TRACE), ("lower", _LOWER), ("compile", _COMPILE)):
        mine = [seconds for kind, function, seconds in events if kind == event and "sample" in function]
        phases[name] = max(mine, default=0.0)  # an inner function's tracing is part of the outer one's
    others = [seconds for kind, function, seconds in events if kind in (_TRACE, _LOWER, _COMPILE) and "sample" not in function]
    phases["other programs"] = sum(others)
    began = time.time()
    pipe("a photo of a fish", seeds=1, steps=steps, guidance_scale=3.0).block_until_ready()
    phases["second image"] = time.time() - began
    return phases


def run_process(model: str, steps: int, cache: Path) -> dict[str, float]:
    """Returns the phases of one fresh process."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))
    }
    environment |= {"BRIDGEJAX_CACHE_DIR": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks", "cold_start", "--child", model, "--steps", str(steps)]
    command += ["--started", repr(time.time())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns 1 if the second start took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--quick", action="store_true", help="the embedded generator alone, two steps, judged by nothing")
    parser.add_argument("--limit", type=float, default=0.25, help="of the first start's time")
    parser.add_argument("--page", action="store_true", help="write docs/results/cold_start.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.steps is None:
        options.steps = 2 if options.quick else 5
    if options.quick:
        options.model = options.model or ["builtin:tiny_diffusion"]
    if options.child:
        print(json.dumps(measure(options.child, options.steps, options.started)))
        return 0
    found: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    for model in options.model or ["builtin:tiny_diffusion", "reduced"]:
        with tempfile.TemporaryDirectory() as folder:
            source = model
            if model == "reduced":
                source = str(Path(folder) / "reduced")
                write_in_process(source, "reduced")
            cold, warm = (run_process(source, options.steps, Path(folder) / "cache") for _ in range(2))
        found[model] = (cold, warm)
    text = table(found, options)
    print(text)
    if options.page:
        RESULTS.write_text(text)
    if options.quick:
        return 0
    limits = {"total": options.limit, "compile": 0.25}
    pairs = [(warm[name], limit * cold[name]) for cold, warm in found.values() for name, limit in limits.items()]
    return int(any(measured >= bound for measured, bound in pairs))


def table(found: dict[str, tuple[dict[str, float], dict[str, float]]], options: argparse.Namespace) -> str:
    """Returns the page: a column for each model and process."""
    command = "python -m benchmarks cold_start" + "".join(f" --model {model}" for model in options.model or ())
    command += f" --steps {options.steps} --page"
    heads = [f"{model}, {cache} cache" for model in found for cache in ("empty", "warm")]
    text = (
        f"# The second start\n\n`{command}`, on {os.cpu_count()} CPU cores, Python {platform.python_version()}. Seconds "
        f"from process start to the first image, of {options.steps} steps, and what they went to; with the warm cache the "
        'program is fetched while weights load. "reduced" is a random model of Stable Diffusion\'s depth and an eighth of its '
        "width.\n\n"
        f"| seconds | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}\n"
    )
    for name in PHASES:
        text += f"| {name} | {' | '.join(f'{process[name]:.2f}' for pair in found.values() for process in pair)} |\n"
    text += "\n"
    for model, (cold, warm) in found.items():
        share = warm["total"] / cold["total"]
        text += f"- {model}: the second start reaches its first image in {share:.0%} of the first's time.\n"
    return text
