"""How sure a classifier is of the class that each generated image was made for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from bridgejax.data import Batch, Examples, eval_batches, synthetic_examples
from bridgejax.errors import UserError
from bridgejax.evaluation import image_logits
from bridgejax.mesh import data_size
from bridgejax.models import load_classifier
from bridgejax.models.classifier import Classifier
from bridgejax.models.label_names import order_of
from bridgejax.models.registry import classifier_digest
from bridgejax.synthesis.columns import Values, kept_column
from bridgejax.synthesis.reader import open_set

VERSION = 1
SCORE = "score"


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A classifier of a set's classes, and what decides its scores, as plain JSON."""

    model: Classifier
    made_by: dict[str, object]


def score_set(
    directory: str | Path,
    classifier: nnx.Module | str | Path,
    *,
    templates: Sequence[str] | str | None = None,
    batch_size: int = 64,
    image_size: int | None = None,
    mesh: Mesh | None = None,
) -> Values:
    """Returns the probability that a classifier gives each image's own class: the CLIP filter of He et al. 2023 (C.5.1).

    That is the softmax over the set's classes; of a CLIP model, of exp(logit_scale) · cosine. Images are resized to the
    classifier's side (bilinear, as in evaluation) and cut to its `preprocessing.crop`. One program is compiled for all batches,
    and shards are read as they lie.

    Args:
      directory: the folder of a finished synthetic set.
      classifier: a folder or name as `load_classifier` takes it, whose scores are kept beside the images and read from there
        the next time; or a loaded classifier, whose scores are computed anew. A CLIP folder is used zero-shot. One that knows
        its class names may have them in another order; of another, outputs are taken to be in the set's order.
      templates: of a CLIP folder: sentences with `{}`; None is "a photo of a {}.".
      batch_size: images at once, rounded up to a multiple of the mesh's "data" axis. It changes scores by rounding alone.
      image_size: side of the images in pixels; None is the classifier's own.
      mesh: devices of this process; None is the default one.

    Returns:
      float32 [n] in [0, 1], in set order: by (index, class), as `open_set` yields images.

    Raises:
      UserError: there is no finished set, the classifier cannot be read, or its classes are not those of the set.
    """
    names = open_set(directory, verify=False).class_names
    scored = functools.partial(scores_of, class_names=names, batch_size=batch_size, image_size=image_size, mesh=mesh)
    if not isinstance(classifier, nnx.Module):
        sentences = (templates,) if isinstance(templates, str) else None if templates is None else tuple(templates)
        scorer = load_scorer(str(classifier), names, sentences)
        return kept_column(
            directory, SCORE, {**scorer.made_by, "image_size": image_size}, functools.partial(scored, scorer.model)
        )
    if templates is not None:
        raise UserError("templates go with a CLIP folder; a loaded classifier has its head already, so leave them out.")
    return scored(classifier, synthetic_examples(directory))


@functools.lru_cache(maxsize=2)
def load_scorer(weights: str, class_names: tuple[str, ...], templates: tuple[str, ...] | None) -> Scorer:
    """Returns the classifier of a folder or name as a scorer of these classes.

    Raises:
      UserError: it cannot be read, or has other classes.
    """
    zero_shot = templates is not None
    model = load_classifier(weights, class_names=class_names if zero_shot else None, templates=templates)
    if not model.num_classes:  # a CLIP model without a head
        model, zero_shot = load_classifier(weights, class_names=class_names), True
    class_columns(model, class_names, weights)
    head: dict[str, object] = {"class_names": list(class_names), "templates": templates} if zero_shot else {}
    return Scorer(model, {"version": VERSION, "classifier": classifier_digest(weights), **head})


def scores_of(
    model: nnx.Module,
    examples: Examples,
    *,
    class_names: Sequence[str],
    batch_size: int = 64,
    image_size: int | None = None,
    mesh: Mesh | None = None,
) -> Values:
    """Returns the probability of each image's label, float32 [n]; arguments as of `score_set`.

    Raises:
      UserError: there are no images, or the classifier has other classes.
    """
    columns = class_columns(model, class_names)
    logits = image_logits(model, shown(model, batch_size=batch_size, image_size=image_size, mesh=mesh)(examples), mesh)
    exact = logits[:, columns].astype(np.float64)
    powers = np.exp(exact - exact.max(axis=1, keepdims=True))
    own = powers[np.arange(len(exact)), examples.labels]
    return (own / powers.sum(axis=1)).astype(np.float32)


def shown(
    model: nnx.Module, *, batch_size: int, image_size: int | None = None, crop: float | None = None, mesh: Mesh | None = None
) -> Callable[[Examples], Iterator[Batch]]:
    """Returns what gives images to a model in evaluation batches that split over a mesh."""
    parts, made = data_size(mesh), getattr(model, "preprocessing", None)
    if made is None:
        raise UserError(f"{type(model).__name__} has no `preprocessing`; load a classifier with load_classifier.")
    size = -(-batch_size // parts) * parts
    return functools.partial(eval_batches, batch_size=size, image_size=image_size or made.size, crop=crop or made.crop)


def class_columns(model: nnx.Module, class_names: Sequence[str], weights: str | None = None) -> list[int]:
    """Returns which output of a classifier is which class.

    Args:
      model: a classifier; its `class_names`, if it has some, say what its outputs are.
      class_names: the set's, by label.
      weights: what the classifier goes by in messages.

    Raises:
      UserError: it has other classes, or another number of them.
    """
    which = "the classifier" if weights is None else f"the classifier {weights!r}"
    known = tuple(getattr(model, "class_names", ()))
    advice = "name a classifier of the set's classes, or a CLIP folder, which takes any."
    outputs = len(known) or getattr(model, "num_classes", None)
    if outputs == 0:
        raise UserError(f"{which} is a CLIP model without classes; load it with class_names, those of the synthetic set.")
    if outputs != len(class_names):
        raise UserError(f"{which} has {outputs} classes, but the synthetic set has {len(class_names)}; {advice}")
    order = order_of(known, class_names) if known else list(range(len(class_names)))
    if order is None:
        unknown = [name for name in class_names if not any(order_of((each,), (name,)) for each in known)]
        raise UserError(f"{which} knows no class {(unknown or class_names)[0]!r} of the synthetic set; {advice}")
    return order
