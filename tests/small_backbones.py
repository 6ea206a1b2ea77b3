"""Random classifier folders of a few thousand weights in the published layouts, made without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.reduced.generator import write_tokenizer
from bridgejax.models import load_classifier, save_classifier
from bridgejax.models.safetensors_files import read_tensors, save_tensors

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PRETRAINED = {"input_size": [3, 64, 64], "mean": MEAN, "std": STD, "crop_pct": 0.9}
PREPROCESSOR = {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
PREPROCESSOR |= {"image_mean": MEAN, "image_std": STD}
LABELS = {"id2label": {str(number): f"class {number}" for number in range(5)}}
TOWER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
TOWER |= {"patch_size": 8, "image_size": 32}
TEXT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 514}
TEXT |= {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}

CONFIGS: dict[str, dict[str, Any]] = {
    "timm resnet": {
        "architecture": "resnet18",
        "num_classes": 5,
        "model_args": {"layers": [1, 1, 1, 2], "channels": [8, 16, 24, 32]},
        "pretrained_cfg": PRETRAINED,
    },
    "timm vit": {
        "architecture": "vit_small_patch16_224",
        "num_classes": 5,
        "model_args": {"embed_dim": 32, "depth": 3, "num_heads": 4, "patch_size": 8, "img_size": 64},
        "pretrained_cfg": PRETRAINED,
    },
    "timm deit": {
        "architecture": "deit_small_distilled_patch16_224",
        "num_classes": 5,
        "model_args": {"embed_dim": 32, "depth": 3, "num_heads": 4, "patch_size": 8, "img_size": 64},
        "pretrained_cfg": PRETRAINED,
    },
    "transformers resnet": {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "depths": [1, 1, 2],
        "hidden_sizes": [16, 24, 32],
        "embedding_size": 8,
        **LABELS,
    },
    "transformers vit": {"model_type": "vit", "architectures": ["ViTForImageClassification"], **TOWER, **LABELS},
    "transformers deit": {
        "model_type": "deit",
        "architectures": ["DeiTForImageClassificationWithTeacher"],
        **TOWER,
        **LABELS,
    },
}
CLIP_CONFIG = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 16}
CLIP_CONFIG |= {"vision_config": TOWER, "text_config": TEXT}


def write_config(kind: str, folder: Path) -> Path:
    """Writes a folder that holds everything but weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind]))
    if kind.startswith("transformers"):
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def write_backbone(kind: str, folder: Path, seed: int = 0) -> Path:
    """Writes a folder of random weights, as its library would start them, with the running statistics of no data."""
    save_classifier(load_classifier(write_config(kind, folder), pretrained=False, seed=seed), folder)
    return folder


SIGLIP_CONFIG = {"model_type": "siglip", "architectures": ["SiglipModel"], "vision_config": TOWER}
SIGLIP_CONFIG |= {"text_config": {**TEXT, "hidden_size": 32, "vocab_size": 64}}
OPEN_CLIP_TEXT = {"context_length": 77, "vocab_size": 514, "width": 24, "heads": 2, "layers": 1, "mlp_ratio": 32 / 24}
OPEN_CLIP_VISION: dict[str, dict[str, Any]] = {
    "open clip": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "open clip resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
}
TWO_TOWERS = ("clip", "siglip", *OPEN_CLIP_VISION)


def write_clip(folder: Path, kind: str = "clip") -> Path:
    """Writes a random folder of two towers, one of `TWO_TOWERS`, with a tokenizer of bytes (SigLIP's has a few pieces)."""
    import jax
    import numpy as np
    from flax import nnx

    from bridgejax.models.clip import TEXT_RULES
    from bridgejax.models.clip_text import CLIPTextModel
    from bridgejax.models.published import CONFIG_FILE, classifier_spec
    from bridgejax.models.siglip import SigLIPTextModel, SigLIPTexts
    from bridgejax.models.weights import export
    from tests.models.siglip_folders import write_unigram

    folder.mkdir(parents=True, exist_ok=True)
    (write_unigram if kind == "siglip" else write_tokenizer)(folder)
    weights = folder / "model.safetensors"
    if kind in OPEN_CLIP_VISION:
        weights = folder / "open_clip_model.safetensors"
        weights.touch()
        model = {"embed_dim": 16, "vision_cfg": OPEN_CLIP_VISION[kind], "text_cfg": OPEN_CLIP_TEXT}
        content = {"model_cfg": model, "preprocess_cfg": {"mean": MEAN, "std": STD}}
        (folder / "open_clip_config.json").write_text(json.dumps(content))
    else:
        (folder / CONFIG_FILE).write_text(json.dumps(SIGLIP_CONFIG if kind == "siglip" else CLIP_CONFIG))
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    found = classifier_spec(folder)
    rngs = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.numpy.asarray(rngs.normal(0, 1 / np.sqrt(max(leaf.shape[0], 16)), leaf.shape), leaf.dtype)

    def text() -> Any:
        if kind == "siglip":
            config = {**SIGLIP_CONFIG["text_config"], "projection_dim": 32, "max_position_embeddings": 64, "eos_token_id": 1}
            return SigLIPTextModel(config, rngs=nnx.Rngs(0), where="")
        return CLIPTextModel({**TEXT, "projection_dim": 16}, projection=True, rngs=nnx.Rngs(0))

    image = jax.tree.map(fill, nnx.eval_shape(lambda: found.build(1, nnx.Rngs(0))))
    texts = export(jax.tree.map(fill, nnx.eval_shape(text)), SigLIPTexts.rules if kind == "siglip" else TEXT_RULES)
    texts |= {"logit_scale": np.asarray(2.0, np.float32)}
    texts |= {"logit_bias": np.asarray(-3.0, np.float32)} if kind == "siglip" else {}
    tensors = found.layout.write(export(image, found.layout.rules) | texts)
    # Variances are above zero, and the head is not published.
    tensors = {name: abs(array) + 0.1 if name.endswith("running_var") else array for name, array in tensors.items()}
    save_tensors(weights, {name: array for name, array in tensors.items() if not name.startswith("classifier.")})
    return folder


def write_dinov2(folder: Path, registers: int = 0) -> Path:
    """Writes a random DINOv2 folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "dinov2", "architectures": ["Dinov2Model"], **TOWER, "mlp_ratio": 2}
    if registers:
        config |= {"model_type": "dinov2_with_registers", "num_register_tokens": registers}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    model = load_classifier(folder, num_classes=3, pretrained=False)
    save_classifier(model, folder)
    (folder / "config.json").write_text(json.dumps(config))  # its head is not published
    tensors = read_tensors(folder)
    save_tensors(folder / "model.safetensors", {k: v for k, v in tensors.items() if not k.startswith("classifier.")})
    return folder
