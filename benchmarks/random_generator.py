"""Random generators in the published layouts, for benchmarks: PyTorch's own classes make and save them.

python -m benchmarks.random_generator FOLDER SIZE [DTYPE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import require

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "bridgejax" / "assets" / "tiny_diffusion" / "tokenizer"

_SD15_UNET = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_SD15_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "sample_size": 512,
}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
SIZES: dict[str, dict[str, Any]] = {
    # Stable Diffusion's blocks and depth, an eighth of its width.
    "reduced": {
        "unet": {**_SD15_UNET, "block_out_channels": [32, 64, 128, 128], "cross_attention_dim": 96, "sample_size": 16},
        "vae": {**_SD15_VAE, "block_out_channels": [32, 32, 64, 64], "sample_size": 128},
        "text": [{**_CLIP_L, "hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 4}],
    },
    "sd15": {"unet": _SD15_UNET, "vae": _SD15_VAE, "text": [_CLIP_L]},
    "sdxl": {
        "unet": {
            "sample_size": 128,
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280],
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, 2, 10],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**_SD15_VAE, "scaling_factor": 0.13025, "sample_size": 1024},
        "text": [_CLIP_L, {**_CLIP_G, "projection_dim": 1280, "hidden_act": "gelu"}],
    },
}
# The noise schedule of Stable Diffusion 1.x and XL.
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


def write(folder: Path, size: str, dtype: str) -> None:
    """Writes a random generator of a size in `SIZES`, in "float16" or "float32", with the embedded tokenizer."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    kind, plan = getattr(torch, dtype), SIZES[size]
    components: dict[str, Any] = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    UNet2DConditionModel(**plan["unet"]).to(kind).save_pretrained(folder / "unet")
    AutoencoderKL(**plan["vae"]).to(kind).save_pretrained(folder / "vae")
    for number, text in enumerate(plan["text"]):
        build = CLIPTextModel if number == 0 else CLIPTextModelWithProjection
        suffix = "" if number == 0 else f"_{number + 1}"
        config = CLIPTextConfig(vocab_size=49408, bos_token_id=1554, eos_token_id=1555, pad_token_id=1555, **text)
        build(config).to(kind).save_pretrained(folder / f"text_encoder{suffix}")
        shutil.copytree(TOKENIZER, folder / f"tokenizer{suffix}")
        components[f"text_encoder{suffix}"] = ["transformers", build.__name__]
        components[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    name = "StableDiffusionXLPipeline" if len(plan["text"]) > 1 else "StableDiffusionPipeline"
    index = {"_class_name": name, "scheduler": ["diffusers", "DDIMScheduler"], **components}
    (folder / "model_index.json").write_text(json.dumps(index))


def write_in_process(folder: str | Path, size: str, dtype: str = "float32") -> None:
    """Does `write` in a process of its own, whose memory goes with it.

    Raises:
      UserError: a package that it needs is not installed.
    """
    require("torch", "diffusers", "transformers")
    command = [sys.executable, "-m", "benchmarks.random_generator", str(folder), size, dtype]
    subprocess.run(command, cwd=ROOT, check=True)


def main() -> None:
    """Writes what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("size", choices=sorted(SIZES))
    parser.add_argument("dtype", choices=["float16", "float32"], nargs="?", default="float32")
    options = parser.parse_args()
    write(options.folder, options.size, options.dtype)


if __name__ == "__main__":
    main()
