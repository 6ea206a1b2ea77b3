"""Classifiers by folder or name: `load_classifier`, `save_classifier`.

A classifier folder is one that timm or transformers published (`config.json`, for transformers `preprocessor_config.json` or
`processor_config.json`, and `model.safetensors`), an OpenCLIP folder (`bridgejax.models.open_clip`), or one that
`save_classifier` wrote, in the same layout, so that it opens in those libraries too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import write_json
from bridgejax.identity import derive_seed, folder_digest
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.known_names import BUILTIN_CLASSIFIERS
from bridgejax.models.classifier import Classifier
from bridgejax.models.clip import ZeroShot, ZeroShotSpec, as_strings, image_side, set_classes
from bridgejax.models.layout import ClassifierSpec, Layout
from bridgejax.models.open_clip import OPEN_CLIP_CONFIG
from bridgejax.models.published import (
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    WEIGHTS_FILE,
    classifier_spec,
    config_files,
    layout_of,
    preprocessor_file,
    weights_file,
)
from bridgejax.models.reset import checked_num_classes, reinitialise, reset_head
from bridgejax.models.safetensors_files import find_weights, read_tensors, save_tensors
from bridgejax.models.vit import VisionTransformer, with_image_size
from bridgejax.models.vit_layouts import timm_tower
from bridgejax.models.weight_sources import WeightSources
from bridgejax.models.weights import assign, export

_HUB_FILES: tuple[str, ...] = (CONFIG_FILE, "*processor_config.json", "model*.safetensors", "model.safetensors.index.json")
_HUB_FILES = (*_HUB_FILES, "vocab.json", "merges.txt", "tokenizer*.json", "special_tokens_map.json")
CLASSIFIERS = WeightSources("classifier", f"{CONFIG_FILE} and {WEIGHTS_FILE}", _HUB_FILES, BUILTIN_CLASSIFIERS)


@under_jax_defaults
def load_classifier(
    folder_or_name: str | Path,
    num_classes: int | None = None,
    seed: int = 0,
    *,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] | str | None = None,
    image_size: int | None = None,
    pretrained: bool = True,
) -> Classifier:
    """Loads a classifier with its weights, in evaluation mode.

    Args:
      folder_or_name: `builtin:efficientnet_lite0`, a folder in timm's, transformers' or OpenCLIP's layout or of
        `save_classifier`, one with OpenAI's CLIP weights as safetensors, or a hub name (owner/name; only then is there any
        network, and none when the hub's cache holds it).
      num_classes: outputs wanted; None keeps the file's. Another number than the file's gives a new head, made from `seed`. Of
        a CLIP or SigLIP folder it takes the image tower (without projection) with a new linear head, for fine-tuning.
      seed: of the new head, and of all parameters if not `pretrained`.
      class_names: of a CLIP or SigLIP folder: the classes of a zero-shot head, logits = exp(logit_scale) · cosine
        (+ logit_bias). Without them and without `num_classes`, such a model gives embeddings alone.
      templates: sentences with `{}` for the class name; a class's column is the mean over them. None: "a photo of a {}.".
      image_size: side of the input in pixels for which `preprocessing.size` and, in a vision transformer, the position
        embeddings are made; None keeps the file's. Without it, images of other sizes work as well.
      pretrained: False reads the config alone and starts every parameter anew ("from scratch").

    Returns:
      A `Classifier`: `model(images)` are logits, `.features(images)` what the head sees, `.preprocessing` what images must be,
      `.feature_width`, `.num_classes`, `.head`, `.blocks`. A CLIP or SigLIP also has `encode_image(images)`,
      `encode_text(texts)`, `.logit_scale` (a logarithm) and `.logit_bias`.

    Raises:
      UserError: the folder, its config or its weights are missing, damaged, not supported or do not fit together, or an
        argument is wrong.
    """
    folder = CLASSIFIERS.resolve(folder_or_name)
    if num_classes is not None:
        num_classes = checked_num_classes(num_classes)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise UserError(f"seed is {seed!r}; give a whole number.")
    spec = classifier_spec(folder, zero_shot=class_names is not None)
    if (class_names is not None or templates is not None) and not isinstance(spec, ZeroShotSpec):
        raise UserError(
            f"{folder} is not a CLIP model, so class_names and templates cannot make a head for it; give num_classes instead, "
            "or in a config leave classifier.templates empty."
        )
    if templates is not None and class_names is None:
        raise UserError("templates are given without class_names; name the classes of the zero-shot head.")
    names = () if class_names is None else as_strings(class_names, "class_names")
    if names and num_classes not in (None, len(names)):
        raise UserError(f"num_classes is {num_classes}, but class_names holds {len(names)}; leave num_classes out.")
    model: Classifier
    if not isinstance(spec, ZeroShotSpec):
        model = _load(folder, spec, num_classes, seed, pretrained)
    elif class_names is not None or num_classes in (None, spec.num_classes):
        model = _load_zero_shot(folder, spec, names if class_names is not None else None, templates, pretrained)
    else:
        model = _load(folder, spec.tower, num_classes, seed, pretrained)
    if image_size is not None:
        _resize(model, image_size)
    return model


def _load(folder: Path, spec: ClassifierSpec, num_classes: int | None, seed: int, pretrained: bool) -> Classifier:
    classes = spec.num_classes if num_classes is None else num_classes
    if classes is None:
        raise UserError(
            f"{folder} holds a network without a head; give num_classes, or, to teach or to score images, take a classifier of "
            "their classes or a CLIP model."
        )
    known = spec.num_classes if pretrained and spec.num_classes is not None else classes
    abstract = nnx.clone(_abstract(folder, _versions(folder), known))
    abstract.class_names = spec.class_names if known == spec.num_classes else ()
    if not pretrained:
        return reinitialise(abstract, jax.random.key(derive_seed(seed, "initial")))
    tensors, where = _read(folder, spec)
    model = _fill(abstract, tensors, spec.layout, where, headless=spec.num_classes is None)
    if isinstance(model, VisionTransformer) and model.config.layout == "clip":
        model.config = timm_tower(model.config)
    if spec.num_classes != classes:
        reset_head(model, jax.random.key(derive_seed(seed, "head")), classes)
    return model


@functools.lru_cache(maxsize=8)
def _abstract(folder: Path, versions: tuple[tuple[str, int, int], ...], classes: int) -> Classifier:
    """Returns a folder's network without weights. A study loads it for every run, and tracing it takes most of that time."""
    del versions  # of a folder that has changed, another network
    spec = classifier_spec(folder)
    spec = spec.tower if isinstance(spec, ZeroShotSpec) else spec
    return nnx.eval_shape(lambda: spec.build(classes, nnx.Rngs(0)))


def _versions(folder: Path) -> tuple[tuple[str, int, int], ...]:
    found = ((file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file())
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


def _read(folder: Path, spec: ClassifierSpec) -> tuple[dict[str, np.ndarray], str]:
    weights = spec.weights or folder / WEIGHTS_FILE
    return read_tensors(weights if weights.is_file() else folder), str(weights if weights.is_file() else folder)


def _fill(abstract: Classifier, tensors: dict[str, np.ndarray], layout: Layout, where: str, *, headless: bool) -> Classifier:
    named = layout.read(tensors)
    if headless:  # a head of zeros stands in until the caller makes one
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), nnx.state(abstract.head))
        named |= export(nnx.Dict(head=nnx.merge(nnx.graphdef(abstract.head), zeros)), layout.rules)
    return assign(abstract, named, layout.rules, where, spell=layout.spell)


def _load_zero_shot(
    folder: Path, spec: ZeroShotSpec, names: Sequence[str] | None, templates: Sequence[str] | str | None, pretrained: bool
) -> ZeroShot:
    if not pretrained:
        raise UserError("a zero-shot head needs pretrained weights; give num_classes instead of class_names.")
    tensors, where = _read(folder, spec)
    stored = names is None and spec.num_classes is not None
    abstract = nnx.eval_shape(lambda: spec.build(spec.num_classes if stored and spec.num_classes else 1, nnx.Rngs(0)))
    model = _fill(abstract, tensors, image_side(spec.layout, keep_head=stored), where, headless=not stored)
    if not isinstance(model, ZeroShot):
        raise UserError(f"{folder} holds no CLIP model.")
    model.texts = spec.texts(spec.layout.read(tensors), where)
    if names is not None:
        return set_classes(model, names, templates)
    model.class_names, model.templates = spec.class_names, spec.templates
    model.num_classes = (spec.num_classes or 0) if stored else 0  # the head of a model without classes is never asked
    return model


def _resize(model: Classifier, image_size: int) -> None:
    if isinstance(image_size, bool) or not isinstance(image_size, int | np.integer) or image_size < 1:
        raise UserError(f"image_size is {image_size!r}; give the side of the input in pixels.")
    if isinstance(model, VisionTransformer):
        with_image_size(model, int(image_size))
    model.preprocessing = replace(model.preprocessing, size=int(image_size))


@under_jax_defaults
def abstract_classifier(folder_or_name: str | Path, num_classes: int | None = None) -> Classifier:
    """Returns a classifier of shapes and dtypes without weights (`nnx.eval_shape`), as its config says.

    Args:
      folder_or_name: as for `load_classifier`.
      num_classes: outputs of the head; None means the file's, and 1 where the file has no head (a CLIP's image tower).

    Raises:
      UserError: as `load_classifier`.
    """
    folder = CLASSIFIERS.resolve(folder_or_name)
    spec = classifier_spec(folder)
    spec = spec.tower if isinstance(spec, ZeroShotSpec) else spec
    return nnx.clone(_abstract(folder, _versions(folder), num_classes or spec.num_classes or 1))


def classifier_digest(folder_or_name: str | Path) -> str:
    """Returns the SHA-256 of what decides a classifier: its configs and its weights.

    Raises:
      UserError: the folder or one of its files is missing.
    """
    folder = CLASSIFIERS.resolve(folder_or_name)
    weights = classifier_spec(folder).weights
    said = preprocessor_file(folder)
    files = find_weights(folder) if weights is None else [weights]
    files += [folder / CONFIG_FILE] if weights is None else [file for file in [folder / OPEN_CLIP_CONFIG] if file.is_file()]
    return folder_digest(folder, (file.name for file in (*files, *(() if said is None else (said[0],)))))


@under_jax_defaults
def save_classifier(model: Classifier, folder: str | Path) -> None:
    """Writes `model` as a folder that `load_classifier` and the library of its layout read.

    timm layouts open with `timm.create_model("local-dir:FOLDER")`, transformers layouts with `from_pretrained`. The image tower
    of a CLIP with a linear head is written as timm's network of the same parts; a zero-shot CLIP as a `CLIPModel` with its
    tokenizer, whose head lies beside (`classifier.weight`, `classifier.bias`), a SigLIP as a `SiglipModel`, a CLIP ResNet as an
    OpenCLIP folder. The image towers of the latter two with a linear head have no layout elsewhere and open here alone.

    Args:
      model: a classifier with concrete weights.
      folder: made if absent; files of the same names are replaced.

    Raises:
      UserError: the folder cannot be written, or a weight is not finite (a diverged run is not saved).
    """
    target = Path(folder)
    published = layout_of(model)
    texts = model.texts if isinstance(model, ZeroShot) else None
    tensors = published.write(export(model, published.rules) | ({} if texts is None else texts.tensors()))
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"tensor {name} holds NaN or infinity, so {target} was not written; train with a lower learning rate."
            )
    # PyTorch counts batches beside its running statistics; with a fixed momentum the count is never used.
    for name in [name for name in tensors if name.endswith("running_var")]:
        tensors[name.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if texts is not None:
            texts.save_tokenizer(target)
    except OSError as error:
        raise UserError(f"{target} could not be made ({error.strerror}); choose a folder that can be written.") from error
    save_tensors(target / weights_file(model), tensors)
    files = config_files(model)
    for name, content in files.items():
        write_json(target / name, content)
    if PREPROCESSOR_FILE in files:  # one that came with the tokenizer, or lay there, would go before the new file
        (target / PROCESSOR_FILE).unlink(missing_ok=True)
