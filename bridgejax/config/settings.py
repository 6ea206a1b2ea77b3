"""A whole config as one typed, checked value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bridgejax.config.checks import (
    check_arms,
    check_filters,
    check_inversion,
    check_mesh,
    check_prompts,
    check_set_names,
    check_synthetic,
    check_task,
)
from bridgejax.config.sections import (
    ClassifierSettings,
    ExecutorSettings,
    FilterSettings,
    GeneratorSettings,
    InversionSettings,
    PromptSettings,
    ReportSettings,
    StudySettings,
    SyntheticSettings,
    TaskSettings,
    TrainingSettings,
    TuningSettings,
)
from bridgejax.config.synthetic_sets import changed_value, set_changes
from bridgejax.errors import UserError, choices
from bridgejax.fields import Key, build, groups_of, keys_of, plain, setting
from bridgejax.mesh_axes import MESH_FORM, RULES_FORM, axis_rules, mesh_axes
from bridgejax.recipes import Recipe, all_recipes, recipe_from_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Settings:
    """A config."""

    seed: int = setting(0, "Every other seed derives from it unless set.", at_least=0)
    task: TaskSettings = dataclasses.field(default_factory=TaskSettings)
    prompts: PromptSettings = dataclasses.field(default_factory=PromptSettings)
    generator: GeneratorSettings = dataclasses.field(default_factory=GeneratorSettings)
    inversion: InversionSettings = dataclasses.field(default_factory=InversionSettings)
    synthetic: SyntheticSettings = dataclasses.field(default_factory=SyntheticSettings)
    synthetic_sets: Mapping[str, Mapping[str, object]] = setting(
        {},
        "Further sets that stages may train on: name → the keys of prompts, generator, inversion and synthetic that differ, "
        "for instance {'prompts': {'template': 'a drawing of a {}'}}.",
        form="groups of keys such as {'prompts': {'template': 'a drawing of a {}'}}",
    )
    filter: FilterSettings = dataclasses.field(default_factory=FilterSettings)
    classifier: ClassifierSettings = dataclasses.field(default_factory=ClassifierSettings)
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)
    recipes: Mapping[str, object] = setting(
        {name: tuple(stages) for name, stages in all_recipes().items()},
        "What an arm trains on, stage by stage (docs/recipes.md).",
        form="lists of stages by name",
        decides=False,
    )
    arms: tuple[str, ...] = setting(
        ("vanilla_long", "synthetic_only", "mixed", "bridged", "bridged_plus_plus"),
        "The recipes that a study compares.",
        decides=False,
    )
    study: StudySettings = dataclasses.field(default_factory=StudySettings)
    tuning: TuningSettings = dataclasses.field(default_factory=TuningSettings)
    report: ReportSettings = dataclasses.field(default_factory=ReportSettings)
    mesh: tuple[tuple[str, int], ...] = setting(
        (("data", -1),),
        "Ordered (axis, size) pairs: data splits batches, fsdp batches and the state of training, model parameters; one size "
        "may be -1.",
        decides=False,
        form=MESH_FORM,
        check=lambda _, mesh: mesh_axes(mesh),
    )
    mesh_rules: tuple[object, ...] = setting(
        (),
        "How parameters lie on the mesh; these go before the built-in rules.",
        decides=False,
        form=RULES_FORM,
        check=lambda _, rules: axis_rules(rules),
    )

    executor: str = setting(
        "local",
        "Where shards and runs are carried out: local, in this process; processes, several on this machine; ray; slurm.",
        options=("local", "processes", "ray", "slurm"),
        decides=False,
    )
    executor_options: ExecutorSettings = dataclasses.field(default_factory=ExecutorSettings)

    @classmethod
    def of(cls, config: ConfigDict | Mapping[str, object]) -> Settings:
        """Returns the settings of a config, all of them checked as far as that goes without data, weights and devices.

        Raises:
          UserError: a key is unknown, is missing or has a wrong value; a name stands for nothing; or two keys do not go
            together. The sentence names the key.
        """
        values = dict(_leaves(cls, config, ""))
        for name in values:
            if name not in KEYS:
                raise UserError(f"{name} is not a key of the config; {choices(name, KEYS)}")
        for name in KEYS:
            if name not in values:
                raise UserError(f"the config lacks the key {name}; start from bridgejax.config.default_config().")
        settings = build(cls, {name: key.checked(values[name]) for name, key in KEYS.items()})
        settings._check_together()
        # Last, so that what is wrong with the config itself is not reported as wrong in a set.
        for name in settings.synthetic_sets:
            settings.of_set(name)
        return settings

    def recipe(self, name: str) -> Recipe:
        """Returns a recipe at the lengths and rates of `training`; errors as of `recipe_from_config`."""
        return recipe_from_config(name, self.recipes, dataclasses.asdict(self.training))

    def of_set(self, name: str) -> Settings:
        """Returns the settings with the changes of one of their `synthetic_sets`, without further sets; "" is the own set.

        Raises:
          UserError: there is no such set, or what it changes is wrong; the key is named.
        """
        values = {**dict(_leaves(Settings, vars(self), "")), "synthetic_sets": {}}
        for key, value in (set_changes(self.synthetic_sets, name) if name else {}).items():
            values[key] = changed_value(values[key], KEYS[key].checked(value))
        changed = build(Settings, values)
        try:
            check_inversion(changed.inversion, changed.task)
            check_prompts(changed.prompts, changed.inversion)
            check_synthetic(changed.synthetic, changed.inversion)
        except UserError as error:
            raise UserError(f"in synthetic_sets.{name}: {error}") from error
        return changed

    def _check_together(self) -> None:
        check_task(self.task)
        check_inversion(self.inversion, self.task)
        check_prompts(self.prompts, self.inversion)
        check_synthetic(self.synthetic, self.inversion)
        check_mesh(self.mesh, self.mesh_rules)
        check_arms(self.arms, self.study.baseline, self.recipes)
        # A recipe of the library that no arm uses may measure itself against another that this config changed.
        for name, stages in self.recipes.items():
            if name in self.arms or plain(stages) != _LIBRARY.get(name):
                recipe = self.recipe(name)
                check_set_names(recipe, self.synthetic_sets)
                check_filters(recipe, self.filter)


KEYS: Mapping[str, Key] = keys_of(Settings)
_LIBRARY = {name: plain(stages) for name, stages in all_recipes().items()}


def _leaves(kind: type, config: ConfigDict | Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    """Yields (dotted key, value) of a config, of a plain mapping or of the fields of settings."""
    groups = groups_of(kind)
    for name in config:
        value = config[name]
        if name not in groups:
            yield f"{prefix}{name}", value
        elif isinstance(value, groups[name]):
            yield from _leaves(groups[name], vars(value), f"{prefix}{name}.")
        elif isinstance(value, Mapping) or hasattr(value, "to_dict"):
            yield from _leaves(groups[name], value, f"{prefix}{name}.")
        else:
            raise UserError(f"{prefix}{name} is {value!r}; it should be a group of keys, as in default_config().")
