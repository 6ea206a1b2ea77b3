"""Every published family of Stable Diffusion at reduced size with random weights, saved by PyTorch diffusers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reduced.generator import write_tokenizer

PROMPTS = ("a photo of a cat", "two dogs, painted")
TIMESTEPS = (1, 500, 999)
# How far single precision strays from double precision in PyTorch's own run, times this, bounds how far ours may: both
# round every operation to 24 bits and differ in the order of their sums alone.
MARGIN = 16
STAGE_TOLERANCE = 1e-4  # of the largest magnitude, for each network
IMAGE_TOLERANCE = 2e-3  # of the range [0, 1], for whole pipelines


@dataclasses.dataclass(frozen=True)
class Family:
    """One family: which published models it stands for and what of their configs sets it apart."""

    title: str
    published: str  # models whose architecture and scheduler config it has
    pipeline: str  # class name in diffusers
    image_to_image: str
    scheduler: str
    scheduler_config: dict[str, Any]
    steps: tuple[int, ...] = (10,)
    guidances: tuple[float, ...] = (1.0, 7.5)
    second: bool = False  # SD 2.x: heads per block, linear projections, exact GELU
    xl: bool = False
    guidance_input: bool = False  # LCM: the guidance scale is an input of the UNet
    negative: bool = True
    strength: float = 0.55


_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_PLMS = {**_BETAS, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
_TURBO = {**_BETAS, "timestep_spacing": "trailing", "steps_offset": 1}
_SD = {"pipeline": "StableDiffusionPipeline", "image_to_image": "StableDiffusionImg2ImgPipeline"}
_XL = {"pipeline": "StableDiffusionXLPipeline", "image_to_image": "StableDiffusionXLImg2ImgPipeline", "xl": True}
_FEW: dict[str, Any] = {"steps": (1, 4), "guidances": (0.0,), "negative": False, "strength": 0.75}

FAMILIES: dict[str, Family] = {
    "sd1": Family("SD 1.x", "1.4, 1.5", scheduler="PNDMScheduler", scheduler_config=_PLMS, **_SD),
    "sd2_base": Family(
        "SD 2.x base", "2.0 base, 2.1 base", scheduler="PNDMScheduler", scheduler_config=_PLMS, second=True, **_SD
    ),
    "sd2": Family(
        "SD 2.x (v)",
        "2.0, 2.1",
        scheduler="DDIMScheduler",
        scheduler_config={
            **_BETAS,
            "prediction_type": "v_prediction",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        },
        second=True,
        **_SD,
    ),
    "sd_turbo": Family(
        "SD-Turbo", "SD-Turbo", scheduler="EulerDiscreteScheduler", scheduler_config=_TURBO, second=True, **_FEW, **_SD
    ),
    "lcm": Family(
        "LCM",
        "LCM of SD 1.5 (Dreamshaper 7)",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
        scheduler="LCMScheduler",
        scheduler_config={**_BETAS, "set_alpha_to_one": True, "original_inference_steps": 50},
        guidance_input=True,
        **{**_FEW, "guidances": (1.0, 7.5)},
    ),
    "sdxl": Family(
        "SDXL",
        "SDXL base 1.0",
        scheduler="EulerDiscreteScheduler",
        scheduler_config={**_BETAS, "timestep_spacing": "leading", "steps_offset": 1, "interpolation_type": "linear"},
        **_XL,
    ),
    "sdxl_turbo": Family(
        "SDXL-Turbo", "SDXL-Turbo", scheduler="EulerAncestralDiscreteScheduler", scheduler_config=_TURBO, **_FEW, **_XL
    ),
    "lcm_sdxl": Family(
        "LCM of SDXL",
        "LCM-SDXL",
        scheduler="LCMScheduler",
        scheduler_config={**_BETAS, "set_alpha_to_one": True, "original_inference_steps": 50},
        guidance_input=True,
        **{**_FEW, "guidances": (1.0, 7.5)},
        **_XL,
    ),
}


def text_configs(family: Family) -> list[dict[str, Any]]:
    """The configs of the family's text encoders at reduced size."""

    def config(width: int, activation: str, projection: int) -> dict[str, Any]:
        return {
            "vocab_size": 514,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "hidden_act": activation,
            "projection_dim": projection,
            "bos_token_id": 512,
            "eos_token_id": 513,
        }

    first = config(32, "gelu" if family.second else "quick_gelu", 32)
    return [first, config(24, "gelu", 20)] if family.xl else [first]


def vae_config(family: Family) -> dict[str, Any]:
    """The config of the family's autoencoder at reduced size: two pixels per latent."""
    return {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "sample_size": 16,
        "scaling_factor": 0.13025 if family.xl else 0.18215,
    }


def unet_config(family: Family) -> dict[str, Any]:
    """The config of the family's UNet at reduced size, on 8×8 latents."""
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    if family.second or family.xl:
        config |= {"layers_per_block": 1, "attention_head_dim": [2, 4], "use_linear_projection": True}
    if family.xl:
        config |= {
            "cross_attention_dim": 32 + 24,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": [1, 2],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 20,
        }
    if family.guidance_input:
        config["time_cond_proj_dim"] = 16
    return config


def write_family(name: str, root: Path) -> Path:
    """Saves the pipeline of a family by PyTorch diffusers below `root` and returns its folder."""
    import diffusers
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    family, folder = FAMILIES[name], root / name
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**unet_config(family))
    vae = diffusers.AutoencoderKL(**vae_config(family))
    texts = [CLIPTextConfig(**config) for config in text_configs(family)]
    first = CLIPTokenizer.from_pretrained(
        str(write_tokenizer(root / f"{name}_tokenizer", pad="!" if family.second else "<|endoftext|>"))
    )
    parts: dict[str, Any] = {
        "unet": unet,
        "vae": vae,
        "scheduler": getattr(diffusers, family.scheduler)(**family.scheduler_config),
        "text_encoder": CLIPTextModel(texts[0]),
        "tokenizer": first,
    }
    if family.xl:
        parts["text_encoder_2"] = CLIPTextModelWithProjection(texts[1])
        parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(str(write_tokenizer(root / f"{name}_tokenizer_2", pad="!")))
        parts["add_watermarker"] = False
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    getattr(diffusers, family.pipeline)(**parts).save_pretrained(folder)
    return folder


def write_family_by_numpy(name: str, folder: Path) -> Path:
    """Saves a family with random weights without PyTorch, in the same layout."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from bridgejax.diffusion.folder import save_folder
    from bridgejax.diffusion.networks import Networks
    from bridgejax.models.clip_text import CLIPTextModel
    from bridgejax.models.unet import UNet2DCondition
    from bridgejax.models.vae import AutoencoderKL

    family = FAMILIES[name]
    texts, unet, vae = text_configs(family), unet_config(family), vae_config(family)

    def build() -> Networks:
        rngs = nnx.Rngs(0)
        encoders = [CLIPTextModel(config, projection=i == 1, rngs=rngs) for i, config in enumerate(texts)]
        return Networks(encoders, UNet2DCondition(unet, rngs=rngs), AutoencoderKL(vae, rngs=rngs))

    rng = np.random.default_rng(1)

    def fill(path: tuple, leaf: Any) -> Any:
        spread = 0.02 if len(leaf.shape) == 1 else 1 / np.prod(leaf.shape[:-1]) ** 0.5
        return jnp.asarray(rng.normal("scale" in str(path), spread, leaf.shape), leaf.dtype)

    graph, state = nnx.split(nnx.eval_shape(build))
    save_folder(
        folder,
        nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state)),
        unet=unet,
        vae=vae,
        text_encoders=texts,
        scheduler={**family.scheduler_config, "_class_name": family.scheduler},
        tokenizers=[write_tokenizer(folder.with_name(f"{folder.name}_tokenizer_{i}")) for i in range(len(texts))],
        index={"_class_name": family.pipeline, "_diffusers_version": "0.42.1"},
    )
    return folder


def nchw(x: Any) -> Any:
    """Returns [n, h, w, c] as a tensor [n, c, h, w] of the same precision."""
    import torch

    array = np.asarray(x)
    axes = (*range(array.ndim - 3), array.ndim - 1, array.ndim - 3, array.ndim - 2)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(axes)))


def nhwc(x: Any) -> np.ndarray:
    """Returns a tensor [n, c, h, w] as an array [n, h, w, c]."""
    return x.detach().numpy().transpose(0, 2, 3, 1)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Returns unit normal numbers, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Original:
    """A family's folder in PyTorch, in double or single precision; noise comes from the caller."""

    def __init__(self, folder: Path, double: bool = True):
        import diffusers
        import torch
        from diffusers import DiffusionPipeline

        self.dtype = torch.float64 if double else torch.float32
        more = {"add_watermarker": False} if "XL" in (folder / "model_index.json").read_text() else {}
        self.pipe = DiffusionPipeline.from_pretrained(folder, dtype=self.dtype, **more)
        self.pipe.set_progress_bar_config(disable=True)
        self._diffusers = diffusers
        self.latest = np.zeros(0)  # the images of the last call

    def tensor(self, x: Any) -> Any:
        """Returns [n, h, w, c] as [n, c, h, w] in this precision."""
        return nchw(x).to(self.dtype)

    def images(
        self,
        family: Family,
        prompts: Sequence[str],
        latents: np.ndarray,
        *,
        steps: int,
        guidance: float,
        negative: str | Sequence[str] | None = None,
        step_noise: np.ndarray | None = None,
        init_images: np.ndarray | None = None,
        strength: float | None = None,
        scheduler: Any = None,
    ) -> np.ndarray:
        """Samples as `Pipeline.__call__` does; arrays are NHWC."""
        import torch

        pipe = self.pipe
        arguments: dict[str, Any] = {
            "prompt": list(prompts),
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "output_type": "np",
        }
        if negative is not None:
            arguments["negative_prompt"] = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        if init_images is not None:
            kind = getattr(self._diffusers, family.image_to_image)
            pipe = kind(**self.pipe.components, **({} if family.xl else {"requires_safety_checker": False}))
            pipe.set_progress_bar_config(disable=True)
            arguments |= {"image": self.tensor(init_images), "strength": strength}
        else:
            arguments["latents"] = self.tensor(latents)
        before = pipe.scheduler
        if scheduler is not None:
            pipe.scheduler = scheduler
        extra = [] if step_noise is None else [self.tensor(noise) for noise in step_noise]
        first = [self.tensor(latents)] if init_images is not None else []
        with _noise(first + extra), torch.no_grad():
            images = pipe(**arguments).images
        pipe.scheduler = before
        self.latest = np.asarray(images, np.float64)
        return self.latest

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Any, Any]:
        """Returns the context and, for SDXL, the pooled embedding, as tensors."""
        import torch

        with torch.no_grad():
            if hasattr(self.pipe, "text_encoder_2"):
                hidden, _, pooled, _ = self.pipe.encode_prompt(
                    list(prompts), device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
                )
                return hidden, pooled
            return self.pipe.encode_prompt(list(prompts), "cpu", 1, False)[0], None

    def predict(self, latents: np.ndarray, timestep: int, hidden: Any, pooled: Any, guidance: float | None) -> np.ndarray:
        """Returns the UNet's output of [n, h, w, c] as the pipelines call it."""
        import torch

        more: dict[str, Any] = {}
        unet = self.pipe.unet
        if pooled is not None:
            height, width = (side * 2 for side in latents.shape[1:3])
            ids = torch.tensor([[height, width, 0, 0, height, width]] * len(latents), dtype=self.dtype)
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
        if guidance is not None and unet.config.time_cond_proj_dim:
            scale = torch.tensor(guidance - 1).repeat(len(latents))
            more["timestep_cond"] = self.pipe.get_guidance_scale_embedding(scale, unet.config.time_cond_proj_dim).to(self.dtype)
        with torch.no_grad():
            return nhwc(unet(self.tensor(latents), torch.tensor(timestep), hidden, **more).sample)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Returns the posterior's mean times the scaling factor, of images in [0, 1]."""
        import torch

        with torch.no_grad():
            mean = self.pipe.vae.encode(self.tensor(images) * 2 - 1).latent_dist.mode()
        return nhwc(mean) * self.pipe.vae.config.scaling_factor

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Returns the decoder's output, scaled to [0, 1] but not clipped."""
        import torch

        with torch.no_grad():
            return nhwc(self.pipe.vae.decode(self.tensor(latents) / self.pipe.vae.config.scaling_factor).sample) / 2 + 0.5


@contextlib.contextmanager
def _noise(draws: Sequence[Any]) -> Iterator[None]:
    """Hands `draws` to diffusers' samplers and image-to-image pipelines in place of random numbers, in turn.

    The posterior of the autoencoder gives its mean, as bridgejax takes it.
    """
    import importlib

    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    left = list(draws)

    def draw(shape: Any, **_: Any) -> Any:
        taken = left.pop(0)
        if tuple(taken.shape) != tuple(shape):
            raise ValueError(f"the original asks for noise of shape {tuple(shape)}, not {tuple(taken.shape)}")
        return taken

    def give(shape: Any, *_: Any, **__: Any) -> Any:
        return draw(shape)

    names = [
        "diffusers.schedulers.scheduling_euler_ancestral_discrete",
        "diffusers.schedulers.scheduling_lcm",
        "diffusers.schedulers.scheduling_dpmsolver_multistep",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
        "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img",
        "diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_img2img",
    ]
    kept: list[tuple[Any, str, Callable[..., Any]]] = []
    for name in names:
        module = importlib.import_module(name)
        kept.append((module, "randn_tensor", module.randn_tensor))
        module.randn_tensor = give  # type: ignore[attr-defined]
    kept.append((DiagonalGaussianDistribution, "sample", DiagonalGaussianDistribution.sample))
    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()  # type: ignore[method-assign]
    try:
        yield
    finally:
        for owner, attribute, value in kept:
            setattr(owner, attribute, value)


def compare(ours: Any, single: Any, double: Any, scale: float | None = None) -> tuple[float, float]:
    """Returns (how far ours is from double precision, how far PyTorch's single precision is), in units of `scale`.

    Args:
      scale: None means the largest magnitude of `double`.
    """
    reference = np.asarray(double, np.float64)
    unit = float(np.abs(reference).max()) if scale is None else scale
    mine, theirs = (float(np.abs(np.asarray(x, np.float64) - reference).max()) / unit for x in (ours, single))
    return mine, theirs


@dataclasses.dataclass(frozen=True)
class Measured:
    """One comparison: a stage or a whole pipeline."""

    what: str
    ours: float  # largest difference between ours and PyTorch in double precision
    single: float  # the same for PyTorch in single precision
    tolerance: float  # the promise

    @property
    def allowed(self) -> float:
        """The bound on `ours`: the promise, or MARGIN times PyTorch's own rounding and that of the tables if less."""
        return min(self.tolerance, MARGIN * self.single + self.floor)

    @property
    def floor(self) -> float:
        """What the rounding of one operation (stages) or of the scheduler's tables (pipelines) may add."""
        return 1e-6 if self.tolerance == STAGE_TOLERANCE else 1e-5


def measure(name: str, folder: Path, ours: Any) -> Iterator[Measured]:
    """Compares every stage and the whole pipeline of a family with PyTorch, on `folder`.

    Args:
      name: out of `FAMILIES`.
      folder: from `write_family`.
      ours: the loaded `bridgejax` pipeline.
    """
    family = FAMILIES[name]
    double, single = Original(folder), Original(folder, double=False)
    hidden, pooled = ours.encode_prompts(PROMPTS)
    texts = [original.encode_prompts(PROMPTS) for original in (single, double)]
    yield Measured("text encoders", *compare(hidden, *(text[0] for text in texts)), STAGE_TOLERANCE)
    if pooled is not None:
        yield Measured("pooled text", *compare(pooled, *(text[1] for text in texts)), STAGE_TOLERANCE)
    latents, guidance = normal(0, 2, 8, 8, 4), 3.0 if family.guidance_input else None
    pairs = []
    for timestep in TIMESTEPS:
        mine = ours.predict(
            latents,
            timestep,
            texts[0][0].numpy(),
            None if pooled is None else texts[0][1].numpy(),
            guidance_scale=guidance,
        )
        theirs = [
            original.predict(latents, timestep, *(None if x is None else x.to(original.dtype) for x in texts[0]), guidance)
            for original in (single, double)
        ]
        pairs.append(compare(mine, *theirs))
    yield Measured("UNet", *(max(pair[i] for pair in pairs) for i in (0, 1)), STAGE_TOLERANCE)
    start = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    yield Measured("VAE encode", *compare(ours.encode(start), single.encode(start), double.encode(start)), STAGE_TOLERANCE)
    decoded = [np.clip(original.decode(latents), 0, 1) for original in (single, double)]
    yield Measured("VAE decode", *compare(ours.decode(latents), *decoded), STAGE_TOLERANCE)

    cases: list[tuple[str, dict[str, Any]]] = [
        (f"{steps} steps, guidance {guidance:g}", {"steps": steps, "guidance": guidance})
        for steps in family.steps
        for guidance in family.guidances
    ]
    steps, guidance = family.steps[-1], family.guidances[-1]
    if family.negative:
        per_image = ["blurry, dark", "low quality"]
        cases.append(("negative prompts", {"steps": steps, "guidance": guidance, "negative": per_image}))
    cases.append(
        (
            "image-to-image",
            {"steps": steps, "guidance": guidance, "init_images": start, "strength": family.strength},
        )
    )
    seen: list[np.ndarray] = []
    for what, case in cases:
        yield Measured(what, *compare_images(family, ours, single, double, **case), IMAGE_TOLERANCE)
        if any(np.abs(double.latest - image).max() < 1e-3 for image in seen):
            raise ValueError(f"{name}, {what}: the case changes nothing in the images: the comparison would show nothing")
        seen.append(double.latest)


def compare_images(
    family: Family,
    ours: Any,
    single: Original,
    double: Original,
    *,
    scheduler: str | None = None,
    theirs: Any = None,
    **case: Any,
) -> tuple[float, float]:
    """Returns `compare` of whole images for one case (the arguments of `Original.images`).

    Args:
      scheduler: the name for ours; None means the folder's.
      theirs: makes the scheduler of the original; None means the folder's.
    """
    latents, noise = normal(2, 2, 8, 8, 4), normal(3, case["steps"], 2, 8, 8, 4)
    kind = type(single.pipe.scheduler).__name__ if theirs is None else type(theirs()).__name__
    stochastic = any(word in kind for word in ("Ancestral", "LCM"))
    more = {"init_images": case.get("init_images"), "strength": case.get("strength")}
    if case.get("init_images") is None:
        more = {}
    mine = ours(
        list(PROMPTS),
        latents=latents,
        step_noise=noise if stochastic else None,
        steps=case["steps"],
        guidance_scale=case["guidance"],
        negative_prompt=case.get("negative") or "",
        scheduler=scheduler,
        **more,
    )
    used = noise
    if stochastic and more:
        used = noise[ours.model_calls(case["steps"], scheduler, case["strength"]).first :]
    images = [
        original.images(
            family,
            PROMPTS,
            latents,
            step_noise=used if stochastic else None,
            scheduler=None if theirs is None else theirs(),
            **case,
        )
        for original in (single, double)
    ]
    if images[1].std() < 0.01:
        raise ValueError("the images are blank: the comparison would show nothing")
    return compare(mine, *images, scale=1.0)


# The classes of diffusers behind each name, and what the name means beyond the class.
SCHEDULER_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "lcm": ("LCMScheduler", {}),
}


def measure_scheduler(name: str, start: bool, ours: Any, single: Original, double: Original) -> Measured:
    """Compares whole images of 10 steps under a scheduler with the class of diffusers on the same folder.

    Args:
      start: from an image at strength 0.6 without guidance, instead of from noise at guidance 7.5 with a negative prompt for
        each image.
    """
    import diffusers

    kind, extra = SCHEDULER_CLASSES[name]
    config = json.loads((Path(ours.folder) / "scheduler" / "scheduler_config.json").read_text())
    case: dict[str, Any] = {"steps": 10, "guidance": 7.5, "negative": ["blurry, dark", "low quality"]}
    if start:
        images = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype(np.float32)
        case = {"steps": 10, "guidance": 1.0, "init_images": images, "strength": 0.6}
    pair = compare_images(
        FAMILIES["sd1"],
        ours,
        single,
        double,
        scheduler=name,
        theirs=lambda: getattr(diffusers, kind).from_config(config, **extra),
        **case,
    )
    return Measured("from an image" if start else "from noise", *pair, IMAGE_TOLERANCE)
