"""Classifier folders: what a `config.json` (ours, timm's or transformers') says, and how it is written back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from bridgejax.errors import UserError, choices
from bridgejax.files import JSONObject, check_link, read_json_object
from bridgejax.models import resnet, vit_layouts
from bridgejax.models.classifier import Classifier, Preprocessing
from bridgejax.models.clip import CLIP, TextTower, ZeroShot, ZeroShotSpec, image_side
from bridgejax.models.clip_resnet import CLIPResNet, ModifiedResNet
from bridgejax.models.config_values import positive_int
from bridgejax.models.dinov2 import DINOV2_TYPES, dinov2_config, dinov2_file, dinov2_layout
from bridgejax.models.efficientnet_lite import EFFICIENTNET_LITE_RULES, EfficientNetLite
from bridgejax.models.label_names import id2label_names, id2label_of, label_names_of, timm_names
from bridgejax.models.layout import Build, ClassifierSpec, Layout, Tensors
from bridgejax.models.locked_image import LOCKED_IMAGE, LockedImageCLIP, locked_image_layout
from bridgejax.models.open_clip import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    OpenCLIPFolder,
    find_openai,
    open_clip_file,
    open_clip_layout,
    read_open_clip,
)
from bridgejax.models.preprocessor_keys import check_keys, mean_and_std, size_and_crop
from bridgejax.models.resnet import TIMM_RESNETS, ResNet
from bridgejax.models.siglip import SigLIPTexts, siglip_config, siglip_file, siglip_layout
from bridgejax.models.vit import VisionTransformer, ViTConfig

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PREPROCESSOR_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
# The model_types that are read, and what their published networks were trained with: crop, mean and std. The classes of
# transformers start from a mean and std of 0.5 for resnet and deit too, which those weights never saw.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_USUAL: dict[str, tuple[float, tuple[float, ...], tuple[float, ...]]] = {
    "resnet": (0.875, *_IMAGENET),
    "vit": (1.0, (0.5,) * 3, (0.5,) * 3),
    "deit": (0.875, *_IMAGENET),
    "clip": (1.0, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": (1.0, (0.5,) * 3, (0.5,) * 3),
    **{kind: (0.875, *_IMAGENET) for kind in DINOV2_TYPES},
}
MODEL_TYPES = tuple(_USUAL)
_RESNET_SIZE = 224  # of the published ones; their configs do not say it
_DINOV2_SIZE = 224  # of their image processors; the positions are those of larger images
# timm's default where a config states no crop.
_TIMM_CROP = 0.875
# Examples of the names that are read, for messages.
_KNOWN = ("efficientnet_lite0", *TIMM_RESNETS, "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224")
_KNOWN = (*_KNOWN, "deit_small_patch16_224", "deit_small_distilled_patch16_224", "vit_base_patch32_clip_224")


def read_config(folder: Path) -> JSONObject:
    """Returns the object in a classifier folder's `config.json`.

    Raises:
      UserError: it is missing or not a JSON object.
    """
    file = folder / CONFIG_FILE
    if not file.exists():
        check_link(file)
        raise UserError(f"{file} is missing; a classifier folder needs {CONFIG_FILE} beside {WEIGHTS_FILE}.")
    return _object(file)


def _object(file: Path) -> JSONObject:
    return read_json_object(file, "get the published file, or save the folder again")


def preprocessor_file(folder: Path) -> tuple[Path, JSONObject] | None:
    """Returns the file of a transformers folder that says how images are made ready, and what it says; None without one.

    As in transformers, a `processor_config.json` that says it (so do all that version 5 writes) goes before a
    `preprocessor_config.json`.

    Raises:
      UserError: a file is not a JSON object.
    """
    both = folder / PROCESSOR_FILE
    content = _object(both) if both.is_file() else {}
    if "image_processor" in content:
        return both, content["image_processor"]
    alone = folder / PREPROCESSOR_FILE
    return (alone, _object(alone)) if alone.is_file() else None


def classifier_spec(folder: Path, *, zero_shot: bool = False) -> ClassifierSpec:
    """Reads the JSON files of a classifier folder (of OpenAI's own weights, which have none, the names of the tensors).

    Args:
      folder: of any layout.
      zero_shot: where timm's image tower and the whole OpenCLIP model lie side by side, the latter is wanted.

    Raises:
      UserError: a file is missing or wrong, or the architecture is not supported; it is named.
    """
    parts = [(folder / name).is_file() for name in (OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS)]
    alone = all(parts) and not any(folder.glob("model*.safetensors*"))  # the config is of weights that are not there
    if alone or not (folder / CONFIG_FILE).is_file():
        found = read_open_clip(folder) if any(parts) else find_openai(folder)
        if found is not None:
            return _open_clip(folder, found)
    config, where = read_config(folder), str(folder / CONFIG_FILE)
    if zero_shot and all(parts) and "model_type" not in config:
        return _open_clip(folder, read_open_clip(folder))
    if config.get("model_type") == LOCKED_IMAGE:
        return _locked_image(folder, config, where)
    if "architecture" not in config and config.get("model_type"):
        return _transformers(folder, config, where)
    name = config.get("architecture")
    if name == EfficientNetLite.architecture:
        return _efficientnet_lite(config, where)
    plain = str(name).split(".")[0]  # old files carry timm's tag behind the name
    if plain in TIMM_RESNETS or vit_layouts.is_timm_name(plain):
        return _timm(plain, config, where)
    raise UserError(
        f"{where}: architecture {name!r} is not known; {choices(plain, _KNOWN)} A transformers folder has a "
        f"model_type instead, one of {', '.join(MODEL_TYPES)}; an OpenCLIP folder needs no such file."
    )


def _efficientnet_lite(config: JSONObject, where: str) -> ClassifierSpec:
    try:
        classes = int(config["num_classes"])
        wanted = config["preprocessing"]
        preprocessing = _preprocessing(wanted["size"], wanted["mean"], wanted["std"], wanted["crop"], where)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} must hold num_classes and preprocessing with size, mean (3 numbers), std (3 numbers) and crop; "
            f"got a wrong or missing {error}."
        ) from error
    spec = ClassifierSpec(
        lambda classes, rngs: EfficientNetLite(classes, preprocessing, rngs=rngs),
        Layout(EFFICIENTNET_LITE_RULES),
        _classes(classes, where),
        preprocessing,
    )
    return _named(spec, timm_names(config, {}, where), where)


def _locked_image(folder: Path, config: JSONObject, where: str) -> ClassifierSpec:
    tower = _efficientnet_lite({**config, "num_classes": 1}, where)
    width = positive_int(config, "projection_dim", where)
    return _zero_shot(
        (lambda classes, rngs: LockedImageCLIP(width, classes, tower.preprocessing, rngs=rngs), tower.build),
        locked_image_layout(config, where),
        tower.preprocessing,
        config.get(vit_layouts.OURS) or {},
        lambda tensors, file: TextTower(folder, config, tensors, file),
    )


def _timm(name: str, config: JSONObject, where: str) -> ClassifierSpec:
    # Old files have one flat object.
    pretrained = config.get("pretrained_cfg", config)
    try:
        classes = int(config.get("num_classes", pretrained.get("num_classes", 1000)))
        channels, height, size = pretrained["input_size"]
        if channels != 3 or height != size or pretrained.get("crop_mode") not in (None, "center", "squash"):
            raise UserError(
                f"{where}: images of input_size {pretrained['input_size']} and crop_mode {pretrained.get('crop_mode')!r} are "
                "not supported, only squares of 3 channels, cropped at the center or squashed."
            )
        crop = pretrained.get("crop_pct") or _TIMM_CROP
        preprocessing = _preprocessing(size, pretrained["mean"], pretrained["std"], crop, where)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{where} must hold num_classes and pretrained_cfg with input_size, mean and std (3 numbers each) and crop_pct, as "
            f"timm writes it; got a wrong or missing {error}."
        ) from error
    known = _classes(classes, where) if classes else None
    if name in TIMM_RESNETS:
        spec = _resnet(resnet.timm_config(name, config, where), known, preprocessing)
    else:
        spec = _vit(vit_layouts.timm_config(name, config, where), known, preprocessing)
    return _named(spec, timm_names(config, pretrained, where), where)


def _named(spec: ClassifierSpec, names: tuple[str, ...], where: str) -> ClassifierSpec:
    """Returns the spec with the names of its classes; of a network without a head, without them."""
    if names and spec.num_classes is not None and len(names) != spec.num_classes:
        raise UserError(f"{where} names {len(names)} classes, but the head has {spec.num_classes} outputs; correct the file.")
    return replace(spec, class_names=names if spec.num_classes is not None else ())


def _transformers(folder: Path, config: JSONObject, where: str) -> ClassifierSpec:
    kind = config["model_type"]
    if kind not in MODEL_TYPES:
        raise UserError(
            f"{where}: model_type {kind!r} is not a supported classifier; expected one of {', '.join(MODEL_TYPES)}, or a "
            "timm folder with an architecture."
        )
    kinds = config.get("architectures") or []
    if not isinstance(kinds, list) or any(not isinstance(name, str) for name in kinds):
        raise UserError(f"{where}: architectures is {kinds!r}; expected a list of names, get the published config.json.")
    if kind in ("clip", "siglip"):
        if alone := [name for name in kinds if name.endswith("ForImageClassification")]:
            raise UserError(f"{where}: {alone[0]} is not supported; of {kind}, expected a model of both towers, …Model.")
        siglip = kind == "siglip"
        network = siglip_config(config, where) if siglip else vit_layouts.clip_config(config, where)
        layout = siglip_layout() if siglip else vit_layouts.layout(network)
        tower = SigLIPTexts if siglip else TextTower
        preprocessing = _preprocessor(folder, kind, network.image_size)
        image = replace(network, projection=0)
        return _zero_shot(
            (_builder(CLIP, network, preprocessing), _builder(VisionTransformer, image, preprocessing)),
            layout,
            preprocessing,
            config.get(vit_layouts.OURS) or {},
            lambda tensors, where: tower(folder, config, tensors, where, spell=layout.spell),
        )
    wrong = [name for name in kinds if not name.endswith(("Model", "ForImageClassification", "WithTeacher"))]
    if wrong:
        raise UserError(
            f"{where}: {wrong[0]} is another kind of model; expected one …ForImageClassification, or the bare …Model of it."
        )
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    known = None if any(name.endswith("Model") for name in kinds) else _classes(count, where)
    names = id2label_names(config, where)
    if kind == "resnet":
        spec = _resnet(resnet.transformers_config(config, where), known, _preprocessor(folder, kind, _RESNET_SIZE))
        return _named(spec, names, where)
    if kind in DINOV2_TYPES:
        network = dinov2_config(config, where)
        spec = _vit(network, known, _preprocessor(folder, kind, min(network.image_size, _DINOV2_SIZE)))
        return _named(spec, names, where)
    network = vit_layouts.transformers_config(config, where)
    return _named(_vit(network, known, _preprocessor(folder, kind, network.image_size)), names, where)


def _open_clip(folder: Path, found: OpenCLIPFolder) -> ClassifierSpec:
    where = str(found.weights.with_name(OPEN_CLIP_CONFIG))
    _, mean, std = _USUAL["clip"]
    try:
        preprocessing = _preprocessing(found.size, found.mean or mean, found.std or std, 1.0, where)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: mean and std of preprocess_cfg must be 3 numbers each ({error}).") from error
    if found.resnet is not None:
        builds = _builder(CLIPResNet, found.resnet, preprocessing), _builder(ModifiedResNet, found.resnet, preprocessing)
    else:
        network = vit_layouts.clip_config(found.config, where)
        tower = replace(network, projection=0)
        builds = _builder(CLIP, network, preprocessing), _builder(VisionTransformer, tower, preprocessing)
    layout = open_clip_layout(found.resnet, found.config["text_config"], found.config.get("vision_config"))
    return _zero_shot(
        builds,
        layout,
        preprocessing,
        found.ours,
        lambda tensors, where: TextTower(folder, found.config, tensors, where, spell=layout.spell),
        found.weights,
    )


def _zero_shot(
    builds: tuple[Build, Build],
    layout: Layout,
    preprocessing: Preprocessing,
    ours: JSONObject,
    texts: Callable[[Tensors, str], TextTower],
    weights: Path | None = None,
) -> ClassifierSpec:
    """Returns what a folder with an image and a text tower holds; of one that we saved with a new head, the image tower.

    Args:
      builds: of the zero-shot model, and of the image tower with a linear head.
      layout: of the whole file.
      preprocessing: what images must be.
      ours: what we wrote into the config.
      texts: makes the text tower.
      weights: see `ClassifierSpec`.
    """
    names = tuple(ours.get("class_names") or ())
    known = ours.get("num_classes") or len(names) or None
    stored = bool(ours.get("tower"))
    image = image_side(layout, keep_head=stored, keep_projection=False)
    tower = ClassifierSpec(builds[1], image, known if stored else None, preprocessing, weights)
    if stored:
        return replace(tower, class_names=names)
    return ZeroShotSpec(
        builds[0],
        layout,
        known,
        preprocessing,
        weights,
        names,
        texts=texts,
        tower=tower,
        templates=tuple(ours.get("templates") or ()),
    )


def _resnet(config: resnet.ResNetConfig, classes: int | None, preprocessing: Preprocessing) -> ClassifierSpec:
    return ClassifierSpec(_builder(ResNet, config, preprocessing), resnet.layout(config), classes, preprocessing)


def _vit(config: ViTConfig, classes: int | None, preprocessing: Preprocessing) -> ClassifierSpec:
    return ClassifierSpec(_builder(VisionTransformer, config, preprocessing), _vit_layout(config), classes, preprocessing)


def _vit_layout(config: ViTConfig) -> Layout:
    if config.layout in DINOV2_TYPES:
        return dinov2_layout(config)
    return siglip_layout() if config.layout == "siglip" else vit_layouts.layout(config)


def _builder(network: Callable[..., Classifier], config: object, preprocessing: Preprocessing) -> Build:
    return lambda classes, rngs: network(config, classes, preprocessing, rngs=rngs)


def _classes(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{where}: the number of classes is {value!r}; it should be at least 1, correct the file.")
    return value


def _preprocessing(size: float, mean: Iterable[float], std: Iterable[float], crop: float, where: str) -> Preprocessing:
    means, deviations = (tuple(float(value) for value in values) for values in (mean, std))
    if len(means) != 3 or len(deviations) != 3:
        raise ValueError(f"list of {len(means) if len(means) != 3 else len(deviations)} numbers")
    made = Preprocessing(int(size), (means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2]), float(crop))
    if made.size < 1 or min(made.std) <= 0 or not 0 < made.crop <= 1:
        raise UserError(f"{where}: the image size must be at least 1, std above 0 and the crop in (0, 1]; correct the file.")
    return made


def _preprocessor(folder: Path, kind: str, image_size: int) -> Preprocessing:
    """Reads how images are made ready: the size of the input, and how much of the resized image its central crop keeps.

    A folder that does not say it (a model saved alone) takes what is usual for its kind at `image_size`, with a warning.
    """
    said = preprocessor_file(folder)
    if said is None:
        crop, mean, std = _USUAL[kind]
        made = _preprocessing(image_size, mean, std, crop, str(folder))
        warnings.warn(
            f"{folder} holds no {PREPROCESSOR_FILE}, so images are made ready as is usual for {kind} (size {made.size}, crop "
            f"{made.crop}, mean {made.mean}, std {made.std}); add the file if the network was trained otherwise.",
            stacklevel=2,
        )
        return made
    file, config = said
    try:
        check_keys(config, str(file))
        ours = config.get(vit_layouts.OURS)
        size, crop = (ours["size"], ours["crop"]) if ours else size_and_crop(config, kind, str(file))
        mean, std = mean_and_std(config, str(file))
        return _preprocessing(size, mean, std, crop, str(file))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{file} must hold size, image_mean and image_std (3 numbers each), as transformers writes it; got a wrong or "
            f"missing {error}."
        ) from error


def layout_of(model: Classifier) -> Layout:
    """Returns the layout in which a model is saved: that in which it was published."""
    if isinstance(model, LockedImageCLIP):
        return locked_image_layout({}, "")
    if isinstance(model, EfficientNetLite):
        return Layout(EFFICIENTNET_LITE_RULES)
    if isinstance(model, ModifiedResNet):
        return open_clip_layout(model.config, _text_config(model))
    return resnet.layout(model.config) if isinstance(model, ResNet) else _vit_layout(_vit_config(model))


def weights_file(model: Classifier) -> str:
    """Returns the name of the file of tensors in the layout in which a model is saved."""
    return OPEN_CLIP_WEIGHTS if isinstance(model, ModifiedResNet) else WEIGHTS_FILE


def _text_config(model: Classifier) -> JSONObject | None:
    return model.texts.config if isinstance(model, ZeroShot) and model.texts is not None else None


def _ours(model: Classifier) -> JSONObject:
    """Returns what is kept of the head of a model with a text tower, or of its image tower with a new head."""
    head = {"num_classes": model.num_classes, "class_names": list(model.class_names)}
    return {**head, "templates": list(model.templates)} if isinstance(model, ZeroShot) else {**head, "tower": True}


def _vit_config(model: Classifier) -> ViTConfig:
    if not isinstance(model, VisionTransformer):
        raise UserError(f"{type(model).__name__} is not a classifier of this package, so its published layout is unknown.")
    return model.config


def config_files(model: Classifier) -> dict[str, JSONObject]:
    """Returns the JSON files of a model's folder: name → content."""
    made = model.preprocessing
    if isinstance(model, EfficientNetLite):
        preprocessing = {"size": made.size, "mean": list(made.mean), "std": list(made.std), "crop": made.crop}
        if isinstance(model, LockedImageCLIP):
            parts = {"projection_dim": model.feature_width, "text_config": _text_config(model), vit_layouts.OURS: _ours(model)}
            return {CONFIG_FILE: {"model_type": LOCKED_IMAGE, "preprocessing": preprocessing, **parts}}
        classes = {"num_classes": model.num_classes, **label_names_of(model)}
        return {CONFIG_FILE: {"architecture": model.architecture, **classes, "preprocessing": preprocessing}}
    if isinstance(model, ModifiedResNet):
        ready = {"size": made.size, "mean": list(made.mean), "std": list(made.std), "interpolation": "bicubic"}
        return {OPEN_CLIP_CONFIG: open_clip_file(model.config, _text_config(model), ready, _ours(model))}
    is_resnet, kind = isinstance(model, ResNet), "resnet" if isinstance(model, ResNet) else _vit_config(model).layout
    if kind == "siglip":
        content = siglip_file(_vit_config(model), _text_config(model), _ours(model))
        return {CONFIG_FILE: content, PREPROCESSOR_FILE: _preprocessor_file(kind, made)}
    if isinstance(model, ResNet):
        network = resnet.config_file(model.config)
    else:
        network = (dinov2_file if kind in DINOV2_TYPES else vit_layouts.config_file)(_vit_config(model))
    if "architecture" in network:
        heads = ["head", "head_dist"] if isinstance(model, VisionTransformer) and model.config.both_heads else "head"
        pretrained = {
            "num_classes": model.num_classes,
            "input_size": [3, made.size, made.size],
            "fixed_input_size": not is_resnet,
            "interpolation": "bicubic",
            "crop_pct": made.crop,
            "crop_mode": "center",
            "mean": list(made.mean),
            "std": list(made.std),
            "first_conv": "conv1" if is_resnet else "patch_embed.proj",
            "classifier": "fc" if is_resnet else heads,
        }
        return {
            CONFIG_FILE: {**network, "num_classes": model.num_classes, **label_names_of(model), "pretrained_cfg": pretrained}
        }
    if isinstance(model, CLIP):
        return {CONFIG_FILE: _clip_file(model, network), PREPROCESSOR_FILE: _preprocessor_file("clip", made)}
    network |= id2label_of(model)
    return {CONFIG_FILE: network, PREPROCESSOR_FILE: _preprocessor_file(kind, made)}


def _clip_file(model: CLIP, vision: JSONObject) -> JSONObject:
    text = _text_config(model) or {}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model.config.projection,
        "vision_config": {**vision, "model_type": "clip_vision_model"},
        "text_config": {**text, "model_type": "clip_text_model"},
        vit_layouts.OURS: _ours(model),
    }


def _preprocessor_file(kind: str, made: Preprocessing) -> JSONObject:
    """Returns a `preprocessor_config.json` that transformers reads; our own key keeps the exact crop."""
    square = {"height": made.size, "width": made.size}
    resized = round(made.size / made.crop)
    common = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(made.mean),
        "image_std": list(made.std),
        "resample": 3,
        vit_layouts.OURS: {"size": made.size, "crop": made.crop},
    }
    if kind == "resnet":
        name, sizes = "ConvNextImageProcessor", {"size": {"shortest_edge": made.size}, "crop_pct": made.crop}
    elif kind == "clip" or kind in DINOV2_TYPES:
        name = "CLIPImageProcessor" if kind == "clip" else "BitImageProcessor"
        sizes = {"size": {"shortest_edge": resized}, "do_center_crop": True, "crop_size": square}
    elif made.crop == 1:
        name, sizes = "SiglipImageProcessor" if kind == "siglip" else "ViTImageProcessor", {"size": square}
    else:
        both = {"height": resized, "width": resized}
        name, sizes = "DeiTImageProcessor", {"size": both, "do_center_crop": True, "crop_size": square}
    return {"image_processor_type": name, **common, **sizes}
