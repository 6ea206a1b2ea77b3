"""Tensor names of the original Stable Diffusion releases (CompVis, Stability) and of OpenCLIP, beside today's diffusers names.

A `NameTable` pairs the blocks of the two layouts and translates names in both directions; `translate` and
`translate_open_clip` turn the tensors of one part of a file into tensors under diffusers names. Everything here is a
pure function of names and arrays. Sources: the state dicts of Rombach et al. 2022 (arXiv:2112.10752, `ldm`), Podell et
al. 2023 (arXiv:2307.01952, `sgm`) and OpenCLIP, and the module trees of diffusers' UNet2DConditionModel and AutoencoderKL
and of transformers' CLIPTextModel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bridgejax.errors import UserError
from bridgejax.files import JSONObject

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
# Text encoders: prefix → whether the names are OpenCLIP's (else transformers').
SD1_TEXT_PREFIX = "cond_stage_model.transformer."
SD2_TEXT_PREFIX = "cond_stage_model.model."
XL_TEXT_PREFIX = "conditioner.embedders.0.transformer."
XL_TEXT_2_PREFIX = "conditioner.embedders.1.model."

# Tensors that published files hold and no picture depends on, and what they are.
HARMLESS: tuple[tuple[str, str], ...] = (
    (r"model_ema\..*", "averaged weights, kept for training"),
    (r"embedding_manager\..*", "words in training"),
    (r"(?:first_stage_model\.)?loss\..*", "a training loss"),
    (
        r"alphas|betas|alphas_cumprod|alphas_cumprod_prev|sqrt_\w+|log_one_minus_alphas_cumprod|posterior_\w+"
        r"|logvar|lvlb_weights|scale_factor|global_step|v_pred|ztsnr|denoiser\.\w+",
        "the noise schedule and other numbers of training",
    ),
    # CLIP's projection, under transformers' names: some programs save it with the first text encoder, which is read before it.
    (
        r"(?:cond_stage_model|conditioner\.embedders\.0)\.(?:transformer\.)?(?:text_model\.)?text_projection(?:\.weight)?",
        "a projection of the whole text, which the UNet does not see",
    ),
    (
        r"(?:cond_stage_model|conditioner\.embedders\.[01])\.(?:transformer\.|model\.)?"
        r"(?:vision_model|visual_projection|visual)\..*",
        "CLIP's image encoder",
    ),
    (r"(?:.*\.)?(?:position_ids|logit_scale|attn_mask|num_batches_tracked)", "constants"),
)
_HARMLESS = re.compile("|".join(pattern for pattern, _ in HARMLESS))

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_RESNET = {"nin_shortcut": "conv_shortcut"}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_OPEN_CLIP_EXACT = {"positional_embedding": "embeddings.position_embedding.weight", "text_projection": "text_projection.weight"}


class NameTable(NamedTuple):
    """Two layouts of one network, block by block."""

    blocks: Mapping[str, str]  # original block → diffusers block, both without a final dot
    inner: Sequence[tuple[str, Mapping[str, str]]] = ()  # (text in the diffusers block, names inside: original → diffusers)
    exact: Mapping[str, str] = {}  # full names that follow no block

    def to_diffusers(self, name: str) -> str | None:
        """Returns the diffusers name of an original one; None if the network has no such block."""
        if name in self.exact:
            return self.exact[name]
        block, rest = _split(name, self.blocks)
        if block is None:
            return None
        target = self.blocks[block]
        return f"{target}.{_replace_start(rest, self._names(target))}" if rest else target

    def to_original(self, name: str) -> str | None:
        """Returns the original name of a diffusers one; None if the network has no such block."""
        for original, diffusers in self.exact.items():
            if name == diffusers:
                return original
        blocks = {diffusers: original for original, diffusers in self.blocks.items()}
        block, rest = _split(name, blocks)
        if block is None:
            return None
        names = {diffusers: original for original, diffusers in self._names(block).items()}
        return f"{blocks[block]}.{_replace_start(rest, names)}" if rest else blocks[block]

    def _names(self, block: str) -> Mapping[str, str]:
        return next((names for part, names in self.inner if part in f".{block}."), {})


def harmless(name: str) -> str | None:
    """Returns what a tensor of a file is if no picture depends on it, else None."""
    if not _HARMLESS.fullmatch(name):
        return None
    return next(what for pattern, what in HARMLESS if re.fullmatch(pattern, name))


def _split(name: str, blocks: Mapping[str, str]) -> tuple[str | None, str]:
    """Returns the longest block that `name` lies in, and what follows it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        block = ".".join(parts[:length])
        if block in blocks:
            return block, ".".join(parts[length:])
    return None, name


def _replace_start(rest: str, names: Mapping[str, str]) -> str:
    for start, other in names.items():
        if rest == start or rest.startswith(f"{start}."):
            return other + rest[len(start) :]
    return rest


def unet_table(layers: Sequence[int], attends: Sequence[bool]) -> NameTable:
    """Returns the names of a UNet.

    Args:
      layers: residual blocks per level on the way down, highest resolution first.
      attends: whether a level has spatial transformers.
    """
    blocks = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }
    number, last = 1, len(layers) - 1
    for level, count in enumerate(layers):
        for layer in range(count):
            blocks[f"input_blocks.{number}.0"] = f"down_blocks.{level}.resnets.{layer}"
            if attends[level]:
                blocks[f"input_blocks.{number}.1"] = f"down_blocks.{level}.attentions.{layer}"
            number += 1
        if level < last:
            blocks[f"input_blocks.{number}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            number += 1
    number = 0
    for up, level in enumerate(range(last, -1, -1)):
        for layer in range(layers[level] + 1):
            blocks[f"output_blocks.{number}.0"] = f"up_blocks.{up}.resnets.{layer}"
            if attends[level]:
                blocks[f"output_blocks.{number}.1"] = f"up_blocks.{up}.attentions.{layer}"
            if layer == layers[level] and level > 0:
                place = 2 if attends[level] else 1
                blocks[f"output_blocks.{number}.{place}.conv"] = f"up_blocks.{up}.upsamplers.0.conv"
            number += 1
    return NameTable(blocks, ((".resnets.", _RESNET),))


def unet_table_of_config(config: JSONObject) -> NameTable:
    """Returns the names of the UNet of a diffusers `config.json`."""
    kinds = list(config.get("down_block_types", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)))
    layers = config.get("layers_per_block", 2)
    counts = list(layers) if isinstance(layers, (list, tuple)) else [layers] * len(kinds)
    return unet_table([int(count) for count in counts], ["CrossAttn" in kind for kind in kinds])


def vae_table(levels: int, layers: int) -> NameTable:
    """Returns the names of an autoencoder with `levels` resolutions and `layers` residual blocks each on the way down."""
    blocks = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        blocks |= {
            f"{side}.conv_in": f"{side}.conv_in",
            f"{side}.conv_out": f"{side}.conv_out",
            f"{side}.norm_out": f"{side}.conv_norm_out",
            f"{side}.mid.block_1": f"{side}.mid_block.resnets.0",
            f"{side}.mid.attn_1": f"{side}.mid_block.attentions.0",
            f"{side}.mid.block_2": f"{side}.mid_block.resnets.1",
        }
    for level in range(levels):
        for layer in range(layers):
            blocks[f"encoder.down.{level}.block.{layer}"] = f"encoder.down_blocks.{level}.resnets.{layer}"
        for layer in range(layers + 1):
            # The decoder's levels are counted from the highest resolution, as the encoder's are.
            blocks[f"decoder.up.{level}.block.{layer}"] = f"decoder.up_blocks.{levels - 1 - level}.resnets.{layer}"
        if level < levels - 1:
            blocks[f"encoder.down.{level}.downsample.conv"] = f"encoder.down_blocks.{level}.downsamplers.0.conv"
        if level > 0:
            blocks[f"decoder.up.{level}.upsample.conv"] = f"decoder.up_blocks.{levels - 1 - level}.upsamplers.0.conv"
    return NameTable(blocks, ((".resnets.", _VAE_RESNET), (".attentions.", _VAE_ATTENTION)))


def open_clip_table(layers: int) -> NameTable:
    """Returns the names of an OpenCLIP text encoder, but for the joint query, key and value projections of its layers."""
    blocks = {"token_embedding": "embeddings.token_embedding", "ln_final": "final_layer_norm"}
    blocks |= {f"transformer.resblocks.{layer}": f"encoder.layers.{layer}" for layer in range(layers)}
    return NameTable(blocks, ((".layers.", _OPEN_CLIP_LAYER),), _OPEN_CLIP_EXACT)


def translate(tensors: Mapping[str, np.ndarray], table: NameTable, prefix: str, where: str) -> dict[str, np.ndarray]:
    """Returns tensors under diffusers names.

    Args:
      tensors: by original names without `prefix`.
      table: of the network.
      prefix: of the names in the file, for the error message.
      where: the file, for the error message.

    Raises:
      UserError: a tensor belongs to no block of the network; it is named.
    """
    renamed: dict[str, np.ndarray] = {}
    strange = []
    for name, array in tensors.items():
        target = table.to_diffusers(name)
        if target is None:
            strange.append(prefix + name)
        else:
            renamed[target] = array
    if strange:
        raise no_place(where, strange)
    return renamed


def translate_open_clip(
    tensors: Mapping[str, np.ndarray], layers: int, prefix: str, where: str, projection: bool
) -> dict[str, np.ndarray]:
    """Returns the tensors of an OpenCLIP text encoder under the names of transformers' CLIPTextModel.

    The joint projection of queries, keys and values [3 · width, width] is cut in three; the text projection, which
    OpenCLIP multiplies from the right, is transposed. All are views of the arrays given.

    Args:
      tensors: by original names without `prefix`.
      layers: how many layers the encoder keeps (SD 2.x leaves out the last; its tensors are not to be given).
      prefix: of the names in the file, for error messages; likewise `where`.
      projection: whether the text projection is wanted; else it is left out.

    Raises:
      UserError: a tensor belongs to no block of the network, or a joint projection is misshapen; it is named.
    """
    plain, renamed = {}, {}
    for name, array in tensors.items():
        if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name):
            width = array.shape[-1] if match[2] == "weight" else array.shape[0] // 3
            if array.shape[0] != 3 * width:
                raise UserError(
                    f"{where}: tensor {prefix}{name} has shape {list(array.shape)}, but queries, keys and values need "
                    f"{3 * width} rows."
                )
            for number, letter in enumerate("qkv"):
                part = array[number * width : (number + 1) * width]
                renamed[f"encoder.layers.{match[1]}.self_attn.{letter}_proj.{match[2]}"] = part
        elif name == "text_projection":
            if projection:
                plain[name] = array.T
        else:
            plain[name] = array
    return renamed | translate(plain, open_clip_table(layers), prefix, where)


def open_clip_original(name: str, layers: int) -> str | None:
    """Returns the original name that a tensor of `translate_open_clip` comes from."""
    if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.[qkv]_proj\.(weight|bias)", name):
        return f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"
    return open_clip_table(layers).to_original(name)


def no_place(where: str, names: Sequence[str]) -> UserError:
    """Returns the error for tensors of a file that no network wants; the first few are named."""
    listed = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return UserError(
        f"{where}: {len(names)} tensors have no place in the model ({listed}); the file is not of a supported kind."
    )
