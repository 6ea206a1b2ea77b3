"""CLIP-like models as zero-shot classifiers: what all have in common, and CLIP itself (Radford et al. 2021, arXiv:2103.00020).

The head is built from text: a class's column is exp(logit_scale) times the normalised mean of the normalised embeddings of its
prompts (section 3.1.4), the features are normalised image embeddings, so that logits are exp(logit_scale) · cosine + logit_bias
(no bias in CLIP). The text tower stands beside the module, not in it: it makes the head once, and is neither trained nor
kept in checkpoints.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.models.classifier import Classifier, Preprocessing
from bridgejax.models.clip_text import CLIPTextModel, TextNetwork
from bridgejax.models.convolution import widened
from bridgejax.models.layers import linear
from bridgejax.models.layout import ClassifierSpec, Layout, Tensors
from bridgejax.models.tokenizer import Tokenizer
from bridgejax.models.vit import VisionTransformer, ViTConfig
from bridgejax.models.vit_layouts import clip_part
from bridgejax.models.weights import Rule, assign, export, torch_rules

TEMPLATES = ("a photo of a {}.",)
TEXT_BATCH = 64
LOGIT_SCALE, LOGIT_BIAS = "logit_scale", "logit_bias"
_TEXT_PREFIXES = ("text_model.", "text_projection.")
TEXT_RULES = torch_rules(
    Rule(r"text_projection\.kernel", "text_projection.weight", "linear"),
    Rule(r"(.+)\.kernel", r"text_model.\1.weight", "linear"),
    Rule(r"(.+)\.(?:scale|embedding)", r"text_model.\1.weight"),
    Rule(r"(.+\.bias)", r"text_model.\1"),
)
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "*.model")


class TextTower:
    """The text side of a CLIP folder: texts → embeddings. Two of the same folder are equal.

    Attributes:
      folder: the folder it was read from.
      config: `text_config` of the folder, whole.
      width: of the embeddings.
      logit_scale: the logarithm of the factor of the cosine.
      logit_bias: what is added to it; 0 where the folder has none.
    """

    rules: ClassVar[tuple[Rule, ...]] = TEXT_RULES
    has_bias: ClassVar[bool] = False

    def __init__(
        self,
        folder: Path,
        config: JSONObject,
        tensors: Mapping[str, np.ndarray],
        where: str,
        *,
        spell: Callable[[str], str] = str,
    ):
        """Reads the tensors of the text side, `logit_scale` included.

        Args:
          folder: holds the tokenizer.
          config: as in the `config.json` of transformers.
          tensors: under the names of transformers; those of the image side are passed over.
          where: their file, for messages.
          spell: how a name is written in the file.

        Raises:
          UserError: a value of `text_config` is wrong, a tensor is missing, left over or damaged, or there is no tokenizer.
        """
        self.folder = folder.resolve()
        self.config = self._text_config(config, str(folder / "config.json"))
        parts = {name: array for name, array in tensors.items() if name.startswith(_TEXT_PREFIXES)}
        abstract = nnx.eval_shape(lambda: self._network(f"{folder / 'config.json'}: text_config"))
        self._model = assign(abstract, parts, self.rules, where, spell=spell)
        self.width = abstract.projected
        self.logit_scale = _scalar(tensors, LOGIT_SCALE, where)
        self.logit_bias = _scalar(tensors, LOGIT_BIAS, where) if self.has_bias or LOGIT_BIAS in tensors else 0.0
        self._tokenizer = self._make_tokenizer(folder)
        self._encode = nnx.jit(lambda model, ids: model(ids).pooled)

    def _text_config(self, config: JSONObject, where: str) -> JSONObject:
        text = clip_part(config, "text_config", where)
        return {**text, "projection_dim": config.get("projection_dim", 512)}

    def _network(self, where: str) -> TextNetwork:
        return CLIPTextModel(self.config, projection=True, rngs=nnx.Rngs(0), where=where)

    def _make_tokenizer(self, folder: Path) -> Callable[[Sequence[str]], np.ndarray]:
        return Tokenizer(folder, self._model.max_tokens)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts, float32 [n, width], not normalised."""
        ids = self._tokenizer(texts)
        if not len(ids):
            return np.zeros((0, self.width), np.float32)
        size = min(TEXT_BATCH, len(ids))
        padded = np.concatenate([ids, np.repeat(ids[-1:], -len(ids) % size, axis=0)])
        parts = [np.asarray(self._encode(self._model, padded[i : i + size])) for i in range(0, len(padded), size)]
        return np.concatenate(parts)[: len(ids)]

    @property
    def network(self) -> TextNetwork:
        """The network: token ids → embeddings."""
        return self._model

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the token ids of texts, int32 [n, tokens]."""
        return self._tokenizer(texts)

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns the tensors of the text side under the names of transformers."""
        scalars = {LOGIT_SCALE: self.logit_scale} | ({LOGIT_BIAS: self.logit_bias} if self.has_bias or self.logit_bias else {})
        shape = (1,) if self.has_bias else ()
        return {**export(self._model, self.rules), **{key: np.full(shape, value, np.float32) for key, value in scalars.items()}}

    def save_tokenizer(self, target: Path) -> None:
        """Copies the tokenizer's files into an existing folder."""
        if target.resolve() != self.folder:
            for file in sorted({file for pattern in _TOKENIZER_FILES for file in self.folder.glob(pattern)}):
                shutil.copyfile(file, target / file.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextTower) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)


def _scalar(tensors: Mapping[str, np.ndarray], name: str, where: str) -> float:
    value = np.asarray(tensors.get(name, np.zeros(0)))
    if value.size != 1 or not np.isfinite(value.astype(np.float32)).all():
        raise UserError(f"{where}: the tensor {name} must hold one finite number; fetch the file again.")
    return float(value.reshape(()).astype(np.float32))


class ZeroShot(Classifier):
    """An image tower with a head of text embeddings. Subclasses set the attributes and say what an image's embedding is.

    Attributes:
      class_names, templates: what the head was made of, if it was made of text; without classes there are no logits.
      texts: the text tower.
    """

    templates: tuple[str, ...]
    texts: TextTower | None

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings of normalised images [n, h, w, 3], float32 [n, feature_width], not normalised."""
        raise NotImplementedError

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts, float32 [n, feature_width], not normalised; longer texts are cut, with a warning.

        Raises:
          UserError: the model was built without its text tower, or `texts` is not a list of strings.
        """
        if isinstance(texts, str):
            raise UserError(f"texts is the string {texts!r}; give a list of strings.")
        return self.text_tower(as_strings(texts, "texts"))

    @property
    def text_tower(self) -> TextTower:
        """The text tower.

        Raises:
          UserError: the model was built without it.
        """
        if self.texts is None:
            raise UserError("this model has no text tower; load it from its folder with load_classifier.")
        return self.texts

    @property
    def logit_scale(self) -> float:
        """The logarithm of the factor of the cosine."""
        return self.text_tower.logit_scale

    @property
    def logit_bias(self) -> float:
        """What is added to the scaled cosine: 0 but for SigLIP."""
        return self.text_tower.logit_bias

    def features(self, images: jax.Array) -> jax.Array:
        """Returns the image embeddings at length 1, float32 [n, feature_width]."""
        embeddings = self.encode_image(images)
        return embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits, float32 [n, num_classes], of images as `features` takes them.

        Raises:
          UserError: the model has no classes, or the images are not float [n, h, w, 3].
        """
        if not self.num_classes:
            raise UserError(
                "this model has no classes of its own, so it gives embeddings alone; load it with class_names (zero-shot) or "
                "num_classes (a new head)."
            )
        return super().__call__(images)


class CLIP(ZeroShot, VisionTransformer):
    """An image tower, its projection (none in SigLIP) and a head of text embeddings."""

    architecture = "clip"
    after_blocks = ("norm", "pool", "projection")

    def __init__(self, config: ViTConfig, num_classes: int, preprocessing: Preprocessing, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, num_classes, preprocessing, rngs=rngs)
        width = config.projection
        self.projection = linear(config.hidden_size, width, use_bias=False, rngs=rngs) if width else None
        self.templates: tuple[str, ...] = ()
        self.texts: TextTower | None = None

    @property
    def feature_width(self) -> int:
        """How wide the features are: the width of the projection, where there is one."""
        return self.config.projection or super().feature_width

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings of normalised images [n, h, w, 3], float32 [n, feature_width], not normalised."""
        seen = VisionTransformer.features(self, images)
        return widened(seen if self.projection is None else self.projection(seen))


@dataclass(frozen=True, kw_only=True)
class ZeroShotSpec(ClassifierSpec):
    """A folder with an image and a text tower; `num_classes` is that of a head that lies beside them, or None."""

    # Makes the text tower, given the tensors as `layout.read` gives them and their file, for messages.
    texts: Callable[[Tensors, str], TextTower]
    tower: ClassifierSpec  # the image tower alone, whose head is new
    templates: tuple[str, ...] = ()  # of the head that lies beside, as are the class names


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


def set_classes(model: ZeroShot, class_names: Sequence[str], templates: Sequence[str] | str | None = None) -> ZeroShot:
    """Gives `model` the zero-shot head of class names, in place.

    Args:
      model: with its text tower.
      class_names: one per class, as a person would say them.
      templates: sentences with `{}`; None means `TEMPLATES`.

    Returns:
      The same model; `head.kernel` [feature_width, classes] is exp(logit_scale) times unit columns, `head.bias` logit_bias.

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
    prompts = [text.replace("{}", name) for name in names for text in sentences]
    each = _unit(model.encode_text(prompts)).reshape(len(names), len(sentences), -1)
    columns = _unit(each.mean(1)) * np.exp(np.float32(model.logit_scale))
    model.head = nnx.eval_shape(lambda: nnx.Linear(model.feature_width, len(names), rngs=nnx.Rngs(0)))
    model.head.kernel = nnx.Param(jnp.asarray(columns.T))
    model.head.bias = nnx.Param(jnp.full((len(names),), model.logit_bias, jnp.float32))
    model.num_classes, model.class_names, model.templates = len(names), names, sentences
    return model


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def image_side(layout: Layout, *, keep_head: bool, keep_projection: bool = True) -> Layout:
    """Returns a layout that reads the image side of a whole file, with or without projection and stored head."""

    def read(tensors: Tensors) -> dict[str, np.ndarray]:
        left_out = (*_TEXT_PREFIXES, *(() if keep_head else ("classifier.",)))
        left_out += () if keep_projection else ("visual_projection.",)
        return {
            name: array
            for name, array in layout.read(tensors).items()
            if not name.startswith(left_out) and name not in (LOGIT_SCALE, LOGIT_BIAS)
        }

    return layout._replace(read=read)
