"""Valid files with one thing changed: each loads and is the same, or is refused in one sentence; no traceback, no other image.

The kind: any change that a download, a converter, a merge or an editor makes to one tensor's name, place, dtype or shape, to a
file's bytes, or to a key of a config. Families: Stable Diffusion 1.x, 2.x and XL; as single file, folder, LoRA, learned word,
autoencoder. What a file cannot show is left out: a square matrix transposed in place, a part of a LoRA that can stand alone
(an alpha, a DoRA's lengths), and the projection of an OpenCLIP encoder of unpublished width, which alone says whether all
layers are read.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

from bridgejax.diffusion.find import find_generator
from bridgejax.diffusion.load import load_networks
from bridgejax.diffusion.schedulers import make_scheduler
from bridgejax.diffusion.spec import GeneratorSpec
from bridgejax.diffusion.textual_inversion import read_embedding
from bridgejax.errors import UserError
from bridgejax.models.safetensors_files import find_weights, read_tensors
from tests import original_files as originals

KINDS = ("single", "folder", "lora", "word", "vae")
FAST, SLOW = 7, 150  # of each family and kind: 105 and 2250 files
Tensors = dict[str, np.ndarray]


class Case(NamedTuple):
    """A valid file, where to mangle it, and how to load it.

    Attributes:
      root: the folder that is copied for each change.
      files: the files in it that may be changed.
      load: gives what decides an image: path of a parameter → array, and config values.
    """

    root: Path
    files: tuple[str, ...]
    load: Callable[[Path], dict[str, Any]]


def generator_state(spec: GeneratorSpec) -> dict[str, Any]:
    """Every parameter as it is loaded, and what else of the files an image depends on."""
    state: dict[str, Any] = {}

    def put(path: str, shape: Any, dtype: Any, read: Any) -> jax.ShapeDtypeStruct:
        state[path] = read(...)
        return jax.ShapeDtypeStruct(tuple(shape), dtype)

    networks = load_networks(spec, "float32", put)
    for number, encoder in enumerate(networks.text_encoders):
        state[f"text {number}"] = (encoder.eos_token_id, encoder.max_tokens)
    state["vae"] = (networks.vae.scaling_factor, networks.vae.factor)
    state["scheduler"] = make_scheduler(None, spec.scheduler, spec.scheduler_place)
    state["index"] = spec.index.get("force_zeros_for_empty_prompt")
    return state


def _folder(root: Path, spec: GeneratorSpec) -> Path:
    """Writes a single file's generator in the diffusers layout."""
    assert spec.parts is not None
    index = {**spec.index, "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    configs = {"unet": spec.unet, "vae": {**spec.vae, "_class_name": "AutoencoderKL"}}
    for name, config, projection in zip(("text_encoder", "text_encoder_2"), spec.text_encoders, spec.projections, strict=False):
        configs[name] = config
        index[name] = ["transformers", "CLIPTextModelWithProjection" if projection else "CLIPTextModel"]
        shutil.copytree(spec.tokenizers[0].folder, root / name.replace("text_encoder", "tokenizer"))
    for part, config in configs.items():
        (root / part).mkdir(parents=True)
        (root / part / "config.json").write_text(json.dumps(config))
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        start = "text_model." if part == "text_encoder" else ""
        _write(root / part / f"{stem}.safetensors", {start + name: array for name, array in spec.parts[part].items()})
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(spec.scheduler))
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def _write(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    file.write_bytes(save({name: np.ascontiguousarray(array) for name, array in tensors.items()}))


def _lora(spec: GeneratorSpec) -> Tensors:
    """Changes of a few layers, in the spellings of kohya and of PEFT, of several kinds."""
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    tensors: Tensors = {}
    names = [name for name in spec.tensors("unet") if name.endswith(".weight") and spec.tensors("unet")[name].ndim in (2, 4)]
    for number, name in enumerate(names[:: len(names) // 6]):
        shape = spec.tensors("unet")[name].shape
        flat, layer = math.prod(shape[1:]), name.removesuffix(".weight")
        start = "lora_unet_" + layer.replace(".", "_")
        if number % 3 == 0:
            tensors[f"{start}.lora_down.weight"], tensors[f"{start}.lora_up.weight"] = (
                numbers(3, *shape[1:]),
                numbers(shape[0], 3),
            )
            if len(shape) == 4:
                tensors[f"{start}.lora_up.weight"] = numbers(shape[0], 3, 1, 1)
        elif number % 3 == 1:
            tensors |= {f"{start}.hada_w{i}_a": numbers(shape[0], 3) for i in (1, 2)}
            tensors |= {f"{start}.hada_w{i}_b": numbers(3, flat) for i in (1, 2)}
        else:
            tensors |= {f"{start}.lokr_w1_a": numbers(4, 3), f"{start}.lokr_w1_b": numbers(3, shape[1] if shape[1] < 8 else 4)}
            second = (shape[0] // 4, shape[1] // (shape[1] if shape[1] < 8 else 4), *shape[2:])
            tensors[f"{start}.lokr_w2"] = numbers(*second)
        tensors[f"{start}.alpha"] = np.array(2, np.float32)
    for part in ("text_encoder", "text_encoder_2")[: len(spec.text_encoders)]:
        start = f"{part}.text_model.encoder.layers.1.mlp.fc1"
        tensors |= {f"{start}.lora_A.weight": numbers(3, 64), f"{start}.lora_B.weight": numbers(128, 3)}
        tensors[f"{start}.lora_magnitude_vector"] = 1 + numbers(128)
    return tensors


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Case]:
    """A valid file of each family and kind."""
    made = {}
    for family in originals.FAMILIES:
        root = tmp_path_factory.mktemp(family)
        single = originals.write_single_file(root / "single", family)
        tokenizer = shutil.move(root / "single" / "tokenizer", root / "tokenizer")
        spec = find_generator(single, tokenizer=tokenizer)
        folder = _folder(root / "folder", spec)
        files = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.safetensors")))
        files += ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json")
        widths = [config["hidden_size"] for config in spec.text_encoders]
        for kind in ("lora", "word", "vae"):
            (root / kind).mkdir()
        _write(root / "lora" / "x.safetensors", _lora(spec))
        words = ("clip_l", "clip_g") if family == "xl" else ("<word>",)
        rng = np.random.default_rng(0)
        _write(
            root / "word" / "x.safetensors",
            {n: rng.normal(size=(2, width)).astype(np.float32) for n, width in zip(words, widths, strict=True)},
        )
        shutil.copytree(folder / "vae", root / "vae", dirs_exist_ok=True)

        def of_file(path: Path, family: str = family, tokenizer: Path = tokenizer) -> dict[str, Any]:
            return generator_state(find_generator(path / f"{family}.safetensors", tokenizer=tokenizer))

        def of_lora(path: Path, spec: GeneratorSpec = spec, folder: Path = folder) -> dict[str, Any]:
            read = find_generator(folder, loras=[(path / "x.safetensors", 0.7)])
            return {f"{part} {name}": read.tensors(part)[name] for part in read.deltas for name in read.deltas[part]}

        def of_word(path: Path, widths: list[int] = widths) -> dict[str, Any]:
            return dict(enumerate(read_embedding(path / "x.safetensors", widths)))  # type: ignore[arg-type]

        def of_vae(path: Path, folder: Path = folder) -> dict[str, Any]:
            return generator_state(find_generator(folder, vae=path))

        made[family, "single"] = Case(root / "single", (single.name,), of_file)
        made[family, "folder"] = Case(folder, files, lambda path: generator_state(find_generator(path)))
        made[family, "lora"] = Case(root / "lora", ("x.safetensors",), of_lora)
        made[family, "word"] = Case(root / "word", ("x.safetensors",), of_word)
        made[family, "vae"] = Case(root / "vae", ("diffusion_pytorch_model.safetensors", "config.json"), of_vae)
    return made


DTYPES = (np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.int64, np.uint8, np.bool_)


def mangle(tensors: Tensors, rng: np.random.Generator) -> str:
    """Changes one tensor and returns what was done; "" if it would change nothing that a file shows."""
    names = sorted(tensors)
    name = names[rng.integers(len(names))]
    what = rng.choice(["rename", "drop", "add", "retype", "reshape", "damage"])
    array = tensors[name]
    if what in ("rename", "drop", "add"):
        # What stands alone may be absent: see the top.
        if what == "drop" and name.endswith((".alpha", ".lora_magnitude_vector", "text_projection")):
            return ""
        other = _other_name(name, rng)
        if what != "drop" and (other in tensors or (what == "rename" and name.endswith("text_projection"))):
            return ""
        if what != "add":
            del tensors[name]
        if what != "drop":
            tensors[other] = array
        return f"{what} {name} {other if what != 'drop' else ''}"
    if what == "retype":
        dtype = DTYPES[rng.integers(len(DTYPES))]
        with np.errstate(all="ignore"):
            tensors[name] = array.astype(dtype)
        return f"retype {name} {np.dtype(dtype).name}"
    if what == "reshape":
        shapes = [
            array.shape[::-1],
            (array.size,),
            (1, *array.shape),
            (*array.shape, 1),
            (array.shape[0] // 2 if array.ndim else 1, -1),
        ]
        shape = shapes[rng.integers(len(shapes))]
        if shape == array.shape or array.size == 0 or (-1 in shape and (shape[0] < 1 or array.size % shape[0])):
            return ""
        tensors[name] = array.reshape(shape)
        return f"reshape {name} {array.shape} {shape}"
    if not np.issubdtype(array.dtype, np.floating) or array.ndim == 0:
        return ""
    tensors[name] = np.where(np.arange(array.size).reshape(array.shape) == rng.integers(array.size), np.nan, array).astype(
        array.dtype
    )
    return f"NaN in {name}"


def _other_name(name: str, rng: np.random.Generator) -> str:
    digits = [place for place, letter in enumerate(name) if letter.isdigit()]
    ways = [
        f"{name}.x",
        f"x.{name}",
        name.upper(),
        name.rpartition(".")[0] or "y",
        name.replace("weight", "bias"),
        name[1:] or "z",
    ]
    ways += [name.replace("_", ".", 1), name.replace(".", "_", 1), "module." + name, name.replace("text_model.", "")]
    if digits:
        place = digits[rng.integers(len(digits))]
        ways += [name[:place] + str(rng.integers(10)) + name[place + 1 :]] * 4
    return ways[rng.integers(len(ways))]


def mangle_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Cuts a file, or changes a byte of its header."""
    if rng.random() < 0.5:
        return content[: rng.integers(len(content))]
    place = rng.integers(min(len(content), 8 + int.from_bytes(content[:8], "little")))
    return content[:place] + bytes([rng.integers(256)]) + content[place + 1 :]


VALUES: tuple[Any, ...] = (None, -1, 0, 3, 1.5, "x", "8", True, False, [], [1], [None], {}, {"a": 1}, 10**9)


def mangle_json(config: dict[str, Any], rng: np.random.Generator) -> str:
    """Changes one key of a config."""
    names = sorted(config)
    name = names[rng.integers(len(names))]
    what = rng.choice(["drop", "set", "rename"])
    if what == "set":
        config[name] = VALUES[rng.integers(len(VALUES))]
        return f"{name} = {config[name]!r}"
    value = config.pop(name)
    if what == "rename":
        config[f"{name}_x"] = value
    return f"{what} {name}"


def once(case: Case, folder: Path, rng: np.random.Generator, reference: dict[str, Any]) -> str:
    """Changes one thing in a copy, loads it, and returns "" or what went wrong."""
    file = folder / case.files[rng.integers(len(case.files))]
    content = file.read_bytes()
    done, weights = "", file.suffix == ".safetensors"
    if weights and rng.random() < 0.2:
        file.write_bytes(mangle_bytes(content, rng))
        done = "bytes"
    elif weights:
        tensors = {name: np.array(array) for name, array in read_tensors(file).items()}
        while not done:
            done = mangle(tensors, rng)
        _write(file, tensors)
    else:
        config = json.loads(content)
        done = mangle_json(config, rng)
        file.write_text(json.dumps(config))
    try:
        state = case.load(folder)
        # A byte of a name or a number of the header may be changed into what is valid again, and a config's values are its own.
        return "" if not weights else _difference(state, reference, done)
    except UserError as error:
        return "" if "\n" not in str(error) else f"{done}: not one sentence: {error}"
    except Exception as error:  # what this test is about
        return f"{file.name}: {done}: {type(error).__name__}: {str(error)[:200]}"
    finally:
        file.write_bytes(content)


def _difference(state: dict[str, Any], reference: dict[str, Any], done: str) -> str:
    if set(state) != set(reference):
        return f"{done}: {sorted(map(str, set(state) ^ set(reference)))[:3]} on one side only"
    retyped = done.startswith("retype")
    for key, value in reference.items():
        if isinstance(value, np.ndarray):
            scale = max(float(np.abs(value).max()), 1e-6)
            close = state[key].shape == value.shape and np.allclose(
                state[key], value, atol=0.02 * scale if retyped else 0, rtol=0
            )
            if not close:
                return f"{done}: {key} differs"
        elif state[key] != value:
            return f"{done}: {key} is {state[key]}, not {value}"
    return ""


def run(case: Case, tmp_path: Path, seed: int, count: int) -> None:
    folder = Path(shutil.copytree(case.root, tmp_path / "copy"))
    reference = case.load(folder)
    rng = np.random.default_rng(seed)
    faults = [fault for _ in range(count) if (fault := once(case, folder, rng, reference))]
    assert not faults, f"{len(faults)} of {count}: " + "\n".join(faults)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", originals.FAMILIES)
def test_a_changed_file_is_the_same_or_refused(cases, tmp_path: Path, family: str, kind: str) -> None:
    run(cases[family, kind], tmp_path, KINDS.index(kind), FAST)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", originals.FAMILIES)
def test_two_thousand_changed_files_are_the_same_or_refused(cases, tmp_path: Path, family: str, kind: str) -> None:
    run(cases[family, kind], tmp_path, 100 + KINDS.index(kind), SLOW)


def test_a_change_of_every_sort_is_tried() -> None:
    rng = np.random.default_rng(0)
    done = {mangle({f"a.{i}.weight": np.zeros((3, 4), np.float32) for i in range(5)}, rng).split(" ")[0] for _ in range(200)}
    assert {"rename", "drop", "add", "retype", "reshape", "NaN"} <= done


def test_the_weights_of_a_folder_are_those_mangled(cases) -> None:
    """The files that are changed are those that are read."""
    root = cases["xl", "folder"].root
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    read = {file.relative_to(root).as_posix() for part in parts for file in find_weights(root / part)}
    assert read <= set(cases["xl", "folder"].files)
