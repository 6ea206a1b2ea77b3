"""The values that a config's keys may have, and one clear sentence for each that they may not.

Keys and kinds were checked before (`bridgejax.config.check_config`).
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from typing import Any

from bridgejax.errors import UserError, nearest
from bridgejax.generator_options import loading_options
from bridgejax.prompts.classes import check_class_names, class_phrases

SCHEDULERS = ("ddim", "pndm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras", "lcm")
DTYPES = ("float32", "bfloat16", "float16")
TRAINING_DTYPES = ("float32", "bfloat16")  # float16's narrow range would need scaled losses
INVERSION_MODES = ("dataset", "class", "untrained", "word", "none")

_AT_LEAST = {
    "seed": 0,
    "task.shots": 1,
    "task.validation_per_class": 0,
    "generator.steps": 1,
    "generator.batch_size": 1,
    "generator.height": 8,
    "generator.width": 8,
    "synthetic.per_class": 1,
    "synthetic.seed": 0,
    "synthetic.shard_size": 1,
    "classifier.image_size": 16,
    "training.batch_size": 1,
    "training.eval_batch_size": 1,
    "training.steps": 1,
    "training.base_steps": 1,
    "training.evaluations": 0,
    "study.seeds": 1,
    "tuning.seeds": 1,
    "inversion.vectors": 1,
    "inversion.steps": 0,
    "inversion.batch_size": 1,
    "inversion.seed": 0,
    "inversion.evaluations": 0,
    "inversion.checkpoint_every": 1,
}
_OPTIONAL = {
    *("task.shots", "generator.height", "generator.width", "synthetic.seed", "synthetic.shard_size", "training.steps"),
    "inversion.seed",
}


def check_values(config: Any, values: Mapping[str, Any]) -> None:
    """Checks names, ranges and what must fit together, of all but the `synthetic_sets`.

    Args:
      config: a config with the keys of `bridgejax.config.default_config`.
      values: the same by dotted key.

    Raises:
      UserError: a value cannot be; the sentence names its key.
    """
    if values["task.class_names"] not in ((), []):
        check_class_names(values["task.class_names"])
    for key, low in _AT_LEAST.items():
        _check_whole(key, values[key], low, optional=key in _OPTIONAL)
    for key in (
        *("training.learning_rate", "training.weight_decay", "training.momentum", "generator.guidance_scale"),
        *("inversion.learning_rate", "inversion.weight_decay", "training.checkpoint_seconds"),
    ):
        value = values[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise UserError(f"{key} is {value!r}; it should be a finite number of at least 0.")
    crop = values["classifier.crop"]
    if crop is not None and not (isinstance(crop, (int, float)) and 0 < crop <= 1):
        raise UserError(f"classifier.crop is {crop!r}; it should be above 0 and at most 1, or None for the model's own.")
    for key in ("generator.height", "generator.width"):
        if values[key] is not None and values[key] % 8:
            raise UserError(f"{key} is {values[key]}; it should be a multiple of 8 pixels.")
    if values["generator.scheduler"] is not None and values["generator.scheduler"] not in SCHEDULERS:
        raise UserError(
            f"generator.scheduler is {values['generator.scheduler']!r}; it should be one of {', '.join(SCHEDULERS)}"
            f"{nearest(str(values['generator.scheduler']), SCHEDULERS)}."
        )
    if values["generator.dtype"] not in DTYPES:
        raise UserError(f"generator.dtype is {values['generator.dtype']!r}; it should be one of {', '.join(DTYPES)}.")
    dtype = values["training.dtype"]
    if dtype not in TRAINING_DTYPES:
        choices = " or ".join(map(repr, TRAINING_DTYPES))
        raise UserError(f"training.dtype is {dtype!r}; it should be {choices}{nearest(dtype, TRAINING_DTYPES)}.")
    loading_options(config.generator)
    _check_prompts(config)
    _check_inversion(config.inversion)
    _check_arms(config)
    for grid, low in (("study.shots", 1), ("study.per_class", 1)):
        for value in values[grid]:
            _check_whole(grid, value, low, optional=grid == "study.shots")
    if values["report.synthetic_set"] not in (None, "train", "test"):
        raise UserError(f"report.synthetic_set is {values['report.synthetic_set']!r}; it should be 'train', 'test' or None.")
    _check_tuning(values)
    if values["study.parallel_seeds"] != "auto":
        value = values["study.parallel_seeds"]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"study.parallel_seeds is {value!r}; it should be a whole number of at least 1, or 'auto'.")
    _check_mesh(values["mesh"], values["mesh_rules"])


def mesh_axes(mesh: Any) -> tuple[tuple[str, int], ...]:
    """Returns the (axis, size) pairs of a mesh, checked as far as that goes without its devices.

    Raises:
      UserError: it is something else, an axis comes twice, or a size is neither above 0 nor the one -1.
    """
    try:
        pairs = tuple((axis, size) for axis, size in mesh)
        names, sizes = [axis for axis, _ in pairs], [size for _, size in pairs]
        right = all(isinstance(axis, str) for axis in names) and len(set(names)) == len(names) and sizes.count(-1) <= 1
        whole = all(isinstance(size, numbers.Integral) and not isinstance(size, bool) for size in sizes)
        right = right and whole and all(size > 0 or size == -1 for size in sizes)
    except (TypeError, ValueError):
        right = False
    if not right:
        raise UserError(
            f"mesh is {mesh!r}; it should be (axis, size) pairs such as (('data', -1),): different axes, sizes above 0, "
            "at most one of them -1."
        )
    return tuple((axis, int(size)) for axis, size in pairs)


def _check_mesh(mesh: Any, rules: Any) -> None:
    axes = {"data", "model"}
    if rules:  # only then is JAX worth its import here
        from bridgejax.mesh import axes_of, parameter_rules

        axes |= {axis for _, spec in parameter_rules(rules) for axis in axes_of(spec)}
    for axis, _ in mesh_axes(mesh):
        if axis not in axes:  # its devices would all do the same work
            raise UserError(
                f"mesh has an axis {axis!r} that nothing is split over{nearest(axis, axes)}; "
                "use 'data', 'model', or one that mesh_rules names."
            )


def _check_whole(key: str, value: Any, low: int, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{key} is {value!r}; it should be a whole number of at least {low}{' or None' if optional else ''}.")


def _check_tuning(values: Mapping[str, Any]) -> None:
    for key in ("tuning.learning_rates", "tuning.lengths"):
        grid = values[key]
        right = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) and v > 0 for v in grid)
        if not right or not grid or len(set(grid)) != len(grid):
            raise UserError(f"{key} is {grid!r}; it should be a list of different numbers above 0.")


def _check_prompts(config: Any) -> None:
    template = config.prompts.template
    templates = (template,) if isinstance(template, str) else template
    if not isinstance(templates, (list, tuple)) or not templates or not all(isinstance(t, str) for t in templates):
        raise UserError(f"prompts.template is {template!r}; it should be a text or a tuple of texts with {{}} in them.")
    for text in templates:
        if "{}" not in text:
            raise UserError(
                f"prompts.template {text!r} has no {{}} for the class name; write for instance 'a photo of a {{}}'."
            )
    for name in config.prompts.variants:
        class_phrases(name, config.prompts.variants)


def _check_inversion(inversion: Any) -> None:
    mode = inversion.mode
    if mode is not None and mode not in INVERSION_MODES:
        raise UserError(
            f"inversion.mode is {mode!r}; it should be one of {', '.join(INVERSION_MODES)}, or None"
            f"{nearest(str(mode), INVERSION_MODES)}."
        )
    for key in ("token", "word", "initial"):
        value = inversion[key]
        if not isinstance(value, str) or not value or any(letter.isspace() or letter in "/\\" for letter in value):
            raise UserError(f"inversion.{key} is {value!r}; it should be one word without spaces or slashes.")
    longest = inversion.longest
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, (int, float)) or not longest > 0):
        raise UserError(f"inversion.longest is {longest!r}; it should be a number above 0, or None for no bound.")
    by_class = mode == "class"
    for key, needed in (("prompt", ("{token}",) if by_class else ("{class}", "{token}")), ("plain_prompt", ("{class}",))):
        value = inversion[key]
        if value is None and key == "prompt":
            continue
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(one, str) for one in texts):
            raise UserError(
                f"inversion.{key} is {value!r}; it should be a text or a tuple of texts with {' and '.join(needed)}."
            )
        for one in texts:
            for place in needed:
                if place not in one:
                    raise UserError(
                        f"inversion.{key} {one!r} has no {place}; put {place} where the "
                        f"{'new word' if place == '{token}' else 'class name'} goes."
                    )
            odd = "{class}" if by_class and key == "prompt" else "{token}" if key == "plain_prompt" else "{}"
            if odd in one:
                raise UserError(f"inversion.{key} {one!r} holds {odd}, which has no meaning there; take it out.")


def _check_arms(config: Any) -> None:
    if not config.arms:
        raise UserError("arms is empty; name at least one recipe, for instance ('vanilla', 'bridged').")
    for what, name in (*(("arm", arm) for arm in config.arms), ("study.baseline", config.study.baseline)):
        if not isinstance(name, str) or name not in config.recipes:
            raise UserError(
                f"{what} {name!r} is no recipe of the config{nearest(str(name), config.recipes)} ({', '.join(config.recipes)})."
            )
    for arm in config.arms:
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", arm):
            raise UserError(f"recipe name {arm!r} should hold only letters, digits, '_', '-', '+' and '.'.")
    if len(set(config.arms)) != len(config.arms):
        raise UserError(f"arms names a recipe twice ({', '.join(config.arms)}); name each once.")
