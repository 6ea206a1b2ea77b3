"""Full-size models with random weights: load time, peak host memory, and one UNet call beside PyTorch's.

    python benchmarks/full_size.py sd15 [--dtype float32] [--folder DIR] [--batch 2] [--repeat 2] [--page]
    python benchmarks/full_size.py sdxl

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
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "full_size.md"
LATENTS = 64
MEMORY_LIMIT, DIFFERENCE_LIMIT = 1.3, 1e-4


def peak_memory() -> int:
    """Returns the most resident memory that this process has had, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc/self/status, so it needs Linux")


def weight_bytes(folder: Path) -> int:
    """Returns the bytes of the safetensors files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def inputs(folder: Path, batch: int) -> dict[str, Any]:
    """Returns the same random inputs for both: NHWC latents, a time step, text context and, for SDXL, a pooled embedding."""
    config = json.loads((folder / "unet" / "config.json").read_text())
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {
        "latents": rng.standard_normal((batch, LATENTS, LATENTS, 4), np.float32),
        "hidden": rng.standard_normal((batch, 77, config["cross_attention_dim"]), np.float32),
    }
    if config.get("addition_embed_type") == "text_time":
        found["pooled"] = rng.standard_normal((batch, 1280), np.float32)
    return found


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
    given = inputs(folder, batch)
    result, told["first"], told["call"] = timed(lambda: np.asarray(pipe.predict(timestep=500, **given)), repeat)
    np.save(output, result)
    return told


def torch_reference(folder: Path, dtype: str, batch: int, repeat: int, output: Path) -> dict[str, float]:
    """Loads the UNet alone with diffusers and calls it."""
    import torch
    from diffusers import UNet2DConditionModel

    began = time.perf_counter()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=getattr(torch, dtype)).eval()
    told = {"load": time.perf_counter() - began}
    kind = getattr(torch, dtype)
    given = {name: torch.from_numpy(array).to(kind) for name, array in inputs(folder, batch).items()}
    added = None
    if "pooled" in given:
        side = float(LATENTS * 8)
        ids = torch.tensor([[side, side, 0.0, 0.0, side, side]] * batch, dtype=kind)
        added = {"text_embeds": given["pooled"], "time_ids": ids}

    def call() -> np.ndarray:
        with torch.no_grad():
            x = given["latents"].permute(0, 3, 1, 2)
            sample = unet(x, 500, encoder_hidden_states=given["hidden"], added_cond_kwargs=added).sample
        return sample.permute(0, 2, 3, 1).float().numpy()

    result, told["first"], told["call"] = timed(call, repeat)
    np.save(output, result)
    return told


def child(name: str, options: argparse.Namespace, folder: Path, output: Path) -> dict[str, float]:
    """Runs one of the two in a process of its own."""
    command = [sys.executable, __file__, options.size, "--child", name, "--folder", str(folder), "--output", str(output)]
    command += ["--dtype", options.dtype, "--batch", str(options.batch), "--repeat", str(options.repeat)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(options: argparse.Namespace, root: Path) -> int:
    folder = options.folder or root / options.size
    if not (folder / "model_index.json").is_file():
        program = str(Path(__file__).with_name("random_generator.py"))
        subprocess.run([sys.executable, program, str(folder), options.size, options.dtype], check=True)
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
    return int(memory > MEMORY_LIMIT or (options.dtype == "float32" and not difference <= DIFFERENCE_LIMIT))


def write_page(options: argparse.Namespace, told: str) -> None:
    """Puts the figures into the page, between marks of their own."""
    text = RESULTS.read_text() if RESULTS.is_file() else "# Full-size models, random weights, beside PyTorch\n"
    command = f"python benchmarks/full_size.py {options.size} --dtype {options.dtype} --batch {options.batch}"
    command += f" --repeat {options.repeat} --page"
    begin, end = (f"<!-- {edge}: {options.size} {options.dtype} {options.batch} -->" for edge in ("begin", "end"))
    section = f"{begin}\n`{command}`, on {os.cpu_count()} CPU cores:\n```\n{told}\n```\n{end}\n"
    if begin in text:
        before, rest = text.split(begin, 1)
        text = before + section + rest.split(f"{end}\n", 1)[1]
    else:
        text += f"\n{section}"
    RESULTS.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=["reduced", "sd15", "sdxl"])
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument(
        "--folder", type=Path, help="where the weights lie, or are written and kept; default: a temporary folder"
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="put the figures into docs/results/full_size.md")
    parser.add_argument("--child", choices=["ours", "torch_reference"], help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        call = ours if options.child == "ours" else torch_reference
        print(json.dumps(call(options.folder, options.dtype, options.batch, options.repeat, options.output)))
        return 0
    with tempfile.TemporaryDirectory() as root:
        return run(options, Path(root))


if __name__ == "__main__":
    sys.exit(main())
