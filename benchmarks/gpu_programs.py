"""Compiles the programs of a GPU without one: what XLA's GPU compiler refuses, seconds of compilation, and device memory.

    python -m benchmarks gpu_programs [NAME …] [--reduced] [--compiler FOLDER]

It needs the compiler alone, which pip puts into a folder of its own, because JAX would look for a GPU if it lay beside it:

    pip install --no-deps --target .gpu_compiler jax-cuda13-pjrt jax-cuda13-plugin nvidia-cuda-nvcc nvidia-nvvm

The programs are those of an H100, but for what is chosen by trying on the device: cuDNN's attention and the tiles of products.
Times and values need the device itself: `python -m benchmarks accelerator`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMPILER = ROOT / ".gpu_compiler"
# What the compiler asks of an H100 (SXM, 80 GB): NVIDIA's data sheet and the limits of compute capability 9.0.
_DEVICE = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  l2_cache_size: 52428800  memory_bandwidth: 3352320000000  device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
Program = tuple[Callable[..., Any], tuple[Any, ...]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with the arguments after its name; returns 0 if every program was compiled."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu_programs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(PROGRAMS)}")
    parser.add_argument("--reduced", action="store_true", help="networks of few layers, small images")
    parser.add_argument("--compiler", type=Path, default=COMPILER, help="the folder that pip installed the compiler into")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in PROGRAMS]:
        parser.error(f"{unknown[0]!r} is not one of {', '.join(PROGRAMS)}.")
    if not (options.compiler / "jax_plugins").is_dir():
        parser.error(f"{options.compiler} does not hold XLA's GPU compiler; {(__doc__ or '').splitlines()[6].strip()}")
    if options.here:
        print(_compiled(options.names[0], options.reduced, options.compiler), flush=True)
        return 0
    failed = 0
    for name in options.names or PROGRAMS:  # each in a process of its own, for the compiler aborts where it finds itself wrong
        command = [sys.executable, "-m", "benchmarks", "gpu_programs", name, "--here", "--compiler", str(options.compiler)]
        done = subprocess.run([*command, *["--reduced"] * options.reduced], cwd=ROOT, capture_output=True, text=True)
        failed += done.returncode != 0
        print(done.stdout.strip() if not done.returncode else f"{name}: not compiled: {_reason(done.stderr)}", flush=True)
    return int(failed > 0)


def _reason(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in lines if "Check failed" in line), lines[-1])[:500]


def _compiled(name: str, reduced: bool, compiler: Path) -> str:
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}  # no CUDA library lies here to be checked
    sys.path.append(str(compiler))
    import jax
    from jax.experimental import topologies

    chip = topologies.get_topology_desc("H100", "cuda", topology="1x1x1", target_config=_DEVICE).devices[0]
    placed = jax.sharding.SingleDeviceSharding(chip)
    function, arguments = PROGRAMS[name](reduced)
    leaves = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed), arguments)
    began = time.perf_counter()
    compiled = jax.jit(function, donate_argnums=0).trace(*leaves).lower(lowering_platforms=("cuda",)).compile()
    seconds, memory = time.perf_counter() - began, compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return f"{name}: compiled in {seconds:.1f} s; {held / 2**30:.2f} GiB of arguments and temporaries"


def _training(name: str, dtype: str, optimizer: str) -> Callable[[bool], Program]:
    def program(reduced: bool) -> Program:
        import jax
        import numpy as np

        from benchmarks.accelerator_parts.classifiers import random_classifier
        from bridgejax.training import TrainState, make_optimizer, make_train_step

        side, batch = (64, 4) if reduced else (224, 256)
        with tempfile.TemporaryDirectory() as folder:
            model = random_classifier(name, Path(folder), side)
        step = make_train_step(dtype=dtype)
        state = TrainState.create(model, make_optimizer(optimizer, 0.01))
        pixels = jax.ShapeDtypeStruct((batch, side, side, 3), np.uint8 if dtype == "bfloat16" else np.float32)
        parts = {"image": pixels, "label": jax.ShapeDtypeStruct((batch,), np.int32)}
        return step.program.function, (state, parts, step.objective, None)

    return program


def _generation(size: str, part: str) -> Callable[[bool], Program]:
    def program(reduced: bool) -> Program:
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from benchmarks.accelerator_parts.generators import PLANS, abstract, shapes

        named = f"small {size}" if reduced else size
        networks = shapes(named, jnp.bfloat16)
        graph, state = nnx.split(networks)
        batch, side = 2 if reduced else 8, PLANS[named]["unet"]["sample_size"]
        latents = jax.ShapeDtypeStruct((batch, side, side, networks.vae.latent_channels), jnp.float32)
        if part == "decoder":
            return (lambda latents, state: nnx.merge(graph, state).decode(latents)), (latents, abstract(state))
        ids = [jax.ShapeDtypeStruct((batch, encoder.max_tokens), jnp.int32) for encoder in networks.text_encoders]

        def call(latents: jax.Array, state: Any, ids: list[jax.Array]) -> jax.Array:
            whole = nnx.merge(graph, state)
            context, pooled = whole.encode_text(ids)
            pixels = side * whole.vae.factor
            return whole.predict(latents, jnp.float32(500), context, pooled, (pixels, pixels), None)

        if part == "gradient":  # as in learning a token
            call = jax.grad(lambda *inputs, call=call: call(*inputs).astype(jnp.float32).sum())
        return call, (latents, abstract(state), ids)

    return program


_LITE = "builtin:efficientnet_lite0"
PROGRAMS: dict[str, Callable[[bool], Program]] = {
    "resnet18_step": _training("resnet18", "float32", "sgd"),
    "resnet50_step": _training("resnet50", "bfloat16", "sgd"),
    "vit_b16_step": _training("vit_base_patch16_224", "bfloat16", "adamw"),
    "efficientnet_lite0_step": _training(_LITE, "bfloat16", "sgd"),
    "sd15_unet": _generation("sd15", "call"),
    "sd15_gradient": _generation("sd15", "gradient"),
    "sd15_decoder": _generation("sd15", "decoder"),
    "sdxl_unet": _generation("sdxl", "call"),
    "sdxl_decoder": _generation("sdxl", "decoder"),
}
