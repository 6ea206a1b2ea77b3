"""The whole pipeline beside PyTorch diffusers: the same folder, the same latents, the same image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridgejax.diffusion import load_pipeline

pytestmark = pytest.mark.parity

KINDS = ("sd1", "sd2")
PROMPTS = ["a photo of a cat", "two dogs, painted"]


def torch_folder(folder: Path, tokenizer: Path, kind: str) -> Path:
    """Saves a random pipeline by PyTorch: SD 1.x's shape of config, or SD 2.x's."""
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    second = kind == "sd2"
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32, 32) if second else (16, 32),
        layers_per_block=1 if second else 2,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=[2, 4, 4] if second else 4,
        use_linear_projection=second,
        down_block_types=("CrossAttnDownBlock2D",) * (2 if second else 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (2 if second else 1),
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=514,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            hidden_act="gelu" if second else "quick_gelu",
            bos_token_id=512,
            eos_token_id=513,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if second else "epsilon",
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(str(tokenizer)),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Any) -> tuple[Any, Any]:
    """(PyTorch pipeline, ours) from one folder."""
    pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    root = tmp_path_factory.mktemp(request.param)
    tokenizer = make_tokenizer(root / "tokenizer", pad="!" if request.param == "sd2" else "<|endoftext|>")
    folder = torch_folder(root / "model", tokenizer, request.param)
    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    return theirs, load_pipeline(folder)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 8, 8, 4)).astype(np.float32)


def nchw(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (7.5, ""), (7.5, "blurry, dark")])
def test_images_agree(both: tuple[Any, Any], guidance: float, negative: str) -> None:
    theirs, ours = both
    expected = theirs(
        PROMPTS,
        latents=nchw(noise()),
        num_inference_steps=5,
        guidance_scale=guidance,
        negative_prompt=[negative] * 2,
        output_type="np",
    ).images
    images = ours(PROMPTS, latents=noise(), steps=5, guidance_scale=guidance, negative_prompt=negative)
    np.testing.assert_allclose(images, expected, atol=2e-3)
    assert expected.std() > 0.01


@pytest.mark.parametrize("strength", [0.55, 1.0])
def test_image_to_image_agrees(both: tuple[Any, Any], strength: float) -> None:
    import torch
    from diffusers import StableDiffusionImg2ImgPipeline

    theirs, ours = both
    start = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    img2img = StableDiffusionImg2ImgPipeline(**theirs.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    added = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    expected = img2img(
        PROMPTS,
        image=nchw(ours.encode(start)),
        strength=strength,
        num_inference_steps=8,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images
    images = ours(
        PROMPTS,
        init_images=start,
        latents=added.numpy().transpose(0, 2, 3, 1),
        strength=strength,
        steps=8,
        guidance_scale=5.0,
    )
    np.testing.assert_allclose(images, expected, atol=2e-3)


def test_stages_agree(both: tuple[Any, Any]) -> None:
    import torch

    theirs, ours = both
    hidden, _ = ours.encode_prompts(PROMPTS)
    with torch.no_grad():
        expected = theirs.encode_prompt(PROMPTS, "cpu", 1, False)[0]
        np.testing.assert_allclose(hidden, expected, rtol=1e-4, atol=1e-4)
        for timestep in (1, 500, 999):
            output = theirs.unet(nchw(noise()), torch.tensor(timestep), expected).sample
            scale = float(output.abs().max())
            mine = ours.predict(noise(), timestep, hidden)
            np.testing.assert_allclose(mine, output.permute(0, 2, 3, 1), atol=1e-4 * scale)
        factor = theirs.vae.config.scaling_factor
        decoded = (theirs.vae.decode(nchw(noise()) / factor).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        np.testing.assert_allclose(ours.decode(noise()), decoded, atol=1e-4)


def test_our_folder_opens_in_diffusers(tiny_folder: Path, pipe: Any) -> None:
    """A folder written by `Pipeline.save` gives the same image in PyTorch."""
    pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(tiny_folder)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(PROMPTS, latents=nchw(noise()), num_inference_steps=4, guidance_scale=3.0, output_type="np").images
    np.testing.assert_allclose(pipe(PROMPTS, latents=noise(), steps=4, guidance_scale=3.0), expected, atol=2e-3)


SETTINGS = [
    {},
    {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing", "prediction_type": "sample"},
    {"timestep_spacing": "linspace", "set_alpha_to_one": False},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction", "clip_sample": False},
    {"clip_sample": True, "clip_sample_range": 0.4, "steps_offset": 1},
    {"trained_betas": list(np.linspace(0.001, 0.02, 100)), "num_train_timesteps": 100},
]


CLASSES = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "lcm": ("LCMScheduler", {}),
}


@pytest.mark.parametrize("config", SETTINGS)
@pytest.mark.parametrize("name", sorted(CLASSES))
def test_steps_agree(name: str, config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method beside its diffusers class, on the same predictions, from noise and from an image."""
    torch = pytest.importorskip("torch")
    import diffusers

    from bridgejax.diffusion.schedulers import make_scheduler

    kind, extra = CLASSES[name]
    if config.get("prediction_type") == "sample" and name in ("pndm", "euler_ancestral"):
        pytest.skip("not supported by the original")
    if name == "lcm":
        config = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "original_inference_steps": 50, **config}
    if name == "pndm" and config.get("rescale_betas_zero_snr"):
        pytest.skip("the original does not rescale")
    rng = np.random.default_rng(0)
    # The noise of the original comes from its own generator: hand it ours.
    current: list[np.ndarray] = []
    for module in ("scheduling_euler_ancestral_discrete", "scheduling_lcm"):
        monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", lambda *_, **__: torch.from_numpy(current[-1]))
    for steps, strength in ((1, 1.0), (2, 1.0), (7, 1.0), (20, 1.0), (20, 0.35)):
        theirs, ours = getattr(diffusers, kind).from_config({**config, **extra}), make_scheduler(name, config)
        theirs.set_timesteps(steps)
        tables = ours.tables(steps)
        assert ours.calls(steps) == len(theirs.timesteps)
        np.testing.assert_allclose(tables["timesteps"][: len(theirs.timesteps)], theirs.timesteps, rtol=1e-5, atol=1e-3)
        x, init = rng.normal(size=(2, 1, 4, 4, 4)).astype(np.float32)
        first = ours.first_call(steps, strength)
        if hasattr(theirs, "set_begin_index"):  # else it looks the first timestep up, which may stand there twice
            theirs.set_begin_index(first)
        if strength < 1:
            carry = ours.start(tables, first, x, init)
            latents = theirs.add_noise(torch.from_numpy(init), torch.from_numpy(x), theirs.timesteps[first : first + 1])
        else:
            carry, latents = ours.start(tables, 0, x, None), torch.from_numpy(x) * theirs.init_noise_sigma
        for index, timestep in enumerate(theirs.timesteps):
            if index < first:
                continue
            np.testing.assert_allclose(
                ours.model_input(tables, index, carry), theirs.scale_model_input(latents, timestep), rtol=2e-3, atol=2e-3
            )
            output = rng.normal(size=x.shape).astype(np.float32)
            current.append(rng.normal(size=x.shape).astype(np.float32))
            carry = ours.step(tables, index, carry, output, current[-1] if ours.stochastic else None)
            latents = theirs.step(torch.from_numpy(output), timestep, latents).prev_sample
            scale = max(1.0, float(latents.abs().max()))
            np.testing.assert_allclose(carry["latents"], latents, rtol=2e-3, atol=2e-3 * scale)
