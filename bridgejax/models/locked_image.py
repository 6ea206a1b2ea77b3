"""A small CLIP whose image tower is a frozen EfficientNet-Lite0 that lies elsewhere (locked-image tuning).

Source: Zhai et al. 2022 (arXiv:2111.07991): a text tower learns to read what a pretrained image tower sees, which stays as it is.
Between the two lies a linear projection with a bias. A folder holds `config.json` (model_type "lit"), `model.safetensors` and
the tokenizer; the image tower's tensors come from the weights that the config names, or lie in the same file where it names none.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import JSONObject, asset
from bridgejax.identity import file_digest
from bridgejax.known_names import BUILTIN_CLASSIFIERS
from bridgejax.models.classifier import Preprocessing
from bridgejax.models.clip import ZeroShot, is_text_tensor
from bridgejax.models.efficientnet_lite import EFFICIENTNET_LITE_RULES, HEAD_CHANNELS, EfficientNetLite
from bridgejax.models.initializers import Initializer, normal
from bridgejax.models.layers import linear
from bridgejax.models.layout import Layout, Tensors
from bridgejax.models.safetensors_files import read_tensors
from bridgejax.models.weights import Rule

LOCKED_IMAGE = "lit"  # the model_type
IMAGE_TOWER = "image_tower"
_OWN_HEAD = "_fc."  # of the image tower, which no one asks
_BESIDE = ("visual_projection.", "classifier.")


class LockedImageCLIP(ZeroShot, EfficientNetLite):
    """EfficientNet-Lite0, a projection of its features and a head of text embeddings.

    Args:
      width: of the embeddings.
      num_classes: outputs of the head.
      preprocessing: kept as `self.preprocessing`.
      rngs: source of the initial values.
    """

    architecture = LOCKED_IMAGE
    after_blocks = (*EfficientNetLite.after_blocks, "projection")

    def __init__(self, width: int, num_classes: int, preprocessing: Preprocessing, *, rngs: nnx.Rngs) -> None:
        super().__init__(num_classes, preprocessing, rngs=rngs)
        self.projection = linear(HEAD_CHANNELS, width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)
        self.class_names, self.templates, self.texts = (), (), None

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings of normalised images [n, h, w, 3], float32 [n, feature_width], not normalised."""
        embeddings = self.projection(EfficientNetLite.features(self, images))
        return embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))

    def initializers(self) -> tuple[Initializer, ...]:
        """Returns the initial values of the image tower; the projection starts normal, with variance 1 / features."""
        return (Initializer(r"projection\.kernel", normal(HEAD_CHANNELS**-0.5)), *super().initializers())


def locked_image_layout(config: JSONObject, where: str) -> Layout:
    """Returns the tensors of a folder, those of the image tower that its config names included.

    Args:
      config: of the folder.
      where: its file, for messages.
    """
    rules = (
        Rule(r"head\.kernel", "classifier.weight", "linear"),
        Rule(r"head\.bias", "classifier.bias"),
        Rule(r"projection\.kernel", "visual_projection.weight", "linear"),
        Rule(r"projection\.bias", "visual_projection.bias"),
        *EFFICIENTNET_LITE_RULES,
    )

    def read(tensors: Tensors) -> dict[str, np.ndarray]:
        if IMAGE_TOWER not in config:
            return dict(tensors)
        tower = read_tensors(_tower_file(config, where))
        return {**{name: array for name, array in tower.items() if not name.startswith(_OWN_HEAD)}, **tensors}

    return Layout(rules, read)


def image_tower_layout(config: JSONObject, where: str) -> Layout:
    """Returns the tensors of the image tower alone, under the names of EfficientNet-Lite0."""
    whole = locked_image_layout(config, where)

    def read(tensors: Tensors) -> dict[str, np.ndarray]:
        everything = whole.read(tensors)
        return {name: a for name, a in everything.items() if not name.startswith(_BESIDE) and not is_text_tensor(name)}

    return Layout(EFFICIENTNET_LITE_RULES, read)


def _tower_file(config: JSONObject, where: str) -> Path:
    """Returns the image tower's file; the config keeps its SHA-256, so that it is part of what the folder's digest says.

    Raises:
      UserError: the name is not that of a built-in classifier, or the file is another one.
    """
    tower = config[IMAGE_TOWER]
    if not isinstance(tower, dict) or set(tower) != {"weights", "sha256"}:
        raise UserError(f"{where}: {IMAGE_TOWER} must hold weights and sha256; get the published config.json.")
    file = asset(str(tower["weights"]), BUILTIN_CLASSIFIERS, "image tower") / "model.safetensors"
    if file_digest(file) != tower["sha256"]:
        raise UserError(f"{file} is not the image tower that {where} was trained with; install bridgejax again.")
    return file
