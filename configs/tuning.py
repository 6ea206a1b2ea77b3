"""The settings that the other configs take over, chosen on a task of its own: what trains, rates, lengths, crop, prompts.

    python tools/build_emoji_task.py --output emoji_task
    bridgejax run --config configs/tuning.py --workdir tuning             # rates and lengths of the quick start's arms
    bridgejax run --config configs/tuning.py:layers --workdir layers      # what trains, for the step-matched control alone
    bridgejax run --config configs/tuning.py:inputs --workdir inputs      # batch statistics and rate, for one crop
    bridgejax run --config configs/tuning.py:prompts --workdir prompts    # a template or sentences
    python -m benchmarks tuning                                           # all of it, and docs/results/tuning.md

Ten of the classes of `builtin:tux_photos`, drawn as 3D emoji: no photograph takes part, so its test part is validation for
everything that is then measured on the photographs. Every arm has the same number of candidates, shots and seeds.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

RATES = (0.003, 0.01, 0.03)
INPUT_RATES = (0.003, 0.01, 0.02)
BASE_STEPS = (20, 60)  # of a stage of length 1
LAYERS = {  # what trains → the regular expressions of its parameters, and rates
    "head": (("head",), (0.01, 0.03, 0.1)),
    "last_blocks": ((r"^(?!conv_stem|bn0\.|blocks\.(\d|1[01])\.)",), (0.003, 0.01, 0.03)),
    "all": (("all",), (0.001, 0.003, 0.01)),
}
Candidate = tuple[str, dict[str, Any]]  # a recipe, and what its stages change


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is "layers", "inputs", "prompts" or None for rates and lengths."""
    quickstart = _quickstart()
    config = quickstart.get_config()
    config.task.source = "folder:emoji_task"
    config.training.evaluations = 0
    config.study.seeds = 2
    kinds = {None: _lengths, "layers": _layers, "inputs": _inputs, "prompts": _prompts}
    if arg not in kinds:
        raise ValueError(f"configs/tuning.py has no part {arg!r}; give layers, inputs, prompts, or none for rates and lengths")
    if arg == "prompts":
        config.synthetic_sets.template = {"prompts": {"source": "template"}}
    if arg == "inputs":
        config.study.shots = (4,)
    plain = config.recipes.to_dict()
    arms = []
    for words, (recipe, settings) in kinds[arg](quickstart):
        name = f"{recipe}-{words}"
        stages = copy.deepcopy(plain[recipe])
        # Steps are given for each stage, so that no candidate's depend on another's.
        share = 2 // len(stages)
        base = settings.pop("base_steps", config.training.base_steps)
        config.recipes[name] = tuple({**_without_length(stage), "steps": share * base, **settings} for stage in stages)
        arms.append(name)
    config.arms = tuple(arms)
    config.study.baseline = arms[0]
    return config


def _without_length(stage: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stage.items() if key not in ("length", "steps_of")}


def _rate(rate: float) -> str:
    return f"{rate:.0e}".replace("e-0", "e-")  # no dots in names: "3e-3"


def _lengths(quickstart: ModuleType) -> Iterator[tuple[str, Candidate]]:
    for arm in quickstart.ARMS:
        for rate in RATES:
            for base in BASE_STEPS:
                yield f"{_rate(rate)}-{2 * base}", (arm, {"learning_rate": rate, "base_steps": base})


def _layers(_: ModuleType) -> Iterator[tuple[str, Candidate]]:
    for name, (trainable, rates) in LAYERS.items():
        for rate in rates:
            yield f"{name}-{_rate(rate)}", ("vanilla_long", {"trainable": trainable, "learning_rate": rate})


def _inputs(_: ModuleType) -> Iterator[tuple[str, Candidate]]:
    for rate in INPUT_RATES:
        for statistics in ("frozen", "train"):
            settings = {"learning_rate": rate, "batch_norm": statistics, "trainable": ("all",)}
            yield f"{_rate(rate)}-{statistics}", ("vanilla_long", settings)


def _prompts(_: ModuleType) -> Iterator[tuple[str, Candidate]]:
    for arm in ("synthetic_only", "mixed_50", "bridged"):
        for words, name in (("sentences", ""), ("template", "template")):
            yield words, (arm, {"synthetic_set": name})


def _quickstart() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart", Path(__file__).with_name("quickstart.py"))
    if spec is None or spec.loader is None:
        raise ImportError("configs/quickstart.py is missing beside configs/tuning.py")
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    return quickstart
