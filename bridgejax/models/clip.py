"""CLIP as a zero-shot classifier (Radford et al. 2021, arXiv:2103.00020), from a transformers `CLIPModel` folder.

The head is built from text: a class's column is exp(logit_scale) times the normalised mean of the normalised embeddings of its
prompts (section 3.1.4), the features are normalised image embeddings, so that logits are exp(logit_scale) · cosine. The text
tower stands beside the module, not in it: it makes the head once, and is neither trained nor kept in checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.classifier import Preprocessing
from bridgejax.models.clip_text import CLIPTextModel
from bridgejax.models.layers import linear
from bridgejax.models.layout import Layout
from bridgejax.models.tokenizer import Tokenizer, TokenizerSource
from bridgejax.models.vit import VisionTransformer, ViTConfig
from bridgejax.models.vit_layouts import clip_part
from bridgejax.models.weights import Rule, assign, export, torch_rules

TEMPLATES = ("a photo of a {}.",)
TEXT_BATCH = 64
LOGIT_SCALE = "logit_scale"
_TEXT_PREFIXES = ("text_model.", "text_projection.")
TEXT_RULES = torch_rules(
    Rule(r"text_projection\.kernel", "text_projection.weight", "linear"),
    Rule(r"(.+)\.kernel", r"text_model.\1.weight", "linear"),
    Rule(r"(.+)\.(?:scale|embedding)", r"text_model.\1.weight"),
    Rule(r"(.+\.bias)", r"text_model.\1"),
)


class TextTower:
    """The text side of a CLIP folder: texts → embeddings. Two of the same folder are equal.

    Attributes:
      folder: the folder it was read from.
      config: `text_config` of the folder, whole.
      logit_scale: the logarithm of the factor of the cosine.
    """

    def __init__(self, folder: Path, config: JSONObject, tensors: Mapping[str, np.ndarray], where: str):
        """Reads the tensors of the text side, `logit_scale` included.

        Raises:
          UserError: a value of `text_config` is wrong, a tensor is missing, left over or damaged, or there is no tokenizer.
        """
        self.folder = folder.resolve()
        place = f"{folder / 'config.json'}: text_config"
        text = clip_part(config, "text_config", str(folder / "config.json"))
        self.config = {**text, "projection_dim": config.get("projection_dim", 512)}
        parts = {name: array for name, array in tensors.items() if name.startswith(_TEXT_PREFIXES)}
        abstract = nnx.eval_shape(lambda: CLIPTextModel(self.config, projection=True, rngs=nnx.Rngs(0), where=place))
        self._model = assign(abstract, parts, TEXT_RULES, where)
        scale = np.asarray(tensors.get(LOGIT_SCALE, np.zeros(0)))
        if scale.size != 1 or not np.isfinite(scale.astype(np.float32)).all():
            raise UserError(f"{where}: the tensor {LOGIT_SCALE} must hold one finite number; fetch the file again.")
        self.logit_scale = float(scale.reshape(()).astype(np.float32))
        self._tokenizer = Tokenizer(folder, self._model.max_tokens)
        self._encode = nnx.jit(lambda model, ids: model(ids).pooled)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts, float32 [n, projection_dim], not normalised."""
        ids = self._tokenizer(texts)
        if not len(ids):
            return np.zeros((0, self.config["projection_dim"]), np.float32)
        size = min(TEXT_BATCH, len(ids))
        padded = np.concatenate([ids, np.repeat(ids[-1:], -len(ids) % size, axis=0)])
        parts = [np.asarray(self._encode(self._model, padded[i : i + size])) for i in range(0, len(padded), size)]
        return np.concatenate(parts)[: len(ids)]

    @property
    def network(self) -> CLIPTextModel:
        """The network: token ids → embeddings."""
        return self._model

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the token ids of texts, int32 [n, tokens]."""
        return self._tokenizer(texts)

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns the tensors of the text side under their published names."""
        return {**export(self._model, TEXT_RULES), LOGIT_SCALE: np.asarray(self.logit_scale, np.float32)}

    def save_tokenizer(self, target: Path) -> None:
        """Copies the tokenizer's files into an existing folder."""
        if target.resolve() != self.folder:
            TokenizerSource(self.folder).save(target)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextTower) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)


class CLIP(VisionTransformer):
    """An image tower, its projection and a head of text embeddings.

    Attributes:
      class_names, templates: what the head was made of, if it was made of text.
      texts: the text tower.
    """

    architecture = "clip"
    after_blocks = ("norm", "projection")

    def __init__(self, config: ViTConfig, num_classes: int, preprocessing: Preprocessing, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, num_classes, preprocessing, rngs=rngs)
        self.projection = linear(config.hidden_size, config.projection, use_bias=False, rngs=rngs)
        self.class_names: tuple[str, ...] = ()
        self.templates: tuple[str, ...] = ()
        self.texts: TextTower | None = None

    @property
    def feature_width(self) -> int:
        """How wide the features are: the width of the projection."""
        return self.config.projection

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings of normalised images [n, h, w, 3], float32 [n, projection], not normalised."""
        embeddings = self.projection(self.tokens(images)[:, 0])
        return embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts, float32 [n, projection], not normalised; longer texts are cut, with a warning.

        Raises:
          UserError: the model was built without its text tower, or `texts` is not a list of strings.
        """
        if self.texts is None:
            raise UserError("this CLIP model has no text tower; load it from its folder with load_classifier.")
        if isinstance(texts, str):
            raise UserError(f"texts is the string {texts!r}; give a list of strings.")
        return self.texts(as_strings(texts, "texts"))

    def features(self, images: jax.Array) -> jax.Array:
        """Returns the image embeddings at length 1, float32 [n, projection]."""
        embeddings = self.encode_image(images)
        return embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)


def as_strings(values: Iterable[str], name: str) -> tuple[str, ...]:
    """Returns the strings in `values`; a string alone counts as one.

    Raises:
      UserError: it is not a list; `name` is named.
    """
    if isinstance(values, str):
        return (values,)
    try:
        return tuple(values)
    except TypeError as error:
        raise UserError(f"{name} is {values!r}; give a list of strings.") from error


def set_classes(model: CLIP, class_names: Sequence[str], templates: Sequence[str] | str | None = None) -> CLIP:
    """Gives `model` the zero-shot head of class names, in place.

    Args:
      model: with its text tower.
      class_names: one per class, as a person would say them.
      templates: sentences with `{}`; None means `TEMPLATES`.

    Returns:
      The same model; `head.kernel` [projection, classes] is exp(logit_scale) times unit columns, `head.bias` zero.

    Raises:
      UserError: no or doubled class names, or a template without `{}`.
    """
    names = as_strings(class_names, "class_names")
    sentences = TEMPLATES if templates is None else as_strings(templates, "templates")
    if not names or any(not isinstance(name, str) or not name.strip() for name in names):
        raise UserError(f"class_names is {list(names)!r}; give a list of names, one per class.")
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise UserError(f"class_names holds {double!r} twice; every class needs a name of its own.")
    if not sentences or any(not isinstance(text, str) or text.count("{}") != 1 for text in sentences):
        raise UserError(f"templates is {list(sentences)!r}; each should hold {{}} once, where the class name goes.")
    if model.texts is None:
        raise UserError("this CLIP model has no text tower; load it from its folder with load_classifier.")
    prompts = [text.replace("{}", name) for name in names for text in sentences]
    each = _unit(model.encode_text(prompts)).reshape(len(names), len(sentences), -1)
    columns = _unit(each.mean(1)) * np.exp(np.float32(model.texts.logit_scale))
    width = model.config.projection
    model.head = nnx.eval_shape(lambda: nnx.Linear(width, len(names), rngs=nnx.Rngs(0)))
    model.head.kernel = nnx.Param(jnp.asarray(columns.T))
    model.head.bias = nnx.Param(jnp.zeros((len(names),), jnp.float32))
    model.num_classes, model.class_names, model.templates = len(names), names, sentences
    return model


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def is_text_tensor(name: str) -> bool:
    """Returns whether a tensor of a CLIPModel file belongs to the text side or is `logit_scale`."""
    return name.startswith(_TEXT_PREFIXES) or name == LOGIT_SCALE


def image_side(layout: Layout, *, keep_head: bool, keep_projection: bool) -> Layout:
    """Returns a CLIP layout that reads the image side of a whole file, with or without projection and stored head."""

    def read(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        image = {name: array for name, array in layout.read(tensors).items() if not is_text_tensor(name)}
        if not keep_projection:
            image.pop("visual_projection.weight", None)
        if not keep_head:
            image = {name: array for name, array in image.items() if not name.startswith("classifier.")}
        return image

    return layout._replace(read=read)
