"""Full-size models with random weights: load time, peak host memory, and one UNet call beside PyTorch's.

    python -m benchmarks full_size sd15 [--dtype float32] [--folder DIR] [--batch 2] [--repeat 2] [--page]
    python -m benchmarks full_size sdxl
    python -m benchmarks full_size --quick    # the reduced size: Stable Diffusion's depth at an eighth of its width

Needs the parity extra (PyTorch and diffusers write the random weights and give the reference), about 4.3 GB of disk for sd15
in float32 and 14 GB for sdxl (half of that in float16), as much free memory and a third more, and minutes. Three processes
work one after the other: PyTorch writes the folder; bridgejax loads it and calls the UNet at 64×64 latents; PyTorch does the
same with the UNet alone. Exits with 1 if bridgejax took more than 1.3 times the weights' bytes of host memory beyond what its
imports take, or if the outputs differ by more than 1e-4 of the largest value (float32; in float16 the difference is only told).

--page puts what was measured into docs/results/full_size.md, in place of what stood there of the same size, dtype and batch.

Peak host memory is the kernel's count (VmHWM) after loading less that before it; on an accelerator the weights leave the host.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import peak_memory
from benchmarks.random_generator import write_in_process
from benchmarks.unet_calls import LATENTS, our_call, torch_call

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "full_size.md"
MEMORY_LIMIT, DIFFERENCE_LIMIT = 1.3, 1e-4


def weight_bytes(folder: Path) -> int:
    """Returns the bytes of the safetensors files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def timed(call: Any, repeat: int) -> tuple[np.ndarray, float, float]:
    """Returns the result, the seconds of the first call, and those of the quickest later one."""
    seconds = []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return result, seconds[0], min(seconds[1:])


def ours(folder: Path, dtype: str, batch: int, repeat: int, output: Path) -> dict[str, float]:
    """Loads the whole model with bridgejax and calls its UNet."""
    import jax

    from bridgejax import runtime
    from bridgejax.diffusion import load_pipeline

    runtime.start()
    jax.block_until_ready(jax.numpy.zeros(8) + 1)
    before = peak_memory()
    began = time.perf_counter()
    pipe = load_pipeline(folder, dtype=dtype)
    jax.block_until_ready(pipe._state)
    told = {"load": time.perf_counter() - began, "memory": float(peak_memory() - before)}
    print(f"loaded in {told['load']:.1f} s, {told['memory'] / 1e9:.2f} GB of memory", file=sys.stderr, flush=True)
    result, told["first"], told["call"] = timed(our_call(pipe, folder, batch), repeat)
    np.save(output, result)
    return told


def torch_reference(folder: Path, dtype: str, batch: int, repeat: int, output: Path) -> dict[str, float]:
    """Loads the UNet alone with diffusers and calls it."""
    began = time.perf_counter()
    call = torch_call(folder, dtype, batch)
    told = {"load": time.perf_counter() - began}
    result, told["first"], told["call"] = timed(call, repeat)
    np.save(output, result)
    return told


def child(name: str, options: argparse.Namespace, folder: Path, output: Path) -> dict[str, float]:
    """Runs one of the two in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "full_size",
        options.size,
        "--child",
        name,
        "--folder",
        str(folder),
        "--output",
        str(output),
    ]
    command += ["--dtype", options.dtype, "--batch", str(options.batch), "--repeat", str(options.repeat)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(options: argparse.Namespace, root: Path) -> int:
    """Measures in two processes, prints, and returns 1 if a limit was passed."""
    folder = options.folder or root / options.size
    if not (folder / "model_index.json").is_file():
        write_in_process(folder, options.size, options.dtype)
    size = weight_bytes(folder)
    mine = child("ours", options, folder, root / "ours.npy")
    theirs = child("torch_reference", options, folder, root / "torch.npy")
    left, right = np.load(root / "ours.npy"), np.load(root / "torch.npy")
    difference = float(np.abs(left - right).max() / np.abs(right).max())
    memory = mine["memory"] / size
    share = mine["call"] / theirs["call"]
    at = f"{options.batch}×{LATENTS}×{LATENTS} latents"
    told = (
        f"{options.size}, {options.dtype}, {size / 1e9:.2f} GB of weights, UNet at {at}\n"
        f"  load           {mine['load']:.1f} s (all parts); PyTorch {theirs['load']:.1f} s (UNet alone)\n"
        f"  peak memory    {mine['memory'] / 1e9:.2f} GB while loading, {memory:.2f} times the weights (limit {MEMORY_LIMIT})\n"
        f"  UNet, first    {mine['first']:.1f} s with compiling; PyTorch {theirs['first']:.1f} s\n"
        f"  UNet, later    {mine['call']:.2f} s; PyTorch {theirs['call']:.2f} s; {share:.2f} times as long\n"
        f"  difference     {difference:.2e} of the largest value (limit {DIFFERENCE_LIMIT} in float32)"
    )
    print(told)
    if options.page:
        write_page(options, told)
    heavy = memory > MEMORY_LIMIT and not options.quick  # of so small weights, what every process needs is a large part
    return int(heavy or (options.dtype == "float32" and not difference <= DIFFERENCE_LIMIT))


def write_page(options: argparse.Namespace, told: str) -> None:
    """Puts the figures into the page, between marks of their own."""
    text = RESULTS.read_text() if RESULTS.is_file() else "# Full-size models, random weights, beside PyTorch\n"
    command = f"python -m benchmarks full_size {options.size} --dtype {options.dtype} --batch {options.batch}"
    command += f" --repeat {options.repeat} --page"
    begin, end = (f"<!-- {edge}: {options.size} {options.dtype} {options.batch} -->" for edge in ("begin", "end"))
    section = f"{begin}\n`{command}`, on {os.cpu_count()} CPU cores:\n```\n{told}\n```\n{end}\n"
    if begin in text:
        before, rest = text.split(begin, 1)
        text = before + section + rest.split(f"{end}\n", 1)[1]
    else:
        text += f"\n{section}"
    RESULTS.write_text(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures one size, or is one of the two processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=["reduced", "sd15", "sdxl"], nargs="?", help="with --quick: reduced")
    parser.add_argument("--quick", action="store_true", help="the reduced size, one later call, memory told and not judged")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument(
        "--folder", type=Path, help="where the weights lie, or are written and kept; default: a temporary folder"
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeat", type=int, help="later calls (2, with --quick 1)")
    parser.add_argument("--page", action="store_true", help="put the figures into docs/results/full_size.md")
    parser.add_argument("--child", choices=["ours", "torch_reference"], help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.size is None:
        if not options.quick:
            parser.error("name a size: reduced, sd15 or sdxl")
        options.size = "reduced"
    if options.repeat is None:
        options.repeat = 1 if options.quick else 2
    if options.child:
        call = ours if options.child == "ours" else torch_reference
        print(json.dumps(call(options.folder, options.dtype, options.batch, options.repeat, options.output)))
        return 0
    with tempfile.TemporaryDirectory() as root:
        return run(options, Path(root))
