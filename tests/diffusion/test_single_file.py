"""Single files under the original names: recognised, read whole, and the same model as in PyTorch."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from bridgejax.diffusion import load_pipeline
from bridgejax.diffusion import single_file as single
from bridgejax.diffusion.schedulers import SCHEDULER_TYPES, make_scheduler
from bridgejax.errors import UserError
from bridgejax.models.safetensors_files import save_tensors
from tests import original_files as originals

SIZE = {"height": 16, "width": 16}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One single file per family."""
    root = tmp_path_factory.mktemp("single")
    return {family: originals.write_single_file(root / family, family) for family in originals.FAMILIES}


@pytest.mark.parametrize("family", originals.FAMILIES)
def test_configs_and_tensors_are_read_off_the_file(files, family: str) -> None:
    read = single.read_single_file(files[family])
    for have, want in ((read.unet, originals.unet_config(family)), (read.vae, originals.vae_config(family))):
        assert {key: have.get(key) for key in want} == want
    for have, want in zip(read.text_encoders, originals.text_configs(family), strict=True):
        assert {key: have.get(key) for key in want} == want
    assert read.scheduler["prediction_type"] == ("v_prediction" if family == "sd2" else "epsilon")
    assert "trained_betas" not in read.scheduler
    expected = originals.random_parts(family)
    for part, tensors in expected.items():
        found = {name: array for name, array in read.parts[part].items() if not name.endswith("position_ids")}
        assert set(found) == set(tensors)
        for name, array in tensors.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


PUBLISHED = {
    "sd1": {
        "unet": {
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
            "use_linear_projection": False,
            "transformer_layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
        "texts": [(768, 3072, 12, 12, 768, "quick_gelu")],
    },
    "sd2": {
        "unet": {
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
            "transformer_layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
        "texts": [(1024, 4096, 23, 16, 1024, "gelu")],
    },
    "xl": {
        "unet": {
            "block_out_channels": [320, 640, 1280],
            "layers_per_block": 2,
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "transformer_layers_per_block": [1, 2, 10],
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "texts": [(768, 3072, 12, 12, 768, "quick_gelu"), (1280, 5120, 32, 20, 1280, "gelu")],
    },
}
_TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "projection_dim",
    "hidden_act",
)


@pytest.mark.parametrize("family", ["sd1", "sd2", pytest.param("xl", marks=pytest.mark.slow)])
def test_the_published_sizes_give_the_published_configs(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with the published models' shapes (and no numbers) is read as the published configs."""
    unet = PUBLISHED[family]["unet"]
    vae = {**originals.vae_config(family), "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    texts = [dict(zip(_TEXT_KEYS, values, strict=True)) for values in PUBLISHED[family]["texts"]]
    shapes = originals.part_shapes(unet, vae, texts, [False, True][: len(texts)])
    parts = {
        part: {name: np.broadcast_to(np.float16(0), shape) for name, shape in names.items()} for part, names in shapes.items()
    }
    monkeypatch.setattr(single, "read_metadata", lambda path: {})
    monkeypatch.setattr(single, "read_tensors", lambda path: originals.original_names(family, parts, unet, vae))
    read = single.read_single_file(Path("published.safetensors"))
    assert {key: read.unet.get(key) for key in unet} == unet
    assert {key: read.vae.get(key) for key in vae} == vae
    assert read.unet["sample_size"] == {"sd1": 64, "sd2": 96, "xl": 128}[family]
    assert read.vae["sample_size"] == {"sd1": 512, "sd2": 768, "xl": 1024}[family]
    for have, want in zip(read.text_encoders, texts, strict=True):
        assert {key: have[key] for key in want} == want
        assert have["vocab_size"] == 49408
        assert have["eos_token_id"] == 49407
    for part, names in shapes.items():
        found = {name: array.shape for name, array in read.parts[part].items() if not name.endswith("position_ids")}
        assert found == names


@pytest.mark.parametrize("family", originals.FAMILIES)
def test_a_single_file_generates(files, family: str) -> None:
    pipe = load_pipeline(files[family])
    images = np.asarray(pipe(["a cat"], seeds=[1], steps=2, **SIZE))
    assert images.shape == (1, 16, 16, 3)
    assert np.isfinite(images).all()
    assert images.std() > 0.01


def test_prediction_type_and_model_config_are_taken(files, tmp_path: Path) -> None:
    base = single.read_single_file(files["sd2"], prediction_type="epsilon")
    assert base.scheduler["prediction_type"] == "epsilon"
    assert base.unet["sample_size"] == 64
    with pytest.raises(UserError, match="did you mean 'v_prediction'"):
        load_pipeline(files["sd2"], prediction_type="v_predicton")
    file = shutil.copyfile(files["sd1"], tmp_path / "mine.safetensors")
    originals.write_json(tmp_path / "mine.config.json", {"unet": {"attention_head_dim": 4}, "scheduler": {"beta_end": 0.02}})
    read = single.read_single_file(file)
    assert (read.unet["attention_head_dim"], read.scheduler["beta_end"]) == (4, 0.02)
    with pytest.raises(UserError, match=r"'unett' is not a part.*did you mean 'unet'"):
        single.read_single_file(file, model_config={"unett": {}})
    with pytest.raises(UserError, match="attention_head_dim cannot be seen in the tensors"):
        single.read_single_file(file, model_config={"unet": {"attention_head_dim": 7}})


def test_other_noise_levels_in_the_file_are_kept(files, tmp_path: Path) -> None:
    tensors = load_file(files["sd1"])
    tensors["betas"] = np.linspace(0.001, 0.02, 100).astype(np.float32)
    save_tensors(tmp_path / "x.safetensors", tensors)
    scheduler = single.read_single_file(tmp_path / "x.safetensors").scheduler
    assert scheduler["num_train_timesteps"] == 100
    np.testing.assert_allclose(scheduler["trained_betas"], tensors["betas"])


@pytest.mark.parametrize("family", originals.FAMILIES)
def test_any_sampler_takes_a_single_file(files, family: str, tmp_path: Path) -> None:
    """The config is complete: no sampler clips latents at 1 or misses an option, and zero terminal SNR is never dropped."""
    config = single.read_single_file(files[family]).scheduler
    assert make_scheduler("ddim", config).settings.clip_sample is False
    assert make_scheduler("ddim", config).settings.set_alpha_to_one is False
    for name in (None, *SCHEDULER_TYPES):
        assert make_scheduler(name, config).tables(4)["timesteps"].shape
    tensors = {**load_file(files[family]), "ztsnr": np.zeros(1, np.float32)}
    save_tensors(tmp_path / "x.safetensors", tensors)
    method = make_scheduler(None, single.read_single_file(tmp_path / "x.safetensors").scheduler)
    assert method.settings.rescale_betas_zero_snr is True


@pytest.mark.parity
@pytest.mark.parametrize("family", originals.FAMILIES)
def test_the_scheduler_is_that_of_diffusers(files, family: str) -> None:
    """What diffusers lays down for single files, and what each of its samplers makes of our config beside its own."""
    pytest.importorskip("torch")
    import diffusers
    from diffusers.loaders.single_file_utils import SCHEDULER_DEFAULT_CONFIG

    ours = single.read_single_file(files[family]).scheduler
    theirs = {**SCHEDULER_DEFAULT_CONFIG, "prediction_type": ours["prediction_type"], "num_train_timesteps": 1000}
    latent_models = {**theirs, "clip_sample": False}  # as diffusers' own conversion sets it, `_legacy_load_scheduler`
    for name in ("DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "LCM"):
        kind = getattr(diffusers, f"{name}Scheduler")
        asked = [key for key in inspect.signature(kind.__init__).parameters if key != "self"]  # `config` keeps foreign keys too
        made, wanted = kind.from_config(ours).config, kind.from_config(latent_models).config
        assert {key: made[key] for key in asked} == {key: wanted[key] for key in asked}, name


def test_a_tokenizer_is_asked_for(files, tmp_path: Path) -> None:
    file = shutil.copyfile(files["xl"], tmp_path / "alone.safetensors")
    with pytest.raises(UserError, match="comes without a tokenizer; give tokenizer=FOLDER"):
        load_pipeline(file)
    with pytest.raises(UserError, match="holds no tokenizer; give tokenizer=FOLDER"):
        load_pipeline(file, tokenizer=tmp_path)
    pipe = load_pipeline(file, tokenizer=files["xl"].parent / "tokenizer")
    first, second = (tokenizer(["a"])[0] for tokenizer in pipe.tokenizers)
    # OpenAI's CLIP pads with the end token, OpenCLIP with token 0, whatever the one folder says.
    np.testing.assert_array_equal(first[:3], second[:3])
    assert set(first[3:]) == {513}
    assert set(second[3:]) == {0}


def test_the_digest_is_that_of_the_content(files, tmp_path: Path) -> None:
    tokenizer = files["sd1"].parent / "tokenizer"
    same = shutil.copyfile(files["sd1"], tmp_path / "renamed.safetensors")
    digest = load_pipeline(files["sd1"]).digest
    assert load_pipeline(same, tokenizer=tokenizer).digest == digest
    assert load_pipeline(same, tokenizer=tokenizer, prediction_type="v_prediction").digest != digest


def test_another_autoencoder_replaces_that_of_the_file(files, tiny_folder: Path, tmp_path: Path) -> None:
    plain, other = load_pipeline(files["sd1"]), load_pipeline(files["sd1"], vae=tiny_folder)
    latents = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    np.testing.assert_array_equal(other.decode(latents), load_pipeline(tiny_folder).decode(latents))
    assert other.digest != plain.digest
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["decoder.conv_in.weight"]
    save_tensors(weights, tensors)
    with pytest.raises(UserError, match=r"broken/vae: 1 tensors are missing \(decoder\.conv_in\.weight\)"):
        load_pipeline(files["sd1"], vae=broken)
    np.testing.assert_array_equal(load_pipeline(tiny_folder, vae=files["sd1"]).decode(latents), plain.decode(latents))


def spoiled(files: dict[str, Path], target: Path, change: Any, family: str = "sd1") -> Path:
    tensors = {name: np.array(array) for name, array in load_file(files[family]).items()}
    change(tensors)
    save_tensors(target / "x.safetensors", tensors)
    if not (target / "tokenizer").exists():
        shutil.copytree(files[family].parent / "tokenizer", target / "tokenizer")
    return target / "x.safetensors"


U = "model.diffusion_model."


@pytest.mark.parametrize(
    ("family", "change", "sentence"),
    [
        ("sd1", lambda t: t.pop(f"{U}input_blocks.1.1.norm.bias"), rf"missing \({U}input_blocks\.1\.1\.norm\.bias\)"),
        (
            "sd1",
            lambda t: t.pop(f"{U}input_blocks.1.0.out_layers.3.weight"),
            r"input_blocks\.1\.0\.out_layers\.3\.weight is missing",
        ),
        (
            "sd2",
            lambda t: t.pop("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias"),
            r"resblocks\.0\.attn\.in_proj_bias",
        ),
        (
            "sd1",
            lambda t: t.pop("first_stage_model.decoder.mid.attn_1.q.weight"),
            r"first_stage_model\.decoder\.mid\.attn_1\.q\.weight",
        ),
        (
            "sd1",
            lambda t: t.update({f"{U}input_blocks.9.0.x": np.zeros(2, np.float32)}),
            r"input_blocks\.\d+\.0\.out_layers\.3\.weight is missing",
        ),
        ("sd1", lambda t: t.update({"surplus.weight": np.zeros(2, np.float32)}), r"no place in the model \(surplus\.weight\)"),
        ("sd1", lambda t: t.update({f"{U}time_embed.4.weight": np.zeros(2, np.float32)}), r"no place.*time_embed\.4\.weight"),
        (
            "sd1",
            lambda t: t.update({f"{U}out.2.bias": np.zeros(5, np.float32)}),
            r"out\.2\.bias has shape \[5\].*asks for \[4\]",
        ),
        ("sd1", lambda t: t.update({f"{U}out.2.bias": np.full(4, np.nan, np.float32)}), r"out\.2\.bias holds NaN"),
        ("sd1", lambda t: t.update({f"{U}out.2.bias": np.zeros(4, np.int8)}), r"out\.2\.bias has dtype int8"),
        (
            "sd1",
            lambda t: t.update({f"{U}input_blocks.0.0.weight": np.zeros((32, 9, 3, 3), np.float32)}),
            "so it is a model for inpainting",
        ),
        ("sd1", lambda t: [t.pop(n) for n in list(t) if n.startswith("cond_stage")], "holds no text encoder"),
        ("sd1", lambda t: [t.pop(n) for n in list(t) if n.startswith(U)], "averaged ones"),
    ],
)
def test_wrong_tensors_are_named_as_in_the_file(files, tmp_path: Path, family: str, change: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load_pipeline(spoiled(files, tmp_path, change, family))
    assert "x.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias", "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.norm.key_norm.scale", "FLUX.1"),
        ("conditioner.embedders.0.model.ln_final.weight", "the SDXL refiner"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "a LoRA"),
        ("down_blocks.0.resnets.0.conv1.weight", "one part of a diffusers folder"),
    ],
)
def test_another_architecture_is_named(tmp_path: Path, name: str, kind: str) -> None:
    save_tensors(tmp_path / "x.safetensors", {name: np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match=rf"x\.safetensors is {kind}"):
        load_pipeline(tmp_path / "x.safetensors")


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"model{ending}").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match=r"is a pickle.*get the \.safetensors file"):
        load_pipeline(tmp_path / f"model{ending}")


def test_a_cut_file_and_an_unknown_dtype_are_named(files, tmp_path: Path) -> None:
    whole = files["sd1"].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(UserError, match=r"cut\.safetensors is cut short"):
        load_pipeline(tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match="there is no file"):
        load_pipeline(tmp_path / "absent.safetensors")


# Beside PyTorch: the file goes through diffusers' own conversion into diffusers' models.


@pytest.mark.parity
@pytest.mark.parametrize("family", originals.FAMILIES)
def test_the_same_model_as_in_diffusers(files, family: str) -> None:
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as theirs
    from safetensors.torch import load_file as load_torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    ours = load_pipeline(files[family])
    checkpoint = load_torch(files[family])
    unet = UNet2DConditionModel.from_config(ours.spec.unet)
    unet.load_state_dict(theirs.convert_ldm_unet_checkpoint(dict(checkpoint), unet.config))
    vae = AutoencoderKL.from_config(ours.spec.vae)
    vae.load_state_dict(theirs.convert_ldm_vae_checkpoint(dict(checkpoint), vae.config))
    encoders = []
    prefixes = {"sd1": ["clip"], "sd2": ["cond_stage_model.model."], "xl": ["clip", "conditioner.embedders.1.model."]}[family]
    for config, projection, prefix in zip(ours.spec.text_encoders, (False, True), prefixes, strict=False):
        kind = CLIPTextModelWithProjection if projection else CLIPTextModel
        model = kind(CLIPTextConfig(**config)).eval()
        if prefix == "clip":
            state = theirs.convert_ldm_clip_checkpoint(checkpoint)
        else:
            state = theirs.convert_open_clip_checkpoint(model, checkpoint, prefix)
        known = model.state_dict()
        state = {name if name in known else name.removeprefix("text_model."): array for name, array in state.items()}
        # Only what SD 2.x leaves out may be without a place.
        assert {name for name in state if name not in known and "position_ids" not in name} <= {
            name for name in state if family == "sd2" and (".layers.2." in name or name == "text_projection.weight")
        }
        model.load_state_dict({name: array for name, array in state.items() if name in known})
        encoders.append(model)

    def close(mine: Any, their: Any) -> None:
        np.testing.assert_allclose(mine, their, atol=1e-4 * float(np.abs(their).max()))

    prompts = ["a cat", "two dogs, painted"]
    rng = np.random.default_rng(0)
    with torch.no_grad():
        outputs = [
            model(torch.from_numpy(tokenizer(prompts)).long(), output_hidden_states=True)
            for model, tokenizer in zip(encoders, ours.tokenizers, strict=True)
        ]
        hidden, pooled = ours.encode_prompts(prompts)
        if family == "xl":
            context = torch.cat([output.hidden_states[-2] for output in outputs], -1)
            close(pooled, outputs[1].text_embeds.numpy())
        else:
            context = outputs[0].last_hidden_state
        close(hidden, context.numpy())
        latents = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
        nchw = torch.from_numpy(latents.transpose(0, 3, 1, 2).copy())
        added = {}
        if family == "xl":
            ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)
            added = {"added_cond_kwargs": {"text_embeds": outputs[1].text_embeds, "time_ids": ids}}
        expected = unet(nchw, torch.tensor(500), context, **added).sample.permute(0, 2, 3, 1).numpy()
        close(ours.predict(latents, 500, hidden, pooled), expected)
        factor = vae.config.scaling_factor
        decoded = vae.decode(nchw / factor).sample.permute(0, 2, 3, 1).numpy()
        close(ours.decode(latents), (decoded / 2 + 0.5).clip(0, 1))
        images = rng.uniform(size=(2, 16, 16, 3)).astype(np.float32)
        mean = vae.encode(torch.from_numpy(images.transpose(0, 3, 1, 2) * 2 - 1)).latent_dist.mean.permute(0, 2, 3, 1)
        close(ours.encode(images), mean.numpy() * factor)
