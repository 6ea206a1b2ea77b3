"""The settings that the other configs take over, chosen on a task of its own: what trains, rates, lengths, crop, images.

    python tools/build_emoji_task.py --output emoji_task
    bridgejax run --config configs/tuning.py --workdir tuning             # rates and lengths of the quick start's arms
    bridgejax run --config configs/tuning.py:layers --workdir layers      # what trains, for the step-matched control alone
    bridgejax run --config configs/tuning.py:inputs --workdir inputs      # batch statistics and rate, for one crop
    bridgejax run --config configs/tuning.py:images --workdir images      # a template, sentences, or a template and a filter
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

RATES = (0.001, 0.003, 0.01)
INPUT_RATES = (0.003, 0.01, 0.02)
BASE_STEPS = (20, 40)  # of a stage of length 1; more, and the quick start would take too long
LAYERS = {  # what trains → the regular expressions of its parameters, and rates
    "head": (("head",), (0.01, 0.03, 0.1)),
    "last_blocks": ((r"^(?!conv_stem|bn0\.|blocks\.(\d|1[01])\.)",), (0.003, 0.01, 0.03)),
    "all": (("all",), (0.001, 0.003, 0.01)),
}
IMAGES: dict[str, dict[str, Any]] = {  # which synthetic images: with which prompts, and all or what the embedded CLIP keeps
    "template": {},
    "sentences": {"synthetic_set": "sentences"},
    "template_filtered": {"synthetic_filter": ("percentile:50",)},
}
Candidate = tuple[str, dict[str, Any]]  # a recipe, and what its stages change


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is "layers", "inputs", "images" or None for rates and lengths."""
    quickstart = _quickstart()
    config = quickstart.get_config()
    config.task.source = "folder:emoji_task"
    config.training.evaluations = 0
    config.study.seeds = 2
    kinds = {None: _lengths, "layers": _layers, "inputs": _inputs, "images": _images}
    if arg not in kinds:
        raise ValueError(f"configs/tuning.py has no part {arg!r}; give layers, inputs, images, or none for rates and lengths")
    if arg == "images":
        config.synthetic_sets.sentences = {"prompts": {"source": "builtin:tux_photos"}}
        config.filter.classifier = "builtin:tiny_clip"
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
        config.recipes[name] = tuple(_changed(stage, share * base, settings) for stage in stages)
        arms.append(name)
    config.arms = tuple(arms)
    config.study.baseline = arms[0]
    return config


def _changed(stage: dict[str, Any], steps: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the stage with its own number of steps and the settings; a stage of real images has none of synthetic ones."""
    taken = {key: value for key, value in settings.items() if not (stage["data"] == "real" and key.startswith("synthetic"))}
    return {**{key: value for key, value in stage.items() if key not in ("length", "steps_of")}, "steps": steps, **taken}


def _rate(rate: float) -> str:
    return f"{rate:.0e}".replace("e-0", "e-")  # no dots in names: "3e-3"


def _lengths(quickstart: ModuleType) -> Iterator[tuple[str, Candidate]]:
    for arm in quickstart.LEARNING_RATES:
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


def _images(_: ModuleType) -> Iterator[tuple[str, Candidate]]:
    for arm in ("synthetic_only", "mixed_50", "bridged"):
        for words, settings in IMAGES.items():
            yield words, (arm, settings)


def _quickstart() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart", Path(__file__).with_name("quickstart.py"))
    if spec is None or spec.loader is None:
        raise ImportError("configs/quickstart.py is missing beside configs/tuning.py")
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    return quickstart
