"""Generators as people have them: what each is, which extras are passed over, what may be missing, where parts disagree."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (names its dtypes to NumPy)
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from bridgejax.cli import main
from bridgejax.diffusion.decisions import check_parts, decisions
from bridgejax.diffusion.families import identify
from bridgejax.diffusion.find import find_generator
from bridgejax.diffusion.load import load_networks
from bridgejax.diffusion.single_file import read_single_file
from bridgejax.diffusion.spec import content_digest
from bridgejax.errors import UserError
from bridgejax.models import original_layout as layout
from tests import original_files as originals

U, V = layout.UNET_PREFIX, layout.VAE_PREFIX
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One single file per family, each with a tokenizer beside it."""
    root = tmp_path_factory.mktemp("files")
    return {family: originals.write_single_file(root / family, family) for family in originals.FAMILIES}


def rewritten(file: Path, target: Path, change: Callable[[Tensors], object]) -> Path:
    """Writes a changed copy of a file beside a copy of its tokenizer."""
    tensors = dict(load_file(file))
    change(tensors)
    target.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, target / "x.safetensors")
    if not (target / "tokenizer").exists():
        shutil.copytree(file.parent / "tokenizer", target / "tokenizer")
    return target / "x.safetensors"


def same_parts(one: Path | str, other: Path, parts: tuple[str, ...], **options: Any) -> None:
    a, b = find_generator(one, **options), find_generator(other)
    for part in parts:
        ours, theirs = a.tensors(part), b.tensors(part)
        assert set(ours) == set(theirs)
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert (a.unet, a.text_encoders) == (b.unet, b.text_encoders)


def whole(spec: Any) -> None:
    """Loads the shapes of every network: raises where a tensor is missing or has no place."""
    load_networks(spec, "float32", lambda path, shape, dtype, read: jax.ShapeDtypeStruct(tuple(shape), dtype))


# How many layers of a text encoder are read. The kind: OpenCLIP's encoder of SD 2.x is read one layer early, so files hold the
# last layer (Stability's, kohya's, merges of both) or do not (converted back from diffusers); their names alone say so.


def text_file(prefix: str, width: int, layers: int, projection: bool) -> Tensors:
    """An OpenCLIP text encoder of a width, its numbers the layer's index."""
    tensors: Tensors = {
        "token_embedding.weight": np.zeros((600, width), np.float16),
        "positional_embedding": np.zeros((77, width), np.float16),
        "ln_final.weight": np.ones(width, np.float16),
        "ln_final.bias": np.zeros(width, np.float16),
    }
    shapes = {"ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,)}
    shapes |= {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
    shapes |= {"attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,)}
    shapes |= {"mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,)}
    shapes |= {"mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,)}
    for layer in range(layers):
        for name, shape in shapes.items():
            tensors[f"transformer.resblocks.{layer}.{name}"] = np.broadcast_to(np.float16(layer), shape)
    if projection:
        tensors["text_projection"] = np.zeros((width, width), np.float16)
    return {prefix + name: array for name, array in tensors.items()}


@pytest.mark.parametrize(
    ("width", "present", "projection", "read"),
    [
        (1024, 24, True, 23),  # Stability's own
        (1024, 24, False, 23),
        (1024, 23, False, 23),  # converted back from diffusers
        (1024, 23, True, 23),
        (64, 3, True, 2),
        (64, 3, False, 3),
    ],
)
def test_all_layers_that_sd2_reads_are_read(width: int, present: int, projection: bool, read: int) -> None:
    from bridgejax.diffusion.single_file_configs import open_clip_encoder

    prefix = layout.SD2_TEXT_PREFIX
    tensors = {name.removeprefix(prefix): array for name, array in text_file(prefix, width, present, projection).items()}
    encoder = open_clip_encoder(tensors, prefix, "file", "sd2")
    assert encoder.config["num_hidden_layers"] == read
    assert f"encoder.layers.{read - 1}.mlp.fc1.weight" in encoder.tensors
    assert not any(name.startswith(f"encoder.layers.{read}.") for name in encoder.tensors)
    assert bool(encoder.ignored) == (present > read or projection)


@pytest.mark.parametrize(("present", "told"), [(22, "holds 22 layers"), (25, "holds 25 layers"), (12, "holds 12 layers")])
def test_another_number_of_layers_of_the_published_width_is_refused(present: int, told: str) -> None:
    from bridgejax.diffusion.single_file_configs import open_clip_encoder

    tensors = text_file("", 1024, present, False)
    with pytest.raises(UserError, match=rf"{told} a\.transformer\.resblocks.*has 23, or 24 of which the last is not read"):
        open_clip_encoder(tensors, "a.", "file", "sd2")
    assert open_clip_encoder(tensors, "a.", "file", "sd2", present).config["num_hidden_layers"] == present


def _back_from_diffusers(tensors: Tensors) -> None:
    """As diffusers' script writes SD 2.x: the layers of its text encoder, without the last of OpenCLIP's and the projection."""
    for name in list(tensors):
        last = f"{layout.SD2_TEXT_PREFIX}transformer.resblocks.2."
        if name.startswith(last) or name.endswith(("text_projection", "logit_scale")):
            del tensors[name]


def test_an_sd2_file_converted_back_is_the_same_generator(files, tmp_path: Path, capfd: Any) -> None:
    file = rewritten(files["sd2"], tmp_path, _back_from_diffusers)
    same_parts(file, files["sd2"], ("unet", "vae", "text_encoder"))
    assert main(["import-weights", str(file), "--output", str(tmp_path / "out")]) == 0
    capfd.readouterr()
    written = find_generator(tmp_path / "out").tensors("text_encoder")
    for name, array in find_generator(files["sd2"]).tensors("text_encoder").items():
        np.testing.assert_array_equal(written[name], array)


# Extras. The kind: tensors that a program saves beside what pictures depend on. Members: CLIP's projection under transformers'
# names (ComfyUI), logit scales, CLIP's image encoder, averaged weights, schedules, losses, marks of training.
def _extras(family: str) -> list[str]:
    text = {"sd1": "cond_stage_model.", "sd2": "cond_stage_model.", "xl": "conditioner.embedders.0."}[family]
    names = [
        f"{text}logit_scale",
        f"{text}transformer.logit_scale",
        "model_ema.diffusion_modelout2bias",
        f"{V}loss.discriminator.main.0.weight",
        "sqrt_alphas_cumprod",
        "posterior_variance",
        "global_step",
        "denoiser.sigmas",
        "embedding_manager.initial_embeddings",
    ]
    if family != "sd2":
        names += [f"{text}text_projection", f"{text}transformer.text_projection.weight", f"{text}transformer.text_projection"]
        names += [f"{text}transformer.vision_model.post_layernorm.weight", f"{text}transformer.visual_projection.weight"]
    if family != "sd1":
        names += [
            f"{layout.SD2_TEXT_PREFIX if family == 'sd2' else layout.XL_TEXT_2_PREFIX}{n}" for n in ("logit_scale", "attn_mask")
        ]
    return names


@pytest.mark.parametrize("family", originals.FAMILIES)
def test_known_extras_change_nothing_and_are_named(files, tmp_path: Path, family: str) -> None:
    extras = [name for name in _extras(family) if name not in load_file(files[family])]
    file = rewritten(files[family], tmp_path, lambda t: t.update({name: np.ones((64, 64), np.float32) for name in extras}))
    parts = ("unet", "vae", "text_encoder", *(("text_encoder_2",) if family == "xl" else ()))
    same_parts(file, files[family], parts)
    spec = find_generator(file)
    whole(spec)
    assert set(extras) - {"global_step"} <= set(spec.ignored)
    for name in ("cond_stage_model.text_projection", "conditioner.embedders.0.text_projection"):
        assert (name in decisions(spec)) == (name in extras)


@pytest.mark.parametrize("family", originals.FAMILIES)
def test_an_unknown_extra_is_named_as_in_the_file(files, tmp_path: Path, family: str) -> None:
    prefixes = {"sd1": layout.SD1_TEXT_PREFIX + "text_model.", "sd2": layout.SD2_TEXT_PREFIX, "xl": layout.XL_TEXT_PREFIX}
    for name in ("strange.weight", f"{U}strange.weight", f"{V}strange.weight", f"{prefixes[family]}strange.weight"):
        file = rewritten(files[family], tmp_path, lambda t, name=name: t.update({name: np.ones(3, np.float32)}))
        with pytest.raises(UserError) as caught:
            whole(find_generator(file))
        assert f"({name})" in str(caught.value)


def test_the_rest_of_a_clip_in_a_text_encoders_folder_is_passed_over(tiny_generator: Path, tmp_path: Path) -> None:
    """As transformers does: CLIPTextModel reads a file of the whole CLIP."""
    folder = Path(shutil.copytree(tiny_generator, tmp_path / "g"))
    file = folder / "text_encoder" / "model.safetensors"
    extras = {"text_projection.weight": np.ones((8, 32), np.float32), "logit_scale": np.ones(1, np.float32)}
    extras |= {
        "vision_model.post_layernorm.weight": np.ones(4, np.float32),
        "visual_projection.weight": np.ones((4, 4), np.float32),
    }
    save_file({**load_file(file), **extras}, file)
    same_parts(folder, tiny_generator, ("text_encoder",))
    whole(find_generator(folder))
    assert all(name in decisions(find_generator(folder)) for name in ("text_projection.weight", "CLIP's image encoder"))


# What the caller supplies need not be in the file.


def _without_vae(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith(V)]:
        del tensors[name]


@pytest.mark.parametrize("family", originals.FAMILIES)
def test_a_file_without_autoencoder_takes_one(files, tmp_path: Path, family: str, capfd: Any) -> None:
    file = rewritten(files[family], tmp_path, _without_vae)
    with pytest.raises(
        UserError, match=r"x\.safetensors holds no autoencoder \(first_stage_model\.…\); give one of (Stable|SDXL)"
    ):
        find_generator(file)
    assert main(["import-weights", str(files[family]), "--output", str(tmp_path / "whole")]) == 0
    spec = find_generator(file, vae=tmp_path / "whole")
    whole(spec)
    for name, array in find_generator(files[family]).tensors("vae").items():
        np.testing.assert_array_equal(spec.tensors("vae")[name], array)
    assert main(["import-weights", str(file), "--output", str(tmp_path / "out"), "--vae", str(tmp_path / "whole")]) == 0
    assert "from " + str(tmp_path / "whole" / "vae") in capfd.readouterr().err
    assert set(find_generator(tmp_path / "out").tensors("vae")) == set(spec.tensors("vae"))


@pytest.mark.parametrize("family", originals.FAMILIES)
@pytest.mark.parametrize("form", ["alone", "prefixed", "with losses and averages", "in a generator"])
def test_an_autoencoder_in_a_single_file(files, tmp_path: Path, family: str, form: str) -> None:
    """The kind: the files in which autoencoders are published (vae-ft-mse-840000, sdxl_vae), for generators of each layout."""
    own = load_file(files[family])
    prefix = V if form in ("prefixed", "in a generator") else ""
    tensors = {prefix + name.removeprefix(V): array for name, array in own.items() if name.startswith(V)}
    if form == "with losses and averages":
        tensors |= {"loss.logvar": np.zeros((), np.float32), "model_ema.decay": np.ones((), np.float32)}
    file = files[family] if form == "in a generator" else tmp_path / "vae.safetensors"
    if form != "in a generator":
        save_file(tensors, file)
    single = rewritten(files[family], tmp_path / "bare", _without_vae)
    assert main(["import-weights", str(files[family]), "--output", str(tmp_path / "whole")]) == 0
    for generator in (single, tmp_path / "whole"):
        spec = find_generator(generator, vae=file)
        whole(spec)
        wanted = find_generator(files[family])
        assert spec.vae == wanted.vae
        for name, array in wanted.tensors("vae").items():
            np.testing.assert_array_equal(spec.tensors("vae")[name], array)
        assert str(file) in decisions(spec)
        assert ("vae: loss.logvar" in spec.ignored) == (form == "with losses and averages")
        assert content_digest(spec) != content_digest(find_generator(tmp_path / "whole"))


def test_a_file_that_holds_no_autoencoder_is_told(files, tmp_path: Path) -> None:
    """The kind: autoencoders under diffusers' names, files cut short, other files."""
    tensors = {name.removeprefix(V): array for name, array in load_file(files["sd1"]).items() if name.startswith(V)}
    del tensors["decoder.conv_out.weight"]
    save_file(tensors, tmp_path / "cut.safetensors")
    save_file({"decoder.up_blocks.0.resnets.0.norm1.weight": np.ones(4, np.float32)}, tmp_path / "diffusers.safetensors")
    for name, sentence in (
        ("cut", r"cut\.safetensors: tensor decoder\.conv_out\.weight is missing"),
        ("diffusers", "no autoencoder under original names .* give its folder"),
        ("absent", "there is no file .*absent"),
    ):
        with pytest.raises(UserError, match=sentence):
            find_generator(files["sd1"], vae=tmp_path / f"{name}.safetensors")


def test_a_folder_without_autoencoder_takes_one(tiny_generator: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_generator, tmp_path / "g"))
    shutil.rmtree(folder / "vae")
    with pytest.raises(UserError, match=r"holds no autoencoder \(vae/\); give one with vae= or --vae"):
        find_generator(folder)
    whole(find_generator(folder, vae=tiny_generator))


# Identity. The kind: a family is what names *and* shapes say; each fact is checked against each other.


def _context(tensors: Tensors, width: int) -> None:
    for name in [name for name in tensors if name.startswith(U) and name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]:
        tensors[name] = np.zeros((tensors[name].shape[0], width), np.float32)


def _conv_projections(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith(U) and name.endswith(("proj_in.weight", "proj_out.weight"))]:
        tensors[name] = tensors[name].reshape(*tensors[name].shape[:2], *((1, 1) if tensors[name].ndim == 2 else ()))


def _renamed(old: str, new: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(old)]:
            tensors[new + name.removeprefix(old)] = tensors.pop(name)

    return change


@pytest.mark.parametrize(
    ("family", "change", "facts"),
    [
        ("sd1", lambda t: _context(t, 1024), ("attends to 1024", "1×1 convolutions")),
        ("sd1", lambda t: _context(t, 2048), ("cond_stage_model.transformer.", "attends to 2048")),
        ("sd1", lambda t: _context(t, 768), ("attends to 768", "token_embedding.weight")),
        ("sd1", _conv_projections, ("cond_stage_model.transformer.", "are matrices")),
        ("sd2", _conv_projections, ("cond_stage_model.model.", "1×1 convolutions")),
        ("sd2", lambda t: _context(t, 768), ("cond_stage_model.model.", "attends to 768")),
        ("sd2", lambda t: _context(t, 80), ("attends to 80", "64 (cond_stage_model.model.token_embedding.weight)")),
        ("sd2", _renamed(layout.SD2_TEXT_PREFIX, layout.XL_TEXT_2_PREFIX), ("conditioner.embedders.1.", "nothing but tokens")),
        (
            "sd2",
            lambda t: t.update({f"{U}label_emb.0.0.weight": np.ones((4, 4), np.float32)}),
            ("cond_stage_model", "label_emb"),
        ),
        ("xl", _renamed("conditioner.embedders.0.", "cond_stage_model."), ("cond_stage_model.transformer.", "conditioner")),
        ("xl", _renamed(f"{U}label_emb.", "model_ema."), ("conditioner.embedders.0.", "it has no")),
        ("xl", lambda t: _context(t, 1024), ("conditioner.embedders.0.", "attends to 1024")),
        ("xl", lambda t: _context(t, 64), ("attends to 64", "64 (conditioner.embedders.0.")),
        (
            "xl",
            lambda t: t.update({f"{U}label_emb.0.0.weight": np.ones((128, 100), np.float32)}),
            ("label_emb.0.0.weight takes 100", "projection gives 48"),
        ),
    ],
)
def test_facts_that_disagree_are_both_named(files, tmp_path: Path, family: str, change: Any, facts: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="does not agree with itself") as caught:
        find_generator(rewritten(files[family], tmp_path, change))
    assert all(fact in str(caught.value) for fact in facts), str(caught.value)


@pytest.mark.parametrize(
    ("family", "start", "sentence"),
    [
        ("sd1", f"{U}middle_block.", "without a middle block"),
        (
            "xl",
            f"{U}output_blocks.0.1.transformer_blocks.1.",
            r"output_blocks\.0 has 1 transformers, but others at its level have 2",
        ),
        (
            "xl",
            f"{U}input_blocks.5.1.transformer_blocks.1.",
            r"input_blocks\.5 has 1 transformers, but others at its level have 2",
        ),
        ("sd2", f"{U}output_blocks.2.1.", r"output_blocks\.2 has 0 transformers, but others at its level have 1"),
    ],
)
def test_distilled_unets_are_refused_as_such(files, tmp_path: Path, family: str, start: str, sentence: str) -> None:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(start)]:
            del tensors[name]

    with pytest.raises(UserError, match=sentence):
        find_generator(rewritten(files[family], tmp_path, change))


@pytest.mark.parametrize("family", originals.FAMILIES)
def test_a_family_is_shown_by_its_facts(files, family: str) -> None:
    found = identify(load_file(files[family]), "file")
    assert found.name == family
    assert len(found.facts) >= 3


def test_sd2_under_transformers_names_is_sd2(files, tmp_path: Path) -> None:
    """As diffusers: the context of 1024 decides, whatever the text encoder's names; heads, activation and prediction follow."""

    def change(tensors: Tensors) -> None:
        _context(tensors, 1024)
        for name in [name for name in tensors if name.startswith("cond_stage_model.")]:
            del tensors[name]
        config = {**originals.text_configs("sd2")[0], "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24}
        shapes = originals.part_shapes(originals.unet_config("sd2"), originals.vae_config("sd2"), [config], [False])
        for name, shape in shapes["text_encoder"].items():
            tensors[f"{layout.SD1_TEXT_PREFIX}text_model.{name}"] = np.broadcast_to(np.float16(0), shape)

    spec = find_generator(rewritten(files["sd2"], tmp_path, change))
    whole(spec)
    text = spec.text_encoders[0]
    assert (text["num_hidden_layers"], text["hidden_act"], text["num_attention_heads"], text["pad_token_id"]) == (
        23,
        "gelu",
        16,
        0,
    )
    assert spec.unet["attention_head_dim"] == [1, 2, 2]
    assert spec.scheduler["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(("step", "prediction"), [(875000, "epsilon"), (110000, "v_prediction"), (None, "v_prediction")])
def test_the_base_of_sd2_is_known_by_its_step(files, tmp_path: Path, step: int | None, prediction: str) -> None:
    extra = {} if step is None else {"global_step": np.array(step, np.int64)}
    assert (
        read_single_file(rewritten(files["sd2"], tmp_path, lambda t: t.update(extra))).scheduler["prediction_type"]
        == prediction
    )


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_scaling_factor_that_is_none_is_named(files, tmp_path: Path, value: float) -> None:
    with pytest.raises(UserError, match="tensor scale_factor is"):
        read_single_file(rewritten(files["sd1"], tmp_path, lambda t: t.update({"scale_factor": np.array(value, np.float32)})))


@pytest.mark.parametrize(
    ("part", "key", "value", "sentence"),
    [
        ("unet", "cross_attention_dim", 48, r"attends to 48.*gives 32 \(hidden_size\)"),
        ("unet", "out_channels", 8, "makes 8 \\(out_channels\\)"),
        ("unet", "addition_embed_type", "text_time", r"the pipeline is StableDiffusionPipeline, but.*'text_time'"),
    ],
)
def test_configs_of_two_models_are_both_named(tiny_generator: Path, part: str, key: str, value: Any, sentence: str) -> None:
    spec = find_generator(tiny_generator)
    with pytest.raises(UserError, match=sentence):
        check_parts(dataclasses.replace(spec, **{part: {**getattr(spec, part), key: value}}))


@pytest.mark.parametrize("value", ["64", -8, [8], [8, 8, 8], 8.0, [8, "8"]])
def test_a_size_of_images_that_is_none_is_named(tiny_generator: Path, value: object) -> None:
    spec = find_generator(tiny_generator)
    with pytest.raises(UserError, match=r"sample_size = .* must be a positive whole number, or two"):
        check_parts(dataclasses.replace(spec, unet={**spec.unet, "sample_size": value}))


@pytest.mark.parametrize(("version", "side"), [("0.6.0.dev0", 64), ("0.8.1", 64), ("0.9.0", 8), ("0.42.1", 8), (None, 8)])
def test_sizes_of_the_oldest_folders_are_those_that_diffusers_takes(
    tiny_generator: Path, tmp_path: Path, version: str | None, side: int
) -> None:
    folder = Path(shutil.copytree(tiny_generator, tmp_path / "g"))
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, **({"_diffusers_version": version} if version else {})}))
    assert find_generator(folder).unet["sample_size"] == side


# Names that changed. The kind: what a part's files and tensors were called over the years.

INDEX = {"weight_map": {}}
FILES = [
    "{stem}.safetensors",
    "{stem}.fp16.safetensors",
    "{stem}.bf16.safetensors",
    "{stem}.fp32.safetensors",
    "{stem}.non_ema.safetensors",
]
INDICES = [
    ("{stem}.safetensors.index.json", "{stem}-{i:05}-of-00002.safetensors"),
    ("{stem}.safetensors.index.fp16.json", "{stem}.fp16-{i:05}-of-00002.safetensors"),
    ("{stem}.fp16.safetensors.index.json", "{stem}-{i:05}-of-00002.fp16.safetensors"),
    ("{stem}.safetensors.index.bf16.json", "{stem}.bf16-{i:05}-of-00002.safetensors"),
]


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
@pytest.mark.parametrize("index", [*FILES, *INDICES], ids=str)
def test_files_of_every_year_are_found(tiny_generator: Path, tmp_path: Path, stem: str, index: str | tuple[str, str]) -> None:
    folder = Path(shutil.copytree(tiny_generator, tmp_path / "g"))
    file = next((folder / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    file.unlink()
    if isinstance(index, str):
        save_file(tensors, folder / "unet" / index.format(stem=stem))
    else:
        names = sorted(tensors)
        shards = {index[1].format(stem=stem, i=1): names[:20], index[1].format(stem=stem, i=2): names[20:]}
        for shard, held in shards.items():
            save_file({name: tensors[name] for name in held}, folder / "unet" / shard)
        where = {name: shard for shard, held in shards.items() for name in held}
        (folder / "unet" / index[0].format(stem=stem)).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    same_parts(folder, tiny_generator, ("unet",))


def test_a_tensor_in_two_files_of_a_model_is_named(tiny_generator: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_generator, tmp_path / "g"))
    file = next((folder / "unet").glob("*.safetensors"))
    where = dict.fromkeys(load_file(file), "a.safetensors") | {"conv_in.bias": "b.safetensors"}
    file.rename(folder / "unet" / "a.safetensors")
    save_file({"conv_in.bias": np.zeros(16, np.float32)}, folder / "unet" / "b.safetensors")
    (folder / "unet" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(UserError, match=r"b\.safetensors: tensor conv_in\.bias is in another file"):
        find_generator(folder).tensors("unet")


@pytest.mark.parametrize("wrapped", [True, False])
def test_text_encoders_with_and_without_text_model(tiny_generator: Path, tmp_path: Path, wrapped: bool) -> None:
    """transformers 5 writes no `text_model.`; both are read, a mixture is refused, what is missing is spelled its way."""
    folder = Path(shutil.copytree(tiny_generator, tmp_path / "g"))
    file = folder / "text_encoder" / "model.safetensors"
    start = "text_model." if wrapped else ""
    plain = {start + name.removeprefix("text_model."): array for name, array in load_file(file).items()}
    save_file(plain, file)
    same_parts(folder, tiny_generator, ("text_encoder",))
    lost = f"{start}encoder.layers.0.mlp.fc1.bias"
    save_file({name: array for name, array in plain.items() if name != lost}, file)
    with pytest.raises(UserError, match=rf"missing \({lost.replace('.', chr(92) + '.')}\)"):
        whole(find_generator(folder))
    other = "encoder.layers.0.mlp.fc1.bias" if wrapped else "text_model.encoder.layers.0.mlp.fc1.bias"
    save_file({**plain, other: plain[lost]}, file)
    with pytest.raises(UserError, match="are the same one") as caught:
        whole(find_generator(folder))
    assert other in str(caught.value)


def test_old_names_of_the_autoencoders_attention_are_spelled_as_the_file_does(tiny_generator: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_generator, tmp_path / "g"))
    file = next((folder / "vae").glob("*.safetensors"))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    for name in list(tensors):
        for today, before in old.items():
            if f".{today}." in name:
                tensors[name.replace(f".{today}.", f".{before}.")] = tensors.pop(name)
    save_file(tensors, file)
    same_parts(folder, tiny_generator, ("vae",))
    name = next(name for name in tensors if name.endswith(".query.weight"))
    save_file({**tensors, name: np.ones((3, 3), np.float32)}, file)
    with pytest.raises(UserError, match=r"query\.weight has shape \[3, 3\]"):
        whole(find_generator(folder))


# What was decided is said.


@pytest.mark.parametrize("family", originals.FAMILIES)
def test_doctor_says_what_a_file_is_as_import_weights_does(files, tmp_path: Path, family: str, capfd: Any) -> None:
    assert main(["doctor", "--weights", str(files[family])]) == 0
    told = capfd.readouterr().out
    assert main(["import-weights", str(files[family]), "--output", str(tmp_path / "out")]) == 0
    assert told.strip() == capfd.readouterr().err.strip()
    assert {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "xl": "SDXL base"}[family] in told
    for word in ("prediction type", "text_encoder", "vae", "dtype", "ignored", "float32"):
        assert word in told
    assert main(["doctor", "--weights", str(tmp_path / "out")]) == 0
    assert family != "sd2" or "v_prediction" in capfd.readouterr().out


@pytest.mark.parametrize("options", [("--vae", "x"), ("--weights", "x", "--config", "y.py")])
def test_doctor_takes_one_question(options: tuple[str, ...], capfd: Any) -> None:
    assert main(["doctor", *options]) == 2
    assert "--weights" in capfd.readouterr().err


def test_doctor_refuses_what_loading_refuses(files, tmp_path: Path, capfd: Any) -> None:
    file = rewritten(files["sd1"], tmp_path, lambda t: t.pop(f"{U}out.2.bias"))
    assert main(["doctor", "--weights", str(file)]) == 2
    assert f"{U}out.2.bias" in capfd.readouterr().err


def test_nothing_is_read_to_say_what_a_file_is(files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and shapes come from the header: a file of many gigabytes is described at once."""

    class Unread(np.ndarray):
        def __array_finalize__(self, obj: object) -> None:
            pass

        def astype(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("an array was read")

    spec = find_generator(files["xl"])
    assert spec.parts is not None
    parts = {part: {name: array.view(Unread) for name, array in tensors.items()} for part, tensors in spec.parts.items()}
    spec = dataclasses.replace(spec, parts=parts)
    whole(spec)
    assert "SDXL" in decisions(spec)


# Arrays. The kind: a function that takes images or latents states shape, dtype, range and finiteness, and checks them.
SPOILED: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "bytes": (
        lambda x: (x * 255).astype(np.uint8),
        "has dtype uint8; expected floating-point numbers in .0, 1. .divide 8 bits by 255",
    ),
    "0 and 1 as integers": (lambda x: (x > 0.5).astype(np.int32), "has dtype int32"),
    "0 to 255": (lambda x: x * 255, r"has values from .* to 2\d\d.*; expected .0, 1."),
    "-1 to 1": (lambda x: x * 2 - 1, "has values from -"),
    "NaN": (lambda x: np.where(x > 0.5, np.nan, x), "holds NaN"),
    "grey": (lambda x: x[..., :1], "has shape"),
    "channels first": (lambda x: np.moveaxis(x, -1, 1), "has shape"),
    "text": (lambda x: "picture.png", "is not an array of numbers"),
}


@pytest.fixture(scope="module")
def pipe(tiny_generator: Path) -> Any:
    from bridgejax.diffusion import load_pipeline

    return load_pipeline(tiny_generator)


@pytest.mark.parametrize("kind", SPOILED)
def test_images_of_another_range_dtype_or_shape_are_named(pipe: Any, kind: str) -> None:
    spoil, sentence = SPOILED[kind]
    images = spoil(np.random.default_rng(0).uniform(size=(1, 16, 16, 3)).astype(np.float32))
    with pytest.raises(UserError, match=f"^images {sentence}"):
        pipe.encode(images)
    with pytest.raises(UserError, match=f"^init_images {sentence}"):
        pipe("a cat", 1, steps=2, init_images=images)


def test_latents_of_another_shape_or_not_finite_are_named(pipe: Any) -> None:
    with pytest.raises(UserError, match=r"latents has shape \[1, 4, 8, 8\]; expected \[any, any, any, 4\]"):
        pipe.decode(np.zeros((1, 4, 8, 8), np.float32))
    with pytest.raises(UserError, match="latents holds NaN or infinity"):
        pipe.decode(np.full((1, 8, 8, 4), np.inf, np.float32))


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bit_weights_are_read_as_the_numbers_that_they_are(files, tmp_path: Path, kind: str) -> None:
    """The kind: checkpoints saved in 8-bit floats, in either format, whole; those with scales beside them are another model."""

    def shorten(tensors: Tensors, to: Any) -> None:
        for name, array in tensors.items():
            if array.dtype == np.float32 and name.startswith((U, V, "cond_stage_model.")):
                tensors[name] = array.astype(kind).astype(to)

    rounded = rewritten(files["sd1"], tmp_path / "rounded", lambda tensors: shorten(tensors, np.float32))
    short = rewritten(files["sd1"], tmp_path / "short", lambda tensors: shorten(tensors, kind))
    assert short.stat().st_size < rounded.stat().st_size / 3
    assert f"unet {kind}" in decisions(find_generator(short))
    ours, theirs = (load_networks(find_generator(file), "float32", None).unet for file in (short, rounded))
    jax.tree.map(np.testing.assert_array_equal, *(nnx.state(network) for network in (ours, theirs)))
    assert main(["import-weights", str(short), "--output", str(tmp_path / "folder")]) == 0
    assert "unet float16" in decisions(find_generator(tmp_path / "folder"))


@pytest.mark.parametrize("scale", ["scaled_fp8", f"{U}out.2.scale_weight", f"{U}out.2.weight_scale"])
def test_eight_bit_weights_with_scales_are_refused(files, tmp_path: Path, scale: str) -> None:
    def change(tensors: Tensors) -> None:
        tensors[f"{U}out.2.weight"] = tensors[f"{U}out.2.weight"].astype("float8_e4m3fn")
        tensors[scale] = np.ones((), np.float32)

    with pytest.raises(UserError, match=rf"8-bit weights with scales.*{re.escape(scale)}"):
        find_generator(rewritten(files["sd1"], tmp_path, change))
