"""Vision transformers (ViT, DeiT, DINOv2, the image towers of CLIP and SigLIP) in timm's and transformers' published layouts.

Sources: Dosovitskiy et al. 2020 (arXiv:2010.11929), Touvron et al. 2020 (arXiv:2012.12877), Radford et al. 2021
(arXiv:2103.00020), Zhai et al. 2023 (arXiv:2303.15343), Oquab et al. 2023 (arXiv:2304.07193). The blocks are those of the text
encoder, `bridgejax.models.clip_text`, without its causal mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.models.classifier import Classifier, Preprocessing, normalised
from bridgejax.models.clip_text import Layer, LayerConfig, Mlp, SelfAttention
from bridgejax.models.convolution import widened
from bridgejax.models.dense import dense
from bridgejax.models.initializers import NORM_INITIALIZERS, Initializer, normal, uniform, zeros
from bridgejax.models.layers import layer_norm
from bridgejax.models.positions import resample


@dataclass(frozen=True)
class ViTConfig:
    """What a vision transformer is made of."""

    # In which it was published and is saved: "timm", or a model_type of transformers: "vit", "deit", "clip" (a CLIPModel),
    # "siglip" (a SiglipModel), "dinov2" or "dinov2_with_registers".
    layout: str
    name: str  # timm's architecture, or the transformers model_type
    # image_size, patch_size: sides in pixels; the position embeddings are those of image_size
    image_size: int
    patch_size: int
    # hidden_size, layers, heads, intermediate_size: of the transformer
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    activation: str = "gelu"  # a key of `bridgejax.models.activations.ACTIVATIONS`
    epsilon: float = 1e-6  # of every layer normalisation
    pre_norm: bool = False  # normalise before the blocks; the patches then have no bias (CLIP)
    distillation: bool = False  # a second token (DeiT)
    both_heads: bool = False  # the second token has a head of its own, and logits are the mean of the two
    antialias: bool = True  # how positions are resampled, see `bridgejax.models.positions`
    projection: int = 0  # width of the projection behind the network (a whole CLIPModel), 0 for none
    class_token: bool = True  # there is one, the first token (not so in SigLIP)
    registers: int = 0  # tokens without positions between it and the patches (Darcet et al. 2023, arXiv:2309.16588).
    # layer_scale, gated: of the blocks, see `bridgejax.models.clip_text.LayerConfig`
    layer_scale: bool = False
    gated: bool = False
    # What features are: "token" (the class token, or both tokens where each has a head), "token_and_mean" (beside it the mean
    # of the patches), or "attention" (a learned query over the patches, SigLIP).
    pool: str = "token"

    @property
    def prefix(self) -> int:
        """How many tokens with positions come before the patches."""
        return self.class_token + self.distillation

    @property
    def layer(self) -> LayerConfig:
        """The sizes of a block."""
        sizes = (self.hidden_size, self.heads, self.intermediate_size)
        return LayerConfig(*sizes, self.activation, self.epsilon, self.layer_scale, self.gated)


def check(config: ViTConfig, where: str) -> ViTConfig:
    """Returns the config if its parts fit together.

    Raises:
      UserError: they do not; the values are named.
    """
    if config.hidden_size % config.heads:
        raise UserError(f"{where}: {config.heads} attention heads do not divide a width of {config.hidden_size}; correct it.")
    if config.image_size < config.patch_size:
        raise UserError(f"{where}: an image of {config.image_size} pixels holds no patch of {config.patch_size}; correct it.")
    return config


class PatchEmbedding(nnx.Module):
    """A convolution whose kernel and stride are one patch, as a matrix product."""

    def __init__(self, size: int, features: int, use_bias: bool) -> None:
        self.size = size
        self.kernel = nnx.Param(jnp.zeros((size, size, 3, features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32)) if use_bias else None

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps [n, h, w, 3] to [n, ⌊h / size⌋, ⌊w / size⌋, features]; pixels beyond the last whole patch are left out."""
        n, side = images.shape[0], self.size
        rows, columns = images.shape[1] // side, images.shape[2] // side
        cut = images[:, : rows * side, : columns * side].reshape(n, rows, side, columns, side, 3)
        patches = cut.swapaxes(2, 3).reshape(n, rows, columns, side * side * 3)
        kernel = self.kernel[...].astype(images.dtype)
        out = dense(patches, kernel.reshape(side * side * 3, -1))
        return out if self.bias is None else out + self.bias[...].astype(images.dtype)


class MeanHead(nnx.Module):
    """The two linear heads of a distilled DeiT, one for each token: their mean, as the network is used and tuned.

    Two layers, though one on both tokens could give the same logits: a step moves each as far as in the original.
    """

    def __init__(self, width: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.cls = nnx.Linear(width, num_classes, rngs=rngs)
        self.dist = nnx.Linear(width, num_classes, rngs=rngs)

    @property
    def linear_heads(self) -> tuple[nnx.Linear, nnx.Linear]:
        """Both layers."""
        return self.cls, self.dist

    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps both tokens side by side, [n, 2 · width], to [n, num_classes]."""
        first, second = jnp.split(features, 2, axis=-1)
        return (self.cls(first) + self.dist(second)) / 2


class AttentionPool(nnx.Module):
    """A learned query's attention over all tokens, and an MLP on it, residual (Zhai et al. 2021, arXiv:2106.04560)."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs) -> None:
        width = config.hidden_size
        self.probe = nnx.Param(jnp.zeros((1, 1, width), jnp.float32))
        self.attention = SelfAttention(width, config.heads, rngs=rngs)
        self.layernorm = layer_norm(width, epsilon=config.epsilon, rngs=rngs)
        self.mlp = Mlp(width, config.intermediate_size, config.activation, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, tokens, width] to [n, width]."""
        probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        y = self.attention(x, query=probe)
        return (y + self.mlp(self.layernorm(y)))[:, 0]


class VisionTransformer(Classifier):
    """A vision transformer with a linear head on its features (for a distilled DeiT: a `MeanHead` on both tokens).

    Images of another size than the config's work: the position embeddings are resampled on the way.
    """

    architecture = "vision transformer"
    after_blocks: ClassVar[tuple[str, ...]] = ("norm", "pool")

    def __init__(self, config: ViTConfig, num_classes: int, preprocessing: Preprocessing, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.num_classes = num_classes
        self.preprocessing = preprocessing
        width = config.hidden_size
        side = config.image_size // config.patch_size

        def token(count: int) -> nnx.Param | None:
            return nnx.Param(jnp.zeros((1, count, width), jnp.float32)) if count else None

        self.class_token = token(config.class_token)
        self.distillation_token = token(config.distillation)
        self.registers = token(config.registers)
        self.positions = nnx.Param(jnp.zeros((1, config.prefix + side * side, width), jnp.float32))
        self.patch = PatchEmbedding(config.patch_size, width, use_bias=not config.pre_norm)
        self.pre_norm = layer_norm(width, epsilon=config.epsilon, rngs=rngs) if config.pre_norm else None
        self.blocks = nnx.List([Layer(config.layer, rngs=rngs) for _ in range(config.layers)])
        self.norm = layer_norm(width, epsilon=config.epsilon, rngs=rngs)
        self.pool = AttentionPool(config.layer, rngs=rngs) if config.pool == "attention" else None
        kind, inputs = (MeanHead, width) if config.both_heads else (nnx.Linear, self.feature_width)
        self.head = kind(inputs, num_classes, rngs=rngs)

    @property
    def feature_width(self) -> int:
        """How wide the features are."""
        return self.config.hidden_size * (2 if self.config.both_heads or self.config.pool == "token_and_mean" else 1)

    def tokens(self, images: jax.Array) -> jax.Array:
        """Returns the normalised tokens that features are made of, of normalised images [n, h, w, 3].

        These are the class token and the distillation token, [n, 1 or 2, hidden_size], where features are no more than these;
        else all tokens: the class token, the registers, the patches row by row.

        Raises:
          UserError: the images are not float [n, h, w, 3], or smaller than one patch.
        """
        patches = self.patch(normalised(images))
        n, rows, columns, width = patches.shape
        if not rows * columns:
            raise UserError(
                f"images of {images.shape[1]} × {images.shape[2]} pixels hold no patch of {self.config.patch_size}; "
                "give larger ones (classifier.image_size)."
            )
        first = [token[...] for token in (self.class_token, self.distillation_token) if token is not None]
        x = jnp.concatenate([*self._repeated(first, n), patches.reshape(n, rows * columns, width)], axis=1)
        x = x + resample(self.positions[...], self.config.prefix, (rows, columns), self.config.antialias)
        if self.registers is not None:
            registers = self._repeated([self.registers[...]], n)
            x = jnp.concatenate([x[:, : self.config.prefix], *registers, x[:, self.config.prefix :]], axis=1)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, : self.config.prefix] if self.config.pool == "token" else x)

    @staticmethod
    def _repeated(tokens: Sequence[jax.Array], count: int) -> list[jax.Array]:
        return [jnp.broadcast_to(token, (count, *token.shape[1:])) for token in tokens]

    def features(self, images: jax.Array) -> jax.Array:
        """Returns what the head sees, as `config.pool` says, float32 [n, feature_width], of normalised images."""
        tokens = self.tokens(images)
        if self.pool is not None:
            seen = self.pool(tokens)
        elif self.config.pool == "token_and_mean":
            patches = tokens[:, self.config.prefix + self.config.registers :]
            seen = jnp.concatenate([tokens[:, 0], patches.mean(1)], axis=-1)
        else:
            seen = (tokens if self.config.both_heads else tokens[:, :1]).reshape(tokens.shape[0], -1)
        return widened(seen)

    def initializers(self) -> Sequence[Initializer]:
        """Returns the initial values of the library that published the layout.

        timm: normal with deviation 0.02 (its truncation at 100 deviations cuts nothing), class tokens 1e-6, patches as torch's
        convolution. transformers: 0.02 throughout; CLIP by width and depth.
        """
        c = self.config
        narrow = normal(0.02)
        if c.layout == "clip":
            wide = c.hidden_size**-0.5
            inward = normal(wide * (2 * c.layers) ** -0.5)
            return (
                Initializer("class_token", normal(wide)),
                Initializer(r"[qkv]_proj\.kernel", inward),
                Initializer(r"(out_proj|projection)\.kernel", normal(wide)),
                Initializer(r"fc1\.kernel", normal((2 * c.hidden_size) ** -0.5)),
                Initializer(r"fc2\.kernel", inward),
                Initializer(r"(kernel|positions)", narrow),
                *NORM_INITIALIZERS,
            )
        if c.layout == "timm":
            bound = 1.0 / math.sqrt(3 * c.patch_size**2)
            special: tuple[Initializer, ...] = (
                Initializer("class_token", normal(1e-6)),
                Initializer(r"patch\.(kernel|bias)", uniform(bound)),
            )
        else:
            special = (Initializer(r"patch\.bias", zeros),)
        return (
            *special,
            Initializer(r"(kernel|positions|class_token|distillation_token|registers|probe)", narrow),
            *NORM_INITIALIZERS,
        )


def with_image_size(model: VisionTransformer, image_size: int) -> VisionTransformer:
    """Resamples a model's position embeddings for another image size, in place: training then starts from those.

    Raises:
      UserError: `image_size` is below one patch.
    """
    config = check(replace(model.config, image_size=image_size), "image_size")
    side = image_size // config.patch_size
    model.positions = nnx.Param(resample(model.positions[...], config.prefix, (side, side), config.antialias))
    model.config = config
    return model
