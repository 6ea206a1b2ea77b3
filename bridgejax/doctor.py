"""What this machine can do, and why not."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from bridgejax import __version__
from bridgejax.errors import UserError

_PACKAGES = {
    "jax": "everything",
    "jaxlib": "everything",
    "flax": "networks",
    "optax": "optimisers",
    "orbax-checkpoint": "checkpoints",
    "safetensors": "weights",
    "transformers": "CLIP tokenizers' folders",
    "tokenizers": "prompts",
    "ml_collections": "config files",
    "tensorflow": "tf.data streams",
    "tensorflow-datasets": "tfds: tasks",
    "huggingface_hub": "weights by hub name",
}


def report(config: Any = None) -> str:
    """Returns a text: versions, devices, memory, disk, the embedded assets, and a sentence for each thing that is wrong.

    Args:
      config: a checked config; then the text also tells its mesh and what each device will hold.
    """
    lines = [f"bridgejax {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    problems: list[str] = []
    for package, use in _PACKAGES.items():
        version = _version(package)
        lines.append(f"  {package:<22}{version or 'missing':<12}{use}")
        if version is None:
            problems.append(f"{package} is not installed ({use}); pip install {package}.")
    lines += _devices(problems)
    lines.append(f"memory  {_memory_gib():.1f} GiB, {os.cpu_count()} CPU cores")
    lines.append(f"disk    {shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free in {Path.cwd()}")
    from bridgejax.runtime import cache_directory

    lines.append(f"cache   {cache_directory()} (programs; BRIDGEJAX_CACHE_DIR moves it)")
    assets = Path(__file__).parent / "assets"
    for name in ("tux_photos", "efficientnet_lite0", "tiny_diffusion"):
        problem = _check_asset(assets / name)
        lines.append(f"asset   builtin:{name:<22}{'whole' if problem is None else 'damaged'}")
        if problem:
            problems.append(problem)
    if config is not None:
        lines += _plan(config, problems)
    lines += [f"! {problem}" for problem in problems] or ["all is well"]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    names = (package, f"{package}-cpu") if package == "tensorflow" else (package,)
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _devices(problems: list[str]) -> list[str]:
    try:
        import jax

        from bridgejax.mesh import check_randomness, make_mesh

        devices = jax.devices()
        mesh = make_mesh()
        lines = [f"devices {len(devices)} × {devices[0].device_kind} ({jax.default_backend()}), mesh {dict(mesh.shape)}"]
        for device in devices:
            stats = device.memory_stats() if device.platform != "cpu" else None
            if stats and "bytes_limit" in stats:
                lines.append(f"  {device}: {stats['bytes_limit'] / 2**30:.1f} GiB")
        check_randomness()
        if jax.default_backend() == "cpu":
            lines.append("  no accelerator in use: the quick start is sized for this; install the cuda or tpu extra for more")
        return lines
    except UserError as error:
        problems.append(str(error))
    except Exception as error:  # a broken driver or install says so in its own words
        problems.append(f"JAX found no usable device: {' '.join(str(error).split())[:300]}")
    return ["devices none usable"]


def _plan(config: Any, problems: list[str]) -> list[str]:
    """Returns the config's mesh and what each device holds: from shapes and file headers alone, no weight is read."""
    try:
        from flax import nnx

        from bridgejax.diffusion.folder import find_generator, load_networks, parse_dtype
        from bridgejax.generator_options import loading_options
        from bridgejax.mesh import bytes_per_device, data_size, make_abstract_put, make_mesh, parameter_rules
        from bridgejax.models.registry import abstract_classifier

        mesh = make_mesh(config.mesh)
        parts = data_size(mesh)
        lines = [f"mesh    {_shown_mesh(mesh)}"]
        description = find_generator(config.generator.weights, **loading_options(config.generator))
        put = make_abstract_put(mesh, parameter_rules(config.mesh_rules))
        state = nnx.state(load_networks(description, parse_dtype(config.generator.dtype), put))
        held, dtype = f"{_mib(bytes_per_device(state))} of {_mib(_whole(state))}", config.generator.dtype
        lines.append(f"  generator   {held} parameters ({dtype}) per device; {_batch(config.generator.batch_size, parts)}")
        classifier = _mib(_whole(nnx.state(abstract_classifier(config.classifier.weights))))
        lines.append(f"  classifier  {classifier} parameters on each device; {_batch(config.training.batch_size, parts)}")
        for key in ("batch_size", "eval_batch_size"):
            if config.training[key] % parts:
                problems.append(f"training.{key} is {config.training[key]}; give a multiple of {parts}, the parts of a batch.")
        return lines
    except UserError as error:
        problems.append(str(error))
    return []


def _shown_mesh(mesh: Any) -> str:
    return ", ".join(f"{name}={size}" for name, size in mesh.shape.items())


def _whole(tree: Any) -> int:
    import jax

    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _batch(size: int, parts: int) -> str:
    return f"batch {size}, {-(-size // parts)} images per device"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _check_asset(folder: Path) -> str | None:
    from bridgejax.identity import file_digest

    listing = folder / "SHA256SUMS"
    if not listing.is_file():
        return f"{folder} is missing or has no SHA256SUMS; reinstall bridgejax."
    for line in listing.read_text().splitlines():
        expected, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file() or file_digest(file) != expected:
            return f"{file} is missing or damaged; reinstall bridgejax."
    return None
