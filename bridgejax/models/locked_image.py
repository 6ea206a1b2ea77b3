"""A small CLIP whose image tower is an EfficientNet-Lite0 that was left as it was (locked-image tuning).

Source: Zhai et al. 2022 (arXiv:2111.07991): a text tower learns to read what a pretrained image tower sees. Here a linear
projection with a bias lies between the two. A folder holds `config.json` (model_type "lit"), `model.safetensors` and a
tokenizer. The image tower's tensors come from the built-in classifier that the config names; what `save_classifier` writes
holds them itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import JSONObject, asset
from bridgejax.identity import file_digest
from bridgejax.known_names import BUILTIN_CLASSIFIERS
from bridgejax.models.classifier import Preprocessing
from bridgejax.models.clip import ZeroShot
from bridgejax.models.convolution import widened
from bridgejax.models.efficientnet_lite import EFFICIENTNET_LITE_RULES, HEAD_CHANNELS, EfficientNetLite
from bridgejax.models.initializers import Initializer, normal
from bridgejax.models.layers import linear
from bridgejax.models.layout import Layout, Tensors
from bridgejax.models.safetensors_files import read_tensors
from bridgejax.models.weights import layer_rules

LOCKED_IMAGE = "lit"  # the model_type
_TOWER = "image_tower"


class LockedImageCLIP(ZeroShot, EfficientNetLite):
    """EfficientNet-Lite0, a projection of its features to the embeddings' width, and a head of text embeddings."""

    architecture = LOCKED_IMAGE
    after_blocks = (*EfficientNetLite.after_blocks, "projection")

    def __init__(self, width: int, num_classes: int, preprocessing: Preprocessing, *, rngs: nnx.Rngs) -> None:
        super().__init__(num_classes, preprocessing, rngs=rngs)
        self.projection = linear(HEAD_CHANNELS, width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)
        self.class_names, self.templates, self.texts = (), (), None

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings of normalised images [n, h, w, 3], float32 [n, feature_width], not normalised."""
        return widened(self.projection(EfficientNetLite.features(self, images)))

    def initializers(self) -> Sequence[Initializer]:
        """Returns the initial values of EfficientNet-Lite0; the projection is normal, with variance 1 / 1280."""
        return (Initializer(r"projection\.kernel", normal(HEAD_CHANNELS**-0.5)), *super().initializers())


def locked_image_layout(config: JSONObject, where: str) -> Layout:
    """Returns the tensors of a folder: projection and head as a CLIPModel names them, the image tower as EfficientNet-Lite0's.

    Args:
      config: of the folder; without an `image_tower`, the tower's tensors lie in the folder's own file.
      where: the config's file, for messages.
    """

    def read(tensors: Tensors) -> dict[str, np.ndarray]:
        tower = _tower(config[_TOWER], where) if _TOWER in config else {}
        return {**{name: array for name, array in tower.items() if not name.startswith("_fc.")}, **tensors}

    ours = (*layer_rules("head", "classifier"), *layer_rules("projection", "visual_projection"))
    return Layout((*ours, *EFFICIENTNET_LITE_RULES), read)


def _tower(tower: object, where: str) -> Tensors:
    """Returns the tensors of the image tower that a config names, with the SHA-256 of their file.

    The digest makes the image tower part of the folder's own digest: another one could not take its place unseen.

    Raises:
      UserError: there is no such built-in classifier, or its file is another.
    """
    if not isinstance(tower, dict) or not {"weights", "sha256"} <= set(tower):
        raise UserError(f"{where}: {_TOWER} is {tower!r}; expected an object with weights and sha256, get the published file.")
    file = asset(str(tower["weights"]), BUILTIN_CLASSIFIERS, "image tower") / "model.safetensors"
    if not file.is_file() or file_digest(file) != tower["sha256"]:
        raise UserError(f"{file} is not the file that {where} was made for; install bridgejax again.")
    return read_tensors(file)
