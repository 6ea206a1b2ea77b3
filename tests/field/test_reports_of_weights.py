"""What `bridgejax doctor --weights` says of every kind of file and folder that is read, and of those that are no generator.

The kind: whoever opens a generator of docs/compatibility.md wants to know which family it is and what shows it, what it
predicts and what shows that, its text encoders, its autoencoder, its dtypes, and what is passed over and why; whoever opens
something else, what it is and where it goes.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bridgejax.cli import main
from bridgejax.diffusion.find import find_generator
from bridgejax.errors import UserError
from bridgejax.models import load_classifier
from bridgejax.models import original_layout as layout
from tests import original_files as originals

Tensors = dict[str, np.ndarray]
SD2 = layout.SD2_TEXT_PREFIX


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a single file of each family, `FAMILY/FAMILY.safetensors`, and the same as a folder, `FAMILY-folder`."""
    root = tmp_path_factory.mktemp("whole")
    for family in originals.FAMILIES:
        file = originals.write_single_file(root / family, family, np.float16)
        assert main(["import-weights", str(file), "--output", str(root / f"{family}-folder")]) == 0
    return root


def told(capfd: Any, *arguments: object) -> str:
    """Returns what the command prints of a generator."""
    capfd.readouterr()
    assert main(["doctor", "--weights", *map(str, arguments)]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def refused(capfd: Any, *arguments: object) -> str:
    """Returns the sentence by which the command refuses."""
    capfd.readouterr()
    assert main(["doctor", "--weights", *map(str, arguments)]) == 2
    words = capfd.readouterr().err
    assert words.count("\n") == 1
    return words


def changed(whole: Path, family: str, target: Path, change: Callable[[Tensors], object]) -> Path:
    tensors = dict(load_file(whole / family / f"{family}.safetensors"))
    change(tensors)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, target / "x.safetensors")
    return target / "x.safetensors"


def _published(tensors: Tensors) -> None:
    pass


def _without_the_last_layer(tensors: Tensors) -> None:
    """As scripts write it that convert a folder of diffusers back."""
    del tensors[f"{SD2}text_projection"]
    for name in [name for name in tensors if name.startswith(f"{SD2}transformer.resblocks.2.")]:
        del tensors[name]


def _base(tensors: Tensors) -> None:
    tensors["global_step"] = np.array(875000, ml_dtypes.bfloat16)  # cast with the weights: 876544


def _velocity(tensors: Tensors) -> None:
    tensors |= {"v_pred": np.zeros(0, np.float16), "ztsnr": np.zeros(0, np.float16)}


def _projection(tensors: Tensors) -> None:
    tensors["conditioner.embedders.0.transformer.text_projection.weight"] = np.eye(64, dtype=np.float16)


def _eight_bits(tensors: Tensors) -> None:
    """Everything, the noise levels too, of which 8 bits keep one digit or none."""
    tensors |= {"scale_factor": np.array(0.18215, np.float16)}
    tensors |= {name: array.astype(ml_dtypes.float8_e4m3fn) for name, array in tensors.items() if array.dtype == np.float16}


EPSILON, VELOCITY = (
    "epsilon (the family's; nothing in the file shows another)",
    "v_prediction (the family's; nothing in the file shows it",
)
CLIP_L, CLIP_H = (
    "text_encoder     2 layers of width 64, quick_gelu, without projection",
    "text_encoder     2 layers of width 64, gelu",
)
KL = "AutoencoderKL, scaling factor 0.18215"
# Of a file: its family, what is changed in it, and what its report must say besides.
FILES: dict[str, tuple[str, Callable[[Tensors], object], tuple[str, ...]]] = {
    "SD 1.x": ("sd1", _published, ("Stable Diffusion 1.x", EPSILON, "PNDMScheduler", CLIP_L, KL, "1×1 convolutions")),
    "SD 1.x that predicts velocity": ("sd1", _velocity, ("v_prediction (shown by tensor v_pred)", "DDIMScheduler", CLIP_L, KL)),
    "SD 1.x in 8 bits": ("sd1", _eight_bits, ("unet float8_e4m3fn, vae float8_e4m3fn", KL, EPSILON)),
    "SD 2.x": (
        "sd2",
        _published,
        (
            "Stable Diffusion 2.x",
            VELOCITY,
            "prediction_type=epsilon",
            "DDIMScheduler",
            CLIP_H,
            KL,
            "matrices",
            "the last layer of",
        ),
    ),
    "SD 2.x converted back": ("sd2", _without_the_last_layer, ("Stable Diffusion 2.x", CLIP_H, VELOCITY)),
    "SD 2.0 base": ("sd2", _base, ("epsilon (shown by tensor global_step", "Stable Diffusion 2.x")),
    "SDXL": (
        "xl",
        _published,
        (
            "SDXL base",
            EPSILON,
            "EulerDiscreteScheduler",
            CLIP_L,
            "text_encoder_2   2 layers of width 64, gelu, with projection",
        ),
    ),
    "SDXL that predicts velocity": ("xl", _velocity, ("v_prediction (shown by tensor v_pred)", "SDXL base", "0.13025")),
    "SDXL with a projection too many": ("xl", _projection, ("text_projection.weight: a projection of the whole text",)),
}
LINES = ("family", "prediction type", "scheduler", "text_encoder", "unet", "vae", "dtype", "ignored")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_every_family_is_told(whole: Path, tmp_path: Path, name: str, capfd: Any) -> None:
    family, change, expected = FILES[name]
    text = told(capfd, changed(whole, family, tmp_path, change))
    heads = [line[:17].strip() for line in text.splitlines()]
    assert [head for head in dict.fromkeys(heads) if head and head != "text_encoder_2"] == list(LINES)
    for words in expected:
        assert words in text
    assert "ignored          model_ema.decay, model_ema.diffusion_modelinput_blocks00weight: averaged weights" in text
    assert "float16" in text or "float8" in text


@pytest.mark.parametrize(
    ("family", "change", "said", "expected"),
    [
        ("sd1", _published, "v", "v_prediction (shown by metadata modelspec.prediction_type)"),
        ("sd2", _published, "epsilon", "epsilon (shown by metadata modelspec.prediction_type)"),
        ("sd2", _base, "epsilon", "512-pixel base and metadata modelspec.prediction_type)"),
        ("sd2", _published, "flow", VELOCITY),
        ("xl", _velocity, "v", "v_prediction (shown by tensor v_pred and metadata modelspec.prediction_type)"),
        ("xl", _velocity, "epsilon", ""),
        ("sd2", _base, "v", ""),
    ],
)
def test_what_is_predicted_may_stand_in_metadata(
    whole: Path, tmp_path: Path, family: str, change: Any, said: str, expected: str, capfd: Any
) -> None:
    """Training programs write it as Stability's model specification has it; where a tensor shows another, both are named."""
    file = changed(whole, family, tmp_path, change)
    save_file(load_file(file), file, metadata={"modelspec.prediction_type": said})
    if expected:
        assert expected in told(capfd, file)
    else:
        assert re.search(
            r"by its tensor (v_pred|global_step).*by its metadata modelspec\.prediction_type", refused(capfd, file)
        )
        assert find_generator(file, prediction_type="epsilon", tokenizers=False).prediction == "as asked for"


@pytest.mark.parametrize("family", originals.FAMILIES)
def test_a_folder_of_every_family_is_told(whole: Path, family: str, capfd: Any) -> None:
    text = told(capfd, whole / f"{family}-folder")
    pipeline = "StableDiffusionXLPipeline" if family == "xl" else "StableDiffusionPipeline"
    kind = "1×1 convolutions" if family == "sd1" else "matrices"
    added = "sizes and the pooled text" if family == "xl" else "nothing but tokens"
    prediction = "v_prediction" if family == "sd2" else "epsilon"
    for words in (
        {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "xl": "SDXL base"}[family],
        f"its pipeline is {pipeline} (model_index.json)",
        f"projections are {kind} (use_linear_projection)",
        f"takes {added} (addition_embed_type)",
        f"prediction type  {prediction} (scheduler_config.json)",
        "unet float16, vae float32" if family == "xl" else "unet float16, vae float16",
    ):
        assert words in text
    assert "ignored" not in text


def test_a_folder_whose_scheduler_does_not_say_what_is_predicted(whole: Path, tmp_path: Path, capfd: Any) -> None:
    folder = Path(shutil.copytree(whole / "sd1-folder", tmp_path / "g"))
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    del config["prediction_type"]
    file.write_text(json.dumps(config))
    assert "prediction type  epsilon (the default, since scheduler_config.json names none)" in told(capfd, folder)


def test_the_embedded_generator_is_told(capfd: Any) -> None:
    assert "takes the text as a whole" in told(capfd, "builtin:tiny_diffusion")


@pytest.mark.parametrize("form", ["file", "folder", "generator", "alone"])
def test_where_the_autoencoder_comes_from_is_told(whole: Path, tmp_path: Path, form: str, capfd: Any) -> None:
    def without(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(layout.VAE_PREFIX)]:
            del tensors[name]

    file = changed(whole, "sd1", tmp_path, without)
    assert "holds no autoencoder (first_stage_model.…); give one of Stable Diffusion 1.x" in refused(capfd, file)
    place = {"file": "sd1/sd1.safetensors", "folder": "sd1-folder/vae", "generator": "sd1-folder"}.get(form, "")
    if form == "alone":
        tensors = load_file(whole / "sd1" / "sd1.safetensors")
        inside = {name.removeprefix(layout.VAE_PREFIX): a for name, a in tensors.items() if name.startswith(layout.VAE_PREFIX)}
        save_file(inside, tmp_path / "vae.safetensors")
        assert re.search(
            r"is an autoencoder \(it holds \S+\), not a generator; give", refused(capfd, tmp_path / "vae.safetensors")
        )
    vae = tmp_path / "vae.safetensors" if form == "alone" else whole / place
    assert f"{KL}, from {vae / 'vae' if form == 'generator' else vae}" in told(capfd, file, "--vae", vae)


# What is no generator says where it goes.


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "is a LoRA .* in loras or after --lora"),
        ("unet.mid_block.attentions.0.proj_in.lora_A.weight", "is a LoRA .* in loras or after --lora"),
        ("lycoris_mid_block_attentions_0_proj_in.lokr_w1", "is a LoRA .* in loras or after --lora"),
        ("emb_params", "is a textual-inversion embedding .* in embeddings or after --embedding"),
        ("<neon>", "is a textual-inversion embedding .* in embeddings or after --embedding"),
        ("down_blocks.0.resnets.0.conv1.weight", "is one part of a diffusers folder .* holds model_index.json"),
        ("joint_blocks.0.x_block.attn.qkv.weight", "is Stable Diffusion 3 .* not supported as a single file"),
    ],
)
def test_a_file_that_is_no_generator_says_where_it_goes(tmp_path: Path, name: str, sentence: str, capfd: Any) -> None:
    save_file({name: np.ones((2, 2), np.float32)}, tmp_path / "x.safetensors")
    words = refused(capfd, tmp_path / "x.safetensors")
    assert re.search(sentence, words)
    assert name in words


def test_a_folder_that_is_no_generator_says_what_it_is(whole: Path, capfd: Any) -> None:
    """The kind: a folder one level too high or too low, and one of another network."""
    assert re.search(r"but holds sd1-folder, sd2-folder, xl-folder; give", refused(capfd, whole))
    assert "but holds sd1.safetensors; give" in refused(capfd, whole / "sd1")
    assert "one network (AutoencoderKL)" in refused(capfd, whole / "sd1-folder" / "vae")
    assert "one network (UNet2DConditionModel)" in refused(capfd, whole / "sd1-folder" / "unet")
    assets = Path(find_generator("builtin:tiny_diffusion").folder).parent
    assert "one network (efficientnet_lite0)" in refused(capfd, assets / "efficientnet_lite0")


# The kind: a symbolic link whose target is gone (an emptied hub cache, a copy that kept links), wherever files are read.


def broken(path: Path) -> str:
    """Puts a link to nowhere in a path's place, and returns the beginning of the sentence about it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(path.with_name("gone"))
    return f"{path} is a link to {path.with_name('gone')}, which is missing; "


@pytest.mark.parametrize(
    "place",
    [
        ".",
        "model_index.json",
        "unet",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_broken_link_of_a_generator_is_named(whole: Path, tmp_path: Path, place: str, capfd: Any) -> None:
    folder = Path(shutil.copytree(whole / "sd1-folder", tmp_path / "g"))
    sentence = broken(folder / place)
    assert sentence in refused(capfd, folder)


def test_a_broken_link_to_a_file_is_named(whole: Path, tmp_path: Path) -> None:
    sentence = broken(tmp_path / "x.safetensors")
    for options in ({"loras": [tmp_path / "x.safetensors"]}, {"embeddings": {"<w>": tmp_path / "x.safetensors"}}):
        with pytest.raises(UserError, match=re.escape(sentence)):
            find_generator(whole / "sd1-folder", **options)
    for options in ({"name": tmp_path / "x.safetensors"}, {"name": whole / "sd1-folder", "vae": tmp_path / "x.safetensors"}):
        with pytest.raises(UserError, match=re.escape(sentence)):
            find_generator(**options)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_broken_link_of_a_classifier_is_named(tmp_path: Path, name: str) -> None:
    """A link of the preprocessing would go unnoticed: without it images are made ready in another way."""
    asset = Path(find_generator("builtin:tiny_diffusion").folder).parent / "efficientnet_lite0"
    folder = Path(shutil.copytree(asset, tmp_path / "c"))
    sentence = broken(folder / name)
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_classifier(folder)
