"""The pipeline as a user meets it: images are their seeds, nothing recompiles, what is saved loads again."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from bridgejax.diffusion import load_pipeline
from bridgejax.diffusion.sampler import initial_noise, step_noise
from bridgejax.diffusion.schedulers import SCHEDULER_TYPES
from bridgejax.errors import UserError
from bridgejax.identity import keys_from_seeds
from bridgejax.mesh import make_mesh


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Collects the names of the programs that are compiled inside the block."""
    names: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if message.startswith("Compiling "):
                names.append(message.split()[1])

    handler, logger = Collect(), logging.getLogger("jax")
    logger.addHandler(handler)
    jax.config.update("jax_log_compiles", True)
    try:
        yield names
    finally:
        jax.config.update("jax_log_compiles", False)
        logger.removeHandler(handler)


def test_images_have_the_promised_shape_and_range(pipe) -> None:
    images = np.asarray(pipe(["a cat", "a dog"], seeds=[1, 2], steps=2))
    assert images.shape == (2, 16, 16, 3)
    assert images.dtype == np.float32
    assert 0 <= images.min() <= images.max() <= 1
    assert images.std() > 0.01
    wide = pipe("a cat", seeds=3, steps=1, height=16, width=32)
    assert wide.shape == (1, 16, 32, 3)


def test_noise_depends_on_the_seed_alone() -> None:
    make = jax.jit(initial_noise, static_argnums=1)
    seeds = [5, 0, 2**62 + 17, 9, 5, 123456789, 3]
    together = np.asarray(make(keys_from_seeds(seeds), (9, 7, 4)))
    for row, seed in enumerate(seeds):
        np.testing.assert_array_equal(np.asarray(make(keys_from_seeds([seed]), (9, 7, 4)))[0], together[row])
    assert not np.array_equal(together[0], together[1])
    assert abs(together.std() - 1) < 0.05


def test_images_do_not_depend_on_the_batch(pipe) -> None:
    prompts, seeds = ["a cat", "a dog", "a fish"], [11, 12, 13]
    together = np.asarray(pipe(prompts, seeds, steps=3))
    alone = np.concatenate([np.asarray(pipe(p, s, steps=3)) for p, s in zip(prompts, seeds, strict=True)])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_values_do_not_recompile(pipe) -> None:
    pipe(["a", "b"], seeds=[1, 2], steps=2, guidance_scale=7.5)
    with compilations() as names:
        pipe(["c", "longer prompt"], seeds=[3, 4], steps=5, guidance_scale=2.0, negative_prompt="blurry")
        pipe(["c", "d"], seeds=[2**60, 4], steps=1, guidance_scale=1.5)
    assert "jit(sample)" not in names
    assert not names
    with compilations() as names:
        pipe(["a", "b", "c", "d", "e"], seeds=range(5), steps=1)
    assert any("sample" in name for name in names), "the counter must see a compilation when there is one"


def test_values_do_not_recompile_without_guidance(pipe) -> None:
    start = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    pipe(["a", "b"], seeds=[1, 2], steps=2, guidance_scale=1.0)
    pipe(["a", "b"], seeds=[1, 2], steps=2, guidance_scale=1.0, init_images=start)
    with compilations() as names:
        pipe(["c", "longer prompt"], seeds=[3, 2**62], steps=7, guidance_scale=0.0, negative_prompt="blurry")
        pipe(["c", "d"], seeds=[3, 4], steps=6, guidance_scale=0.5, init_images=start[::-1], strength=0.4)
    assert not names


def test_schedulers_of_one_arithmetic_share_a_program(pipe) -> None:
    pipe("a", seeds=1, steps=2, guidance_scale=1.0, scheduler="dpmpp_2m")
    with compilations() as names:
        pipe("b", seeds=2, steps=5, guidance_scale=1.0, scheduler="dpmpp_2m_karras")
    assert not names


def test_guidance_of_one_ignores_the_negative_prompt(pipe) -> None:
    plain = pipe("a cat", 1, steps=2, guidance_scale=1.0)
    np.testing.assert_array_equal(plain, pipe("a cat", 1, steps=2, guidance_scale=1.0, negative_prompt="dark"))
    strong = pipe("a cat", 1, steps=2, guidance_scale=7.5)
    assert np.abs(np.asarray(strong) - np.asarray(plain)).max() > 1e-3
    assert np.abs(np.asarray(strong) - np.asarray(pipe("a cat", 1, steps=2, negative_prompt="dark"))).max() > 1e-4


def test_each_image_has_its_own_negative_prompt(pipe) -> None:
    prompts, negatives, seeds = ["a cat", "a dog"], ["dark", "blurry, low quality"], [5, 6]
    together = np.asarray(pipe(prompts, seeds, steps=2, negative_prompt=negatives))
    for row in range(2):
        alone = pipe(prompts[row], seeds[row], steps=2, negative_prompt=negatives[row])
        np.testing.assert_allclose(together[row], np.asarray(alone)[0], atol=1e-4)
    swapped = np.asarray(pipe(prompts, seeds, steps=2, negative_prompt=negatives[::-1]))
    assert np.abs(swapped - together).max() > 1e-4


def test_latents_replace_the_noise_of_the_seeds(pipe) -> None:
    noise = np.asarray(initial_noise(keys_from_seeds([42]), (8, 8, 4)))
    by_seed = pipe("a cat", seeds=42, steps=2)
    by_latents = pipe("a cat", latents=noise, steps=2)
    np.testing.assert_allclose(by_seed, by_latents, atol=1e-5)


@pytest.mark.parametrize("name", sorted(SCHEDULER_TYPES))
def test_every_scheduler_samples(pipe, name: str) -> None:
    images = np.asarray(pipe(["a cat", "a dog"], [1, 2], steps=3, guidance_scale=1.0, scheduler=name))
    assert np.isfinite(images).all()
    assert images.std() > 0.01
    if SCHEDULER_TYPES[name].stochastic:
        keys = keys_from_seeds([1, 2])
        noise = np.stack([np.asarray(step_noise(keys, step, (8, 8, 4))) for step in range(3)])
        given = pipe(["a cat", "a dog"], [1, 2], steps=3, guidance_scale=1.0, scheduler=name, step_noise=noise)
        np.testing.assert_allclose(given, images, atol=1e-4)


@pytest.mark.parametrize("name", sorted(SCHEDULER_TYPES))
def test_every_scheduler_starts_from_an_image(pipe, name: str) -> None:
    """At low strength the image comes back nearly as the autoencoder has it; at full strength it does not."""
    start = np.random.default_rng(0).uniform(size=(1, 16, 16, 3)).astype(np.float32)
    target = np.asarray(pipe.decode(pipe.encode(start)))
    arguments: dict = {"seeds": 1, "steps": 20, "guidance_scale": 1.0, "scheduler": name, "init_images": start}
    near, far = (np.abs(np.asarray(pipe("a cat", **arguments, strength=s)) - target).mean() for s in (0.1, 1.0))
    assert near < far


def test_schedule_says_which_timesteps_are_called(pipe) -> None:
    assert pipe.model_calls(4).timesteps.tolist() == [751, 501, 251, 1]
    assert pipe.model_calls(4, strength=0.5).timesteps.tolist() == [251, 1]
    assert pipe.model_calls(3, "euler").timesteps.tolist() == [999, 499.5, 0]


def test_image_to_image_stays_closer_at_low_strength(pipe) -> None:
    start = np.random.default_rng(0).uniform(size=(1, 16, 16, 3)).astype(np.float32)
    target = np.asarray(pipe.decode(pipe.encode(start)))
    far = [np.abs(np.asarray(pipe("a cat", 1, steps=10, init_images=start, strength=s)) - target).mean() for s in (0.1, 0.9)]
    assert far[0] < far[1]
    with pytest.raises(UserError, match=r"strength = 0\.1 of 2 steps leaves none"):
        pipe("a cat", 1, steps=2, init_images=start, strength=0.1)
    with pytest.raises(UserError, match="init_images has shape"):
        pipe(["a", "b"], [1, 2], steps=2, init_images=start)


def test_stages_by_hand_agree_with_a_call(pipe) -> None:
    """One DDIM step at guidance 1, written out with encode_prompts, predict and decode."""
    noise = np.random.default_rng(1).normal(size=(1, 8, 8, 4)).astype(np.float32)
    hidden, pooled = pipe.encode_prompts(["a cat"])
    assert hidden.shape == (1, 77, 32)
    assert pooled is None
    output = np.asarray(pipe.predict(noise, 1, hidden))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    sample = (noise - np.sqrt(1 - alphas[1]) * output) / np.sqrt(alphas[1])
    latents = np.sqrt(alphas[0]) * sample + np.sqrt(1 - alphas[0]) * output
    image = pipe("a cat", latents=noise, steps=1, guidance_scale=1.0)
    np.testing.assert_allclose(image, pipe.decode(latents), atol=1e-5)


def test_saved_folder_loads_with_the_same_images(pipe, tmp_path: Path) -> None:
    pipe.save(tmp_path / "copy")
    again = load_pipeline(tmp_path / "copy")
    np.testing.assert_array_equal(pipe("a cat", 1, steps=2), again("a cat", 1, steps=2))
    assert again.digest == pipe.digest
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    with pytest.raises(UserError, match="exists already"):
        pipe.save(tmp_path / "copy")


def test_digest_follows_the_weights(tiny_folder: Path, tmp_path: Path, pipe) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert load_pipeline(copy).digest != pipe.digest


def test_bfloat16_is_close(tiny_folder: Path, pipe, tmp_path: Path) -> None:
    half = load_pipeline(tiny_folder, dtype="bfloat16")
    a, b = (np.asarray(p("a cat", 1, steps=2, guidance_scale=1.0)) for p in (pipe, half))
    assert b.dtype == np.float32
    assert np.abs(a - b).max() < 0.05
    half.save(tmp_path / "half")
    np.testing.assert_array_equal(
        b, load_pipeline(tmp_path / "half", dtype="bfloat16")("a cat", 1, steps=2, guidance_scale=1.0)
    )


def test_parameters_and_arithmetic_have_their_own_precision(pipe, tiny_folder: Path) -> None:
    mixed = load_pipeline(tiny_folder, dtype="bfloat16", param_dtype="float32")
    half = load_pipeline(tiny_folder, dtype="bfloat16")
    kernels = [p.networks.unet.conv_in.kernel[...].dtype.name for p in (mixed, half)]
    assert kernels == ["float32", "bfloat16"]
    np.testing.assert_array_equal(mixed.networks.unet.conv_in.kernel[...], pipe.networks.unet.conv_in.kernel[...])
    images = [np.asarray(p("a cat", 1, steps=2, guidance_scale=1.0)) for p in (pipe, mixed, half)]
    assert 0 < np.abs(images[1] - images[0]).max() < 0.05
    assert np.abs(images[1] - images[2]).max() < 0.05
    with pytest.raises(UserError, match="int8"):
        load_pipeline(tiny_folder, param_dtype="int8")


def _with_scheduler(folder: Path, copy: Path, **change: object) -> Path:
    shutil.copytree(folder, copy)
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    return copy


def test_guidance_on_a_distilled_model_warns(pipe, tiny_folder: Path, tmp_path: Path) -> None:
    kind = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
    turbo = load_pipeline(_with_scheduler(tiny_folder, tmp_path / "turbo", **kind))
    assert turbo.model_calls(1).timesteps.tolist() == [999]
    with pytest.warns(UserWarning, match=r"guidance_scale=0 suits such a model"):
        turbo("a cat", 1, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        turbo("a cat", 1, steps=1, guidance_scale=0)
        pipe("a cat", 1, steps=1)


def test_mesh_gives_the_same_images(tiny_folder: Path, pipe) -> None:
    on_mesh = load_pipeline(tiny_folder, mesh=make_mesh())
    np.testing.assert_allclose(
        on_mesh(["a", "b", "c"], [1, 2, 3], steps=2), pipe(["a", "b", "c"], [1, 2, 3], steps=2), atol=1e-4
    )


def test_long_prompts_warn_with_what_was_cut(pipe) -> None:
    with pytest.warns(UserWarning, match="tail"):
        pipe("x" * 75 + " tail", 1, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe("x" * 75, 1, steps=1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seeds": [1, 2]}, "there are 2 seeds for 1 prompts"),
        ({"seeds": None}, "seeds are missing"),
        ({"seeds": [1.5]}, r"seed 1\.5 is not an integer"),
        ({"steps": 0}, "steps = 0 must be a whole number from 1 to 1000"),
        ({"steps": 1001}, "steps = 1001 must be a whole number"),
        ({"height": 15}, "height = 15 must be a positive multiple of 2 pixels"),
        ({"scheduler": "ddimm"}, "scheduler 'ddimm' is not available.*did you mean 'ddim'"),
        ({"latents": np.zeros((1, 8, 8, 3))}, r"latents has shape \[1, 8, 8, 3\]; expected \[1, 8, 8, 4\]"),
        ({"negative_prompt": ["a", "b"]}, "there are 2 negative prompts for 1 prompts"),
        ({"guidance_scale": float("nan")}, "guidance_scale = nan must be a finite number"),
    ],
)
def test_wrong_arguments_get_one_sentence(pipe, arguments: dict, named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        pipe(["a cat"], **{"seeds": [1], "steps": 2, **arguments})
    assert "\n" not in str(caught.value)


def _spoil(folder: Path, kind: str) -> None:
    if kind == "no index":
        (folder / "model_index.json").unlink()
    elif kind == "pickle":
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
    elif kind == "cut":
        weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "unsupported":
        config = folder / "unet" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "class_embed_type": "projection"}))
    elif kind == "mismatch":
        config = folder / "unet" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "cross_attention_dim": 48}))
    elif kind == "scheduler":
        config = folder / "scheduler" / "scheduler_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "score"}))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("no index", r"copy/model_index\.json is missing"),
        ("pickle", "diffusion_pytorch_model.bin is a pickle"),
        ("cut", r"copy/vae/.* is cut short"),
        ("unsupported", r"copy/unet/config\.json: class_embed_type = 'projection'"),
        ("mismatch", r"the UNet attends to 48 numbers per token \(cross_attention_dim.*text encoder gives"),
        ("scheduler", r"scheduler_config\.json: prediction_type = \"score\""),
    ],
)
def test_damaged_folders_get_one_sentence(tiny_folder: Path, tmp_path: Path, kind: str, named: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    _spoil(copy, kind)
    with pytest.raises(UserError, match=named) as caught:
        load_pipeline(copy)("a cat", 1, steps=1)
    assert "\n" not in str(caught.value)


def _edit(file: Path, **change: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("flux", "the pipeline 'FluxPipeline' is not supported"),
        ("single network", r"holds one network \(BertModel\)"),
        ("inpainting", r"the UNet takes 9 channels \(in_channels\)"),
        ("other autoencoder", "the autoencoder AsymmetricAutoencoderKL"),
        ("other text encoder", "text_encoder is a T5EncoderModel"),
        ("refiner", "SDXL refiner"),
    ],
)
def test_folders_of_another_architecture_are_named(tiny_folder: Path, tmp_path: Path, kind: str, named: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    if kind == "flux":
        _edit(copy / "model_index.json", _class_name="FluxPipeline")
    elif kind == "single network":
        (copy / "model_index.json").unlink()
        (copy / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    elif kind == "inpainting":
        _edit(copy / "unet" / "config.json", in_channels=9)
    elif kind == "other autoencoder":
        _edit(copy / "vae" / "config.json", _class_name="AsymmetricAutoencoderKL")
    elif kind == "refiner":
        second = ["transformers", "CLIPTextModelWithProjection"]
        _edit(copy / "model_index.json", text_encoder=[None, None], text_encoder_2=second)
    else:
        _edit(copy / "model_index.json", text_encoder=["transformers", "T5EncoderModel"])
    with pytest.raises(UserError, match=named) as caught:
        load_pipeline(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("builtin:nothing", "generator 'builtin:nothing' is not built in"),
        ("./no/such/folder", "there is no generator folder no/such/folder"),
        ("/no/such/folder", "there is no generator folder /no/such/folder"),
    ],
)
def test_unknown_names_get_one_sentence(name: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        load_pipeline(name)
