"""The names of a head's classes: as published configs state them, as they are written back, and as a task states them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import jax
from flax import nnx

from bridgejax.config import nfc
from bridgejax.errors import UserError
from bridgejax.files import JSONObject
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.models.classifier import Classifier
from bridgejax.models.reset import linear_heads, reset_head


def id2label_names(config: JSONObject, where: str) -> tuple[str, ...]:
    """Returns the names in a transformers config's `id2label`, in the order of the outputs; () where it names none.

    LABEL_0, LABEL_1, … are what transformers writes for classes without names.

    Raises:
      UserError: the keys are not 0 to n - 1, or a name is no text.
    """
    return _in_order(config.get("id2label") or {}, f"{where}: id2label")


def timm_names(config: JSONObject, pretrained: JSONObject, where: str) -> tuple[str, ...]:
    """Returns the names in a timm config by output, () where it names none; errors as of `id2label_names`.

    `label_names` is a list or a table by index, beside `pretrained_cfg` or in it; it was once called `labels`.
    """
    places = ((part, key) for part in (config, pretrained) for key in ("label_names", "labels"))
    return next((_in_order(part[key], f"{where}: {key}") for part, key in places if part.get(key)), ())


def _in_order(names: object, where: str) -> tuple[str, ...]:
    if isinstance(names, Mapping):
        by_number = {int(key): name for key, name in names.items() if str(key).isdecimal()}
        if sorted(by_number) != list(range(len(names))):
            raise UserError(f"{where} should have the keys 0 to {len(names) - 1}, one for each output; correct the file.")
        names = [by_number[number] for number in range(len(names))]
    if not isinstance(names, Sequence) or isinstance(names, str) or any(not isinstance(name, str) for name in names):
        raise UserError(f"{where} should hold the names of the classes as texts; correct the file.")
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else tuple(names)


def id2label_of(model: Classifier) -> JSONObject:
    """Returns `id2label` and `label2id` as a transformers config has them."""
    names = model.class_names or tuple(f"LABEL_{number}" for number in range(model.num_classes))
    return {"id2label": {str(k): name for k, name in enumerate(names)}, "label2id": {name: k for k, name in enumerate(names)}}


def label_names_of(model: Classifier) -> JSONObject:
    """Returns `label_names` as a timm config has it; nothing where the model's classes have no names."""
    return {"label_names": list(model.class_names)} if model.class_names else {}


def order_of(known: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Returns where each wanted name is among the known ones; None if these are not the same classes.

    Names are compared in NFC, without regard to case and with "_" read as " ".
    """
    places = {_plain(name): number for number, name in enumerate(known)}
    order = [places.get(_plain(name), -1) for name in wanted]
    return order if sorted(order) == list(range(len(known))) else None


def _plain(name: str) -> str:
    return nfc(name).replace("_", " ").casefold()


@under_jax_defaults
def name_head(model: Classifier, class_names: Sequence[str], key: jax.Array | int) -> Classifier:
    """Gives a model's head the names of a task's classes, in place.

    Args:
      model: with as many outputs as there are names.
      class_names: the task's, in order.
      key: of a new head, as `reset_head` takes it.

    Returns:
      The same model. A head of the same classes in another order is put in this order; one whose names are those of other
      classes is made new; one without names stays as it is.
    """
    if model.class_names:
        order = order_of(model.class_names, class_names)
        if order is None:
            reset_head(model, key)
        elif order != list(range(len(order))):
            for head in linear_heads(model):
                head.kernel = nnx.Param(head.kernel[...][:, jax.numpy.asarray(order)])
                if head.bias is not None:
                    head.bias = nnx.Param(head.bias[...][jax.numpy.asarray(order)])
    model.class_names = tuple(class_names)
    return model
