"""What this machine can do, and why not."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridgejax import __version__
from bridgejax.errors import UserError, either

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh
    from ml_collections import ConfigDict

    from bridgejax.config import Settings
    from bridgejax.recipes import Stage

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
# Heads of Stable Diffusion 1.x (40, 80), of 2.x, SDXL and vision transformers (64), and the largest that cuDNN's kernel takes.
_HEAD_SIZES = (40, 64, 80, 128, 160)
_MEMORY_FRACTION = 0.75  # of a GPU's memory, which JAX takes unless told otherwise


def report(config: ConfigDict | None = None) -> tuple[str, bool]:
    """Returns a text: versions, devices and how they compute, memory, disk, embedded assets, and a sentence for each problem.

    Args:
      config: a checked config; then the text also has its mesh, what each device will hold, and what `run` would refuse.

    Returns:
      The text, and whether `run` would refuse the config.
    """
    lines = [f"bridgejax {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    problems: list[str] = []
    for package, use in _PACKAGES.items():
        version = _version(package)
        lines.append(f"  {package:<22}{version or 'missing':<12}{use}")
        if version is None:
            problems.append(f"{package} is not installed ({use}); pip install {package}.")
    lines += _devices(problems, "float32" if config is None else config.training.dtype)
    lines.append(
        f"memory  {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB, {os.cpu_count()} CPU cores"
    )
    lines.append(f"disk    {shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free in {Path.cwd()}")
    from bridgejax.runtime import cache_directory

    cache = cache_directory()
    lines.append(f"cache   {cache or 'none, for want of a home folder'} (programs; BRIDGEJAX_CACHE_DIR moves it)")
    from bridgejax.files import asset_folder

    for name in ("tux_photos", "efficientnet_lite0", "tiny_diffusion", "tiny_clip"):
        problem = _check_asset(asset_folder(name))
        lines.append(f"asset   builtin:{name:<22}{'whole' if problem is None else 'damaged'}")
        if problem:
            problems.append(problem)
    of_machine = len(problems)
    if config is not None:
        lines += _plan(config, problems)
    lines += [f"! {problem}" for problem in problems] or ["all is well"]
    return "\n".join(lines), len(problems) > of_machine


def about_weights(path: str, *, vae: str | None = None) -> str:
    """Returns what a generator's file or folder is, as `import-weights` prints it; configs, names and shapes are read.

    Args:
      path: as for `bridgejax.diffusion.load_pipeline`.
      vae: another autoencoder than its own.

    Raises:
      UserError: it is no generator, is damaged, or does not agree with itself; what `load_pipeline` would say before it reads
        the weights, but that a single file here needs no tokenizer.
    """
    from bridgejax.diffusion.decisions import check_parts, decisions
    from bridgejax.diffusion.find import find_generator
    from bridgejax.diffusion.load import load_networks
    from bridgejax.mesh import make_abstract_put, make_mesh

    spec = find_generator(path, vae=vae, tokenizers=False)
    check_parts(spec)
    load_networks(spec, "float32", make_abstract_put(make_mesh()))
    return decisions(spec)


def _version(package: str) -> str | None:
    names = (package, f"{package}-cpu") if package == "tensorflow" else (package,)
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _devices(problems: list[str], training_dtype: str) -> list[str]:
    try:
        import jax

        from bridgejax.mesh import check_randomness, make_mesh
        from bridgejax.runtime import check_devices

        check_devices()
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
        return lines + _computing(devices[0], training_dtype) + _tensorflow(problems)
    except UserError as error:
        problems.append(str(error))
    except Exception as error:  # a broken driver or install says so in its own words
        problems.append(f"JAX found no usable device: {' '.join(repr(error).split())[:300]}")
    return ["devices none usable"]


def _computing(device: jax.Device, training_dtype: str) -> list[str]:
    """Returns how the device computes: attention's kernels, float32 products, the dtype of training, and a GPU's memory."""
    import jax

    backend = jax.default_backend()
    lines = [f"  attention {line}" for dtype in ("float32", "bfloat16") for line in _attention(dtype, backend)]
    lines.append(f"  products of float32 matrices: {_products(device, backend)}")
    other = "bfloat16" if training_dtype == "float32" else "float32"
    lines.append(f"  training in {training_dtype} (training.dtype; {other!r} is the other choice), parameters in float32")
    if backend == "gpu":
        lines.append(f"  memory of each GPU: {_preallocation()}")
    return lines


def _attention(dtype: str, backend: str) -> list[str]:
    """Returns which attention kernel runs for a dtype at each head size, and why: one line for each kernel."""
    from bridgejax.models.attention import fused

    found: dict[str, list[str]] = {}
    for size in _HEAD_SIZES:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fits = fused(dtype, size)
        if fits:
            why = "cuDNN's fused kernel where there is no mask"
        elif dtype == "float32":
            why = "the plain one (cuDNN's fused kernel takes bfloat16 and float16 alone)"
        elif backend != "gpu":
            why = "the plain one (cuDNN's fused kernel needs an NVIDIA GPU)"
        else:
            reason = str(caught[0].message) if caught else "cuDNN's fused kernel does not compile for it here"
            why = f"the plain one ({reason})"
        found.setdefault(why, []).append(str(size))
    return [f"in {dtype}, heads of {', '.join(sizes)}: {why}" for why, sizes in found.items()]


def _products(device: jax.Device, backend: str) -> str:
    """Returns in which precision float32 matrix products and convolutions run."""
    import jax

    chosen = jax.config.values.get("jax_default_matmul_precision")
    if chosen is not None:
        return f"at precision {str(chosen)!r} (jax_default_matmul_precision)"
    change = "JAX_DEFAULT_MATMUL_PRECISION=highest for float32"
    if backend == "gpu":
        major, _, _ = str(getattr(device, "compute_capability", "")).partition(".")
        if not major.isdecimal():
            return f"as XLA chooses on this GPU; set {change}"
        return f"in TF32, 10 bits of fraction; set {change}" if int(major) >= 8 else "in float32 (TF32 came with Ampere)"
    return f"in bfloat16 passes; set {change}" if backend == "tpu" else "in float32"


def _preallocation() -> str:
    """Returns how much of a GPU's memory JAX takes at its start, by the environment, and how to change that."""
    allocator = os.environ.get("XLA_PYTHON_CLIENT_ALLOCATOR", "default").lower()
    if allocator == "platform":
        return "taken as needed, and slowly (XLA_PYTHON_CLIENT_ALLOCATOR=platform)"
    text = os.environ.get("XLA_CLIENT_MEM_FRACTION") or os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION")
    share = f"{100 * float(text or _MEMORY_FRACTION):.0f} %"
    if os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE") in ("false", "False", "0"):
        return f"taken as needed, up to {share} (XLA_PYTHON_CLIENT_PREALLOCATE=false)"
    return (
        f"{share} is taken at the start; XLA_CLIENT_MEM_FRACTION=0.9 (or XLA_PYTHON_CLIENT_MEM_FRACTION, its older name) sets "
        "the share, XLA_PYTHON_CLIENT_PREALLOCATE=false has it taken as needed"
    )


def _tensorflow(problems: list[str]) -> list[str]:
    """Returns that TensorFlow sees no accelerator; where there is one, after a look."""
    import jax

    line = "  images are read by TensorFlow on the CPU; GPUs and TPUs are hidden from it"
    if jax.default_backend() == "cpu" or _version("tensorflow") is None:
        return [line]
    from bridgejax.data.tensorflow import import_tensorflow

    visible = [device.name for device in import_tensorflow().config.get_visible_devices() if device.device_type != "CPU"]
    if visible:
        problems.append(f"TensorFlow sees {', '.join(visible)} and may take its memory; import bridgejax before TensorFlow.")
    return [f"{line} (checked)"]


def _plan(config: ConfigDict, problems: list[str]) -> list[str]:
    """Returns the config's mesh and what each device holds, by shapes and file headers; `problems` gets what `run` refuses."""
    lines: list[str] = []
    try:
        from flax import nnx

        from bridgejax.config import Settings, loading_options
        from bridgejax.diffusion.find import find_generator
        from bridgejax.diffusion.load import load_networks, parse_dtype
        from bridgejax.mesh import bytes_per_device, data_size, make_abstract_put, make_mesh, parameter_rules
        from bridgejax.studies.study_plan import plan_study

        mesh = make_mesh(config.mesh)
        parts = data_size(mesh)
        lines.append("mesh    " + ", ".join(f"{name}={size}" for name, size in mesh.shape.items()))
        description = find_generator(config.generator.weights, **loading_options(config.generator))
        put = make_abstract_put(mesh, parameter_rules(config.mesh_rules))
        state = nnx.state(load_networks(description, parse_dtype(config.generator.dtype), put))
        held, dtype = f"{_mib(bytes_per_device(state))} of {_mib(_bytes(state))}", config.generator.dtype
        lines.append(f"  generator   {held} parameters ({dtype}) per device; {_batch(config.generator.batch_size, parts)}")
        settings = Settings.of(config)
        lines += _training(settings, mesh)
        plan_study(settings)
    except UserError as error:
        problems.append(str(error))
    return lines


def _training(settings: Settings, mesh: Mesh) -> list[str]:
    """Returns what each device holds of the state of training, from shapes alone: of the stage of the arms that holds most."""
    from bridgejax.mesh import bytes_per_device, data_size, own_rules
    from bridgejax.mesh_axes import FSDP_AXIS
    from bridgejax.models.registry import abstract_classifier
    from bridgejax.studies.label_space import class_names_of
    from bridgejax.training.stages import fresh_state, stage_plans

    def classes(stage: Stage) -> int | None:
        names = settings.task.class_names
        elsewhere = stage.data == "synthetic" and not stage.contrasts
        return len(class_names_of(settings.of_set(stage.synthetic_set), names) if elsewhere else names) or None

    recipes = [settings.recipe(name) for name in settings.arms]
    plans = {
        (plan.stage.optimizer, plan.stage.momentum > 0, plan.stage.trainable, classes(plan.stage)): plan
        for recipe in recipes
        if all(stage.head == "keep" for stage in recipe.stages)  # a head of another kind is made of images
        for plan in stage_plans(recipe)
    }
    rules, training = own_rules(settings.mesh_rules), settings.training
    models = {count: abstract_classifier(settings.classifier.weights, count) for *_, count in plans}
    states = [fresh_state(plan, models[key[-1]], 0, mesh, rules) for key, plan in plans.items()]
    if not states:
        return []
    state = max(states, key=bytes_per_device)
    kinds = {"parameters": (state.params, state.other), "optimiser": state.opt_state}
    held = ", ".join(f"{name} {_mib(bytes_per_device(part))}" for name, part in kinds.items())
    rows = training.batch_size // data_size(mesh)
    images = f"{_batch(training.batch_size, data_size(mesh))}, {_mib(rows * 3 * settings.classifier.image_size**2)}"
    lines = [f"  classifier  {_mib(bytes_per_device(state))} of {_mib(_bytes(state))} state per device ({held}); {images}"]
    whole = undivided({name: array.shape for name, array in state.params.items()}, mesh.shape.get(FSDP_AXIS, 1))
    return [*lines, f"  {FSDP_AXIS}{whole}"] if whole else lines


def undivided(shapes: Mapping[str, Sequence[int]], size: int) -> str | None:
    """Returns which parameters an fsdp axis of a size leaves whole for want of a dimension that it divides, and other sizes."""
    from bridgejax.mesh import WHOLE_BELOW

    large = {name: shape for name, shape in shapes.items() if math.prod(shape) >= WHOLE_BELOW}

    def left(by: int) -> list[str]:
        return [name for name, shape in large.items() if all(n % by for n in shape)]

    if not (names := left(size)):
        return None
    better = [str(by) for by in sorted(range(2, 4 * size), key=lambda by: abs(by - size)) if not left(by)][:3]
    advice = f"; {either(better)} would divide all" if better else ""
    which = f"{names[0]} {list(shapes[names[0]])} and {len(names) - 1} others"
    return f"={size} divides no dimension of {which}, which stay whole{advice}"


def _bytes(tree: object) -> int:
    import jax

    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _batch(size: int, parts: int) -> str:
    return f"batch {size}, {-(-size // parts)} images per device"


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
