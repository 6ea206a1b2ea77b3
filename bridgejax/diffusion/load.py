"""Building a generator's networks and filling them with its weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bridgejax.diffusion.decisions import check_parts
from bridgejax.diffusion.networks import Networks, vae_class
from bridgejax.diffusion.spec import TEXT_ENCODERS, GeneratorSpec
from bridgejax.errors import UserError, choices
from bridgejax.known_names import GENERATOR_DTYPES
from bridgejax.models.building import ShapesOnly
from bridgejax.models.clip_text import CLIP_TEXT_RULES, CLIPTextModel
from bridgejax.models.layers import LayerOptions
from bridgejax.models.unet import UNet2DCondition, unet_rules
from bridgejax.models.vae import AutoencoderKL
from bridgejax.models.weights import Index, Put, Rule, assign

Network = TypeVar("Network", bound=nnx.Module)


def load_networks(spec: GeneratorSpec, dtype: DTypeLike, put: Put | None, param_dtype: DTypeLike | None = None) -> Networks:
    """Builds the networks as shapes and fills them from the folder's safetensors.

    Args:
      spec: of the generator.
      dtype: of arithmetic. SDXL's autoencoder overflows in half precision and is kept in float32, unless its
        config says `"force_upcast": false`.
      put: places one parameter, as of `bridgejax.mesh.make_put`; paths start with the part's name ("unet."). None means the
        default device.
      param_dtype: of parameters; None means `dtype`.

    Raises:
      UserError: a config is not supported, or a weights file does not fit its config or is damaged; file and key or tensor
        are named.
    """
    options: LayerOptions = {"dtype": dtype, "param_dtype": dtype if param_dtype is None else param_dtype, "rngs": ShapesOnly()}
    check_parts(spec)
    make_vae, vae_rules = vae_class(spec.vae)
    vae_options = options
    xl = spec.unet.get("addition_embed_type") == "text_time"
    if xl and make_vae is AutoencoderKL and spec.vae.get("force_upcast", True):
        vae_options = {"dtype": jnp.float32, "param_dtype": jnp.float32, "rngs": ShapesOnly()}

    if (channels := spec.unet.get("in_channels", 4)) != (latent := spec.vae.get("latent_channels", 4)):
        raise UserError(
            f"{spec.folder}: the UNet takes {channels} channels (in_channels) but the autoencoder makes {latent} "
            "(latent_channels); inpainting, editing and upscaling models are not supported, nor is an autoencoder of "
            "another family."
        )

    def fill(part: str, network: Network, rules: Sequence[Rule]) -> Network:
        place = None if put is None else _within(part, put)
        tensors, spell = spec.tensors(part), functools.partial(spec.spell, part)
        return assign(network, tensors, rules, spec.where(part), put=place, spell=spell)

    encoders = [
        fill(name, CLIPTextModel(config, projection=projection, where=spec.config_place(name), **options), CLIP_TEXT_RULES)
        for name, config, projection in zip(TEXT_ENCODERS, spec.text_encoders, spec.projections, strict=False)
    ]
    unet = fill("unet", UNet2DCondition(spec.unet, where=spec.config_place("unet"), **options), unet_rules(spec.unet))
    vae = fill("vae", make_vae(spec.vae, where=spec.config_place("vae"), **vae_options), vae_rules)
    return Networks(encoders, unet, vae)


def _within(part: str, put: Put) -> Put:
    """Returns a `put` whose paths begin below a part of the generator."""

    def place(
        path: str, shape: Sequence[int], dtype: DTypeLike, read: Callable[[Index], np.ndarray]
    ) -> jax.Array | jax.ShapeDtypeStruct:
        return put(f"{part}.{path}", shape, dtype, read)

    return place


def parse_dtype(dtype: DTypeLike) -> np.dtype:
    """Returns the dtype of a name.

    Raises:
      UserError: it is not one that a generator can run in.
    """
    try:
        name = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in GENERATOR_DTYPES:
        raise UserError(f"dtype {name!r} is not supported; {choices(name, GENERATOR_DTYPES)}")
    return jnp.dtype(name)
