"""Text to image (and image to image) with Stable-Diffusion-family models."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike

from bridgejax.compilation import PrefetchedProgram, compiler_options
from bridgejax.diffusion.find import find_generator
from bridgejax.diffusion.folder import save_folder
from bridgejax.diffusion.load import load_networks, parse_dtype
from bridgejax.diffusion.lora import LoraFiles
from bridgejax.diffusion.networks import Networks
from bridgejax.diffusion.sampler import SamplerInputs, make_sampler
from bridgejax.diffusion.schedulers import CLASS_NAMES, Scheduler, Tables, make_scheduler
from bridgejax.diffusion.single_file import ModelConfig
from bridgejax.diffusion.solvers import LCM
from bridgejax.diffusion.spec import GeneratorSpec, content_digest
from bridgejax.errors import UserError
from bridgejax.identity import keys_from_seeds
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.mesh import ParameterRuleLike, check_randomness, data_sharding, data_size, make_put, parameter_rules, replicated
from bridgejax.models.clip_text import Words
from bridgejax.models.tokenizer import Tokenizer

_ROUNDING = 1e-3  # by which an image that was resampled or rounded to half precision may leave [0, 1]


class ModelCalls(NamedTuple):
    """Which calls of the UNet one request makes."""

    method: Scheduler
    tables: Tables
    first: int  # the call at which sampling begins
    calls: int  # one past the last call

    @property
    def timesteps(self) -> np.ndarray:
        """The training timesteps at which the UNet is called, float32, highest first."""
        return np.asarray(self.tables["timesteps"][self.first : self.calls])


@under_jax_defaults
def load_pipeline(
    folder_or_hub_name: str | Path,
    dtype: DTypeLike = "float32",
    mesh: Mesh | None = None,
    *,
    mesh_rules: Iterable[ParameterRuleLike] = (),
    param_dtype: DTypeLike | None = None,
    vae: str | Path | None = None,
    vae_slice: int | None = None,
    vae_tile: int | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    model_config: ModelConfig | None = None,
    loras: LoraFiles = (),
    embeddings: Mapping[str, str | Path] | None = None,
) -> Pipeline:
    """Loads a text-to-image model.

    Args:
      folder_or_hub_name: `builtin:tiny_diffusion`, a folder in the diffusers layout, a hub name, or a single
        `.safetensors` file under the original names of Stable Diffusion 1.x, 2.x or XL base.
      dtype: "float32", "bfloat16" or "float16", of arithmetic; latents, the statistics of norms and softmax stay
        float32, and so does SDXL's autoencoder unless its config says `"force_upcast": false`.
      mesh: devices to split batches over (axis "data"), and parameters too where there is an axis "model"; None means the
        default device. Parameters are read straight into their shards.
      mesh_rules: (regular expression, axes) pairs that go before `bridgejax.mesh.PARAMETER_RULES`.
      param_dtype: of parameters; None means `dtype`.
      vae: a folder with another autoencoder (AutoencoderKL or AutoencoderTiny), or a generator with one in vae/.
      vae_slice: how many images the autoencoder takes at once on each device; None means the whole batch.
      vae_tile: side in pixels of overlapping tiles in which larger images are encoded and decoded, with less memory
        and small differences (diffusers' `enable_tiling`); None means whole images.
      tokenizer: for a single file: a folder with CLIP's tokenizer; None means a folder `tokenizer` beside the file.
      prediction_type: "epsilon", "v_prediction" or "sample"; None means what the folder says, or the file's family. A
        single SD 2.x file does not show it: the default is "v_prediction" (768-v); say "epsilon" for the 512 base.
      model_config: for a single file: what its tensors do not show (`bridgejax.diffusion.single_file`).
      loras: LoRA files merged into the weights, as (path, scale) pairs or {path: scale} (`bridgejax.diffusion.lora`).
      embeddings: learned words, {word: file} (`bridgejax.diffusion.textual_inversion`).

    Raises:
      UserError: the folder, a config or a weights file is missing, damaged or not supported.
    """
    check_randomness()
    kind = parse_dtype(dtype)
    prefetched = PrefetchedProgram(f"{folder_or_hub_name} {kind}") if mesh is None else None
    spec = find_generator(
        folder_or_hub_name,
        tokenizer=tokenizer,
        prediction_type=prediction_type,
        model_config=model_config,
        loras=loras,
        embeddings=embeddings,
        vae=vae,
    )
    put = None if mesh is None else make_put(mesh, parameter_rules(mesh_rules))
    networks = load_networks(spec, kind, put, None if param_dtype is None else parse_dtype(param_dtype))
    networks.vae_slice, networks.vae_tile = _checked_parts(vae_slice, vae_tile, networks.vae.factor)
    networks.parts = data_size(mesh)
    return Pipeline(spec, networks, mesh, prefetched)


def _checked_parts(vae_slice: int | None, vae_tile: int | None, factor: int) -> tuple[int | None, int | None]:
    if vae_slice is not None and (int(vae_slice) != vae_slice or vae_slice < 1):
        raise UserError(f"vae_slice = {vae_slice!r} must be a whole number of images, at least 1, or None.")
    # Tiles move on by three quarters of their side, which must be whole latents.
    if vae_tile is not None and (vae_tile < 4 * factor or vae_tile % (4 * factor)):
        raise UserError(f"vae_tile = {vae_tile!r} must be a multiple of {4 * factor} pixels, or None.")
    return (None if vae_slice is None else int(vae_slice)), (None if vae_tile is None else int(vae_tile))


class Pipeline:
    """A loaded text-to-image model. Calling it samples images; everything runs under `jax.jit`.

    Attributes:
      networks: text encoders, UNet and autoencoder, an nnx module.
      folder: where it was loaded from.
      vae_factor: pixels per latent along each side.
      default_height: of images, in pixels, like `default_width`.
      mesh: as given.
    """

    def __init__(
        self, spec: GeneratorSpec, networks: Networks, mesh: Mesh | None = None, prefetched: PrefetchedProgram | None = None
    ):
        """Wraps loaded networks; `load_pipeline` is the usual way here."""
        self.spec = spec
        self.networks = networks
        self.mesh = mesh
        self.folder = spec.folder
        self.vae_factor = networks.vae.factor
        side = spec.unet.get("sample_size") or 64
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        self.default_height, self.default_width = int(height) * self.vae_factor, int(width) * self.vae_factor
        self._graph, self._state = nnx.split(networks)
        self._sampler = make_sampler(self._graph, prefetched)
        graph = self._graph
        jit = functools.partial(jax.jit, compiler_options=compiler_options())
        self._encode_text = jit(lambda state, ids: nnx.merge(graph, state).encode_text(ids))
        self._decode = jit(lambda state, latents: nnx.merge(graph, state).decode(latents))
        self._encode = jit(lambda state, images: nnx.merge(graph, state).encode(images))
        self._predict = jit(
            lambda state, latents, timestep, hidden, pooled, size, guidance: nnx.merge(graph, state).predict(
                latents, timestep, hidden, pooled, size, guidance
            ),
            static_argnums=5,
        )

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over configs, weights, tokenizers, LoRA and words: what decides the pixels of a prompt and seed."""
        return content_digest(self.spec)

    @functools.cached_property
    def tokenizers(self) -> tuple[Tokenizer, ...]:
        """One tokenizer per text encoder, read when first needed."""
        encoders = self.networks.text_encoders
        return tuple(Tokenizer(path, encoder.max_tokens) for path, encoder in zip(self.spec.tokenizers, encoders, strict=True))

    @property
    def split(self) -> tuple[nnx.GraphDef[Networks], nnx.State]:
        """The networks' graph definition and arrays, for jitted programs of one's own: `nnx.merge(graph, state)` inside."""
        return self._graph, self._state

    @under_jax_defaults
    def set_words(self, words: Sequence[Words]) -> None:
        """Replaces rows of the token tables, one `Words` per text encoder; `digest` stays that of the files.

        Raises:
          UserError: rows of another width, or outside the table.
        """
        for encoder, word in zip(self.networks.text_encoders, words, strict=True):
            table = encoder.embeddings.token_embedding.embedding
            first, rows = int(word.first), word.rows
            if rows.shape[1] != table.shape[1] or not 0 <= first <= first + len(rows) <= table.shape[0]:
                raise UserError(
                    f"rows {first} to {first + len(rows)} of width {rows.shape[1]} do not fit a token table of "
                    f"{table.shape[0]} rows of width {table.shape[1]}."
                )
            table[...] = table[...].at[first : first + len(rows)].set(jnp.asarray(rows).astype(table.dtype))
        self._graph, self._state = nnx.split(self.networks)

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale is an input of the UNet (latent consistency models): one UNet call per step."""
        return self.networks.unet.time_embedding.cond_proj is not None

    @property
    def without_guidance(self) -> bool:
        """Whether the folder's scheduler is set as those of models distilled to sample without guidance.

        SD-Turbo and SDXL-Turbo come with an Euler sampler on trailing timesteps; no other file tells them from SD 2.1 and SDXL.
        """
        config = self.spec.scheduler
        euler = CLASS_NAMES.get(str(config.get("_class_name"))) in ("euler", "euler_ancestral")
        return euler and config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr")

    @property
    def is_xl(self) -> bool:
        """Whether the UNet also takes a pooled text embedding and the image size."""
        return self.networks.unet.addition == "text_time"

    @under_jax_defaults
    def __call__(
        self,
        prompts: str | Sequence[str],
        seeds: int | Sequence[int] | np.ndarray | None = None,
        *,
        steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | Sequence[str] = "",
        height: int | None = None,
        width: int | None = None,
        scheduler: str | None = None,
        latents: ArrayLike | None = None,
        step_noise: ArrayLike | None = None,
        init_images: ArrayLike | None = None,
        strength: float = 0.8,
    ) -> jax.Array:
        """Samples one image per prompt, as one batch.

        Args:
          prompts: n prompts; one longer than the text encoder takes is cut, with a warning that shows what.
          seeds: n integers; the noise of image i depends on its seed alone. May be absent if `latents` are given.
          steps: of the scheduler.
          guidance_scale: of classifier-free guidance; at most 1 means none, and one UNet call per step. A latent
            consistency model takes it as an input instead; one distilled to need none (SD-Turbo) wants 0, and more
            is done with a warning.
          negative_prompt: one for all images, or n; without effect, with a warning, on latent consistency models.
          height: of the images in pixels, a multiple of `vae_factor`; None means the model's own. Likewise `width`.
          scheduler: a name out of `bridgejax.diffusion.schedulers.SCHEDULERS`; None means the folder's.
          latents: float32 [n, h/f, w/f, c] unit normal noise instead of that of `seeds`.
          step_noise: float32 [steps, n, h/f, w/f, c] for stochastic schedulers, instead of that of `seeds`.
          init_images: float32 [n, h, w, 3] in [0, 1] to start from (image-to-image).
          strength: in (0, 1]: which share of the steps image-to-image makes, counted as diffusers does. A latent
            consistency model makes all of them, within that share of its schedule.

        Returns:
          float32 [n, h, w, 3] in [0, 1]; a `jax.Array`, so the call returns before the images are ready.

        Raises:
          UserError: an argument does not fit; it is named.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        n = len(texts)
        if n == 0:
            raise UserError("prompts is empty; give at least one.")
        if seeds is None:
            if latents is None:
                raise UserError("seeds are missing; give one integer per prompt.")
            seeds = [0] * n
        seed_list = [seeds] if isinstance(seeds, (int, np.integer)) else list(seeds)
        if len(seed_list) != n:
            raise UserError(f"there are {len(seed_list)} seeds for {n} prompts; give one integer per prompt.")
        if not math.isfinite(guidance_scale):
            raise UserError(f"guidance_scale = {guidance_scale!r} must be a finite number.")
        first_image = None if init_images is None else _pixels(init_images, "init_images", (n, None, None, 3))
        height, width = self._size(height, width, first_image)
        if first_image is not None:
            _array(first_image, "init_images", (n, height, width, 3))
        method, tables, first, calls = self.model_calls(steps, scheduler, None if first_image is None else strength)
        shape = (height // self.vae_factor, width // self.vae_factor, self.networks.vae.latent_channels)
        guide = guidance_scale > 1 and not self.takes_guidance
        negatives = [negative_prompt] if isinstance(negative_prompt, str) else list(negative_prompt)
        if len(negatives) not in (1, n):
            raise UserError(f"there are {len(negatives)} negative prompts for {n} prompts; give one, or one per prompt.")
        if self.takes_guidance and any(negatives):
            warnings.warn("this latent consistency model does not use negative_prompt, so it was ignored.", stacklevel=2)
        if guide and self.without_guidance:
            warnings.warn(
                f"guidance_scale = {guidance_scale:g}, but the scheduler of {self.folder.name} is set as that of a model "
                "distilled to sample without guidance (SD-Turbo, SDXL-Turbo); guidance_scale=0 suits such a model.",
                stacklevel=2,
            )
        zero = guide and self.is_xl and bool(self.spec.index.get("force_zeros_for_empty_prompt", True))
        zero = zero and not any(negatives)

        noise = None
        if step_noise is not None and method.stochastic:
            noise = _array(step_noise, "step_noise", (None, n, *shape))
            if noise.shape[0] < calls:
                raise UserError(f"step_noise has {noise.shape[0]} steps, but the scheduler makes {calls}.")
        inputs: dict[str, object] = {
            "ids": [tokenizer(texts) for tokenizer in self.tokenizers],
            "negative_ids": [tokenizer(negatives) for tokenizer in self.tokenizers] if guide and not zero else None,
            "keys": keys_from_seeds(seed_list),
            "tables": tables,
            "first": np.int32(first),
            "calls": np.int32(calls),
            "guidance": np.float32(guidance_scale),
            "latents": None if latents is None else _array(latents, "latents", (n, *shape)),
            "step_noise": noise,
            "init_images": first_image,
        }
        images = self._sampler(
            self._state, self._place(inputs, n), scheduler=method.program, shape=shape, guide=guide, zero_negative=zero
        )
        return images if images.shape[0] == n else images[:n]

    def model_calls(self, steps: int, scheduler: str | None = None, strength: float | None = None) -> ModelCalls:
        """Returns which model calls `steps` of a scheduler, None for the folder's, mean; without `strength`, from noise.

        Raises:
          UserError: the scheduler, its config, the steps or the strength do not fit.
        """
        method = make_scheduler(scheduler, self.spec.scheduler, self.spec.scheduler_place)
        first = 0
        if strength is not None:
            if not 0 < strength <= 1:
                raise UserError(f"strength = {strength!r} must be above 0 and at most 1.")
            if isinstance(method, LCM) and str(self.spec.index.get("_class_name")).startswith("LatentConsistency"):
                method = method.shortened(strength)
            else:
                first = method.first_call(steps, strength)
        tables, calls = method.tables(steps), method.calls(steps)
        if first >= calls:
            raise UserError(f"strength = {strength!r} of {steps} steps leaves none to make; raise strength or steps.")
        return ModelCalls(method, tables, first, calls)

    @under_jax_defaults
    def encode_prompts(self, prompts: str | Sequence[str]) -> tuple[jax.Array, jax.Array | None]:
        """Returns the UNet's text context [n, 77, d] and, for SDXL, the pooled embedding [n, p] (else None); float32."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return self._encode_text(self._state, [tokenizer(texts) for tokenizer in self.tokenizers])

    @under_jax_defaults
    def predict(
        self,
        latents: ArrayLike,
        timestep: ArrayLike,
        hidden: ArrayLike,
        pooled: ArrayLike | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
    ) -> jax.Array:
        """Returns the UNet's raw output for one denoising call, float32 [n, h/f, w/f, c].

        Args:
          latents: [n, h/f, w/f, c], as scaled by the scheduler.
          timestep: scalar or [n], in training timesteps.
          hidden: [n, tokens, d] from `encode_prompts`; likewise `pooled`, [n, p], for SDXL.
          height: image size in pixels that SDXL is given; None means that of the latents. Likewise `width`.
          guidance_scale: embedded guidance, for UNets that take it (LCM).
        """
        x = jnp.asarray(latents, jnp.float32)
        size = (height or x.shape[1] * self.vae_factor, width or x.shape[2] * self.vae_factor)
        scale = None if guidance_scale is None else jnp.float32(guidance_scale)
        return self._predict(self._state, x, jnp.asarray(timestep, jnp.float32), jnp.asarray(hidden), pooled, size, scale)

    @under_jax_defaults
    def decode(self, latents: ArrayLike) -> jax.Array:
        """Returns images float32 [n, h, w, 3] in [0, 1] of latents [n, h/f, w/f, c] as the UNet sees them.

        Raises:
          UserError: the latents have another shape, or are not finite numbers.
        """
        if not isinstance(latents, jax.Array):  # those on a device stay there, unread
            latents = _array(latents, "latents", (None, None, None, self.networks.vae.latent_channels))
        elif latents.ndim != 4 or latents.shape[-1] != self.networks.vae.latent_channels:
            raise UserError(
                f"latents has shape {list(latents.shape)}; expected [any, any, any, {self.networks.vae.latent_channels}]."
            )
        return self._decode(self._state, jnp.asarray(latents, jnp.float32))

    @under_jax_defaults
    def encode(self, images: ArrayLike) -> jax.Array:
        """Returns latents as the UNet sees them (posterior mean × scaling factor) of images [n, h, w, 3] in [0, 1].

        Raises:
          UserError: the images have another shape, are not floating-point numbers in [0, 1], or their sides do not fit.
        """
        pixels = _pixels(images, "images", (None, None, None, 3))
        if pixels.shape[1] % self.vae_factor or pixels.shape[2] % self.vae_factor:
            raise UserError(
                f"images of {pixels.shape[1]}×{pixels.shape[2]} pixels do not fit; "
                f"both sides must be multiples of {self.vae_factor}."
            )
        return self._encode(self._state, pixels)

    @under_jax_defaults
    def save(self, folder: str | Path) -> None:
        """Writes the model to a new folder in the diffusers layout; PyTorch diffusers opens it too.

        Raises:
          UserError: the folder holds files already, or cannot be written.
        """
        d = self.spec
        save_folder(
            folder,
            self.networks,
            unet=d.unet,
            vae=d.vae,
            text_encoders=d.text_encoders,
            scheduler=d.scheduler,
            tokenizers=d.tokenizers,
            index=d.index,
        )

    def _size(self, height: int | None, width: int | None, images: np.ndarray | None) -> tuple[int, int]:
        default = (self.default_height, self.default_width) if images is None else images.shape[1:3]
        size = (height or default[0], width or default[1])
        for name, value in zip(("height", "width"), size, strict=True):
            if value != int(value) or value < 1 or value % self.vae_factor:
                raise UserError(f"{name} = {value!r} must be a positive multiple of {self.vae_factor} pixels.")
        return int(size[0]), int(size[1])

    def _place(self, inputs: dict[str, object], n: int) -> SamplerInputs:
        """Returns the inputs; with a mesh, what is per image is padded (last row repeated) and split over "data"."""
        if self.mesh is not None:
            rows = np.minimum(np.arange(n + -n % data_size(self.mesh)), n - 1)
            split, everywhere = data_sharding(self.mesh), replicated(self.mesh)
            per_image = {"ids", "keys", "latents", "init_images"}
            if (negative := inputs["negative_ids"]) is not None and np.asarray(negative).shape[1] == n > 1:
                per_image.add("negative_ids")
            if (noise := inputs["step_noise"]) is not None:
                inputs = {**inputs, "step_noise": np.asarray(noise)[:, rows]}
            inputs = {
                name: jax.device_put(jax.tree.map(lambda x: x[rows], value), split)
                if name in per_image
                else jax.device_put(value, everywhere)
                for name, value in inputs.items()
            }
        return cast(SamplerInputs, inputs)


def _array(value: ArrayLike, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Returns finite numbers as float32 after checking their shape; None in `shape` fits any size."""
    try:
        given = np.asarray(value)
        array = given.astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is not an array of numbers ({error}); give float32.") from error
    if array.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
        expected = ", ".join("any" if want is None else str(want) for want in shape)
        raise UserError(f"{name} has shape {list(array.shape)}; expected [{expected}].")
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds NaN or infinity; give finite numbers.")
    return array


def _pixels(value: ArrayLike, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Returns images as float32 after checking their shape, dtype and range."""
    array = _array(value, name, shape)
    if not jnp.issubdtype(np.asarray(value).dtype, jnp.floating):
        raise UserError(
            f"{name} has dtype {np.asarray(value).dtype}; expected floating-point numbers in [0, 1] (divide 8 bits by 255)."
        )
    if array.size and not -_ROUNDING <= array.min() <= array.max() <= 1 + _ROUNDING:
        raise UserError(f"{name} has values from {array.min():.4g} to {array.max():.4g}; expected [0, 1].")
    return array
