"""What the keys of a config must be together; what each may be alone is stated with it (`bridgejax.config.sections`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridgejax.config.names import check_file_name
from bridgejax.config.sections import FilterSettings, InversionSettings, PromptSettings, SyntheticSettings, TaskSettings
from bridgejax.errors import UserError, choices
from bridgejax.mesh_axes import DATA_AXIS, FSDP_AXIS, MODEL_AXIS, axis_names, axis_rules
from bridgejax.recipes import Recipe, filter_rules

LEARNED_MODES = ("dataset", "class", "untrained")  # modes with a new token, which depends on the real images


def check_task(task: TaskSettings) -> None:
    """Checks that a source without images comes with class names."""
    if task.source == "classes" and not task.class_names:
        raise UserError(
            "task.source is 'classes', which has no images to take the names from; set task.class_names, for instance to "
            "('apple', 'cup')."
        )


def check_prompts(prompts: PromptSettings, inversion: InversionSettings) -> None:
    """Checks that nothing else fills prompts where sentences do."""
    if prompts.source == "template":
        return
    for key, is_set in (("prompts.variants", bool(prompts.variants)), ("inversion.mode", inversion.mode is not None)):
        if is_set:
            raise UserError(
                f"prompts.source is {prompts.source!r}, whose sentences fill the prompts, but {key} fills them too; unset one "
                "of the two."
            )


def check_synthetic(synthetic: SyntheticSettings, inversion: InversionSettings) -> None:
    """Checks that images of other classes than the task's are not made from the task's."""
    if not synthetic.class_names:
        return
    for key, value in (("synthetic.real_guidance", synthetic.real_guidance), ("inversion.mode", inversion.mode)):
        if value is not None:
            raise UserError(
                f"{key} is {value!r}, which goes by the task's images or classes, but synthetic.class_names names other "
                "classes; unset one of the two."
            )


def check_inversion(inversion: InversionSettings, task: TaskSettings) -> None:
    """Checks that the prompts hold what the mode replaces, and that there are images to learn from."""
    by_class = inversion.mode == "class"
    if inversion.prompt is not None:
        _check_texts("prompt", inversion.prompt, ("{token}",) if by_class else ("{class}", "{token}"))
        _check_without("prompt", inversion.prompt, "{class}" if by_class else "{}")
    _check_texts("plain_prompt", inversion.plain_prompt, ("{class}",))
    _check_without("plain_prompt", inversion.plain_prompt, "{token}")
    if inversion.mode in LEARNED_MODES and task.source == "classes":
        raise UserError(
            f"inversion.mode is {inversion.mode!r}, which learns from real images, but task.source is 'classes', which has "
            "none; give another source, or set inversion.mode to 'word', 'none' or None."
        )


def _check_texts(key: str, prompt: str | tuple[str, ...], places: tuple[str, ...]) -> None:
    texts = (prompt,) if isinstance(prompt, str) else prompt
    if not texts:
        raise UserError(
            f"inversion.{key} is empty; give a prompt, or a tuple of prompts, that contains {' and '.join(places)}."
        )
    for text in texts:
        for place in places:
            if place not in text:
                what = "new token" if place == "{token}" else "class name"
                raise UserError(f"inversion.{key} {text!r} has no {place}; put {place} where the {what} goes.")


def _check_without(key: str, prompt: str | tuple[str, ...], place: str) -> None:
    for text in (prompt,) if isinstance(prompt, str) else prompt:
        if place in text:
            raise UserError(f"inversion.{key} {text!r} holds {place}, which has no meaning there; take it out.")


def check_mesh(mesh: Sequence[tuple[str, int]], rules: Sequence[object]) -> None:
    """Checks that something is split over each axis; else its devices would all do the same work."""
    axes = (DATA_AXIS, FSDP_AXIS, MODEL_AXIS, *(axis for _, dimensions in axis_rules(rules) for axis in axis_names(dimensions)))
    for axis, _ in mesh:
        if axis not in axes:
            raise UserError(
                f"mesh has an axis {axis!r} that nothing is split over; {choices(axis, axes)} mesh_rules may name further axes."
            )


def check_arms(arms: Sequence[str], baseline: str, recipes: Mapping[str, object]) -> None:
    """Checks that the arms and the baseline are recipes, each once."""
    if not arms:
        raise UserError("arms is empty; name at least one recipe, for instance ('vanilla', 'bridged').")
    for what, name in (*(("arm", arm) for arm in arms), ("study.baseline", baseline)):
        if name not in recipes:
            raise UserError(f"{what} {name!r} is not a recipe in this config; {choices(name, recipes)}")
    for arm in arms:
        check_file_name("recipe name", arm)
    if len(set(arms)) != len(arms):
        raise UserError(f"arms names a recipe twice ({', '.join(arms)}); name each once.")


def check_set_names(recipe: Recipe, sets: Mapping[str, object]) -> None:
    """Checks that the synthetic sets that a recipe trains on are in the config."""
    for number, stage in enumerate(recipe.stages):
        if stage.synthetic_set and stage.synthetic_set not in sets:
            raise UserError(
                f"recipes.{recipe.name}[{number}].synthetic_set is {stage.synthetic_set!r}, which is not in synthetic_sets; "
                f"{choices(stage.synthetic_set, sets)}"
            )


def check_filters(recipe: Recipe, judge: FilterSettings) -> None:
    """Checks that there is a classifier to score the images of stages that keep some by their scores."""
    for number, stage in enumerate(recipe.stages):
        check_scorer(f"recipes.{recipe.name}[{number}].synthetic_filter", stage.synthetic_filter, judge)


def check_scorer(where: str, rules: str | Sequence[str], judge: FilterSettings) -> None:
    """Checks that there is a classifier if one of the rules goes by scores."""
    scored = [rule.text for rule in filter_rules(where, rules) if rule.needs_scores]
    if scored and judge.classifier is None:
        raise UserError(
            f"{where} has the rule {scored[0]!r}, which goes by a classifier's scores; set filter.classifier to a CLIP folder "
            "or to a classifier of the task's classes."
        )
