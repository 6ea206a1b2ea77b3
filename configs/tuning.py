"""The settings that the other configs take over, chosen on a task of its own: what trains, rates, lengths, sizes, images.

    python tools/build_emoji_task.py --output emoji_task
    bridgejax run --config configs/tuning.py --workdir tuning             # rates and lengths of the quick start's arms
    bridgejax run --config configs/tuning.py:layers --workdir layers      # what trains
    bridgejax run --config configs/tuning.py:inputs --workdir inputs      # rates, for one image size
    bridgejax run --config configs/tuning.py:images --workdir images      # a template, sentences, or a template and a filter
    bridgejax run --config configs/tuning.py:table2 --workdir table2      # rates of configs/he2023/table2_losses.py
    bridgejax run --config configs/tuning.py:combined --workdir combined  # rates of configs/he2023/combined.py
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

from bridgejax.recipes import at_rate

RATES = (0.001, 0.003, 0.01)
SEEDS = {None: 10, "layers": 2, "inputs": 5, "images": 10, "table2": 3, "combined": 2}
HE2023 = {  # config of configs/he2023/, rates for each of its arms
    "table2": ("table2_losses.py", (0.0002, 0.0005, 0.001, 0.002, 0.005)),
    "combined": ("combined.py", (0.0001, 0.0005, 0.002, 0.008, 0.03)),
}
BASE_STEPS = (40, 160, 320, 640)  # of a stage of length 1
# A step of more layers takes a hundred times as long as one of the head on cached features.
MORE = {"augment": True, "base_steps": 40}
LAST_BLOCKS = r"^(?!conv_stem|bn0\.|blocks\.(\d|1[01])\.)"
LAYERS: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {  # what trains → what its stages say, rates
    "head": ({}, RATES),
    "last_blocks": ({"trainable": (LAST_BLOCKS,), **MORE}, RATES[:2]),
    "all": ({"trainable": ("all",), **MORE}, RATES[:2]),
}
IMAGES: dict[str, dict[str, Any]] = {  # which synthetic images: with which prompts, and all or what the embedded CLIP keeps
    "template": {},
    "sentences": {"synthetic_set": "sentences"},
    "template_filtered": {"synthetic_filter": ("percentile:50",)},
}
Candidate = tuple[str, dict[str, Any]]  # a recipe, and what its stages change


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is "layers", "inputs", "images", a key of `HE2023`, or None for rates and lengths."""
    if arg in HE2023:
        return _he2023(arg)
    quickstart = _config("quickstart.py")
    config = quickstart.get_config()
    config.task.source = "folder:emoji_task"
    config.training.evaluations = 0
    kinds = {None: _lengths, "layers": _layers, "inputs": _inputs, "images": _images}
    if arg not in kinds:
        parts = ", ".join(filter(None, SEEDS))
        raise ValueError(f"configs/tuning.py has no part {arg!r}; give one of {parts}, or none for rates and lengths")
    config.study.seeds = SEEDS[arg]
    if arg == "images":
        config.synthetic_sets.sentences = {"prompts": {"source": "builtin:tux_photos"}}
        config.filter.classifier = "builtin:tiny_clip"
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
    for arm in quickstart.ARMS:
        for rate in RATES:
            for base in BASE_STEPS:
                yield f"{_rate(rate)}-{2 * base}", (arm, {"learning_rate": rate, "base_steps": base})


def _layers(quickstart: ModuleType) -> Iterator[tuple[str, Candidate]]:
    for arm in quickstart.ARMS[:2]:
        for name, (settings, rates) in LAYERS.items():
            for rate in rates:
                yield f"{name}-{_rate(rate)}", (arm, {**settings, "learning_rate": rate})


def _inputs(quickstart: ModuleType) -> Iterator[tuple[str, Candidate]]:
    for arm in quickstart.ARMS:
        for rate in RATES:
            yield _rate(rate), (arm, {"learning_rate": rate})


def _images(quickstart: ModuleType) -> Iterator[tuple[str, Candidate]]:
    for arm in quickstart.ARMS[1:]:
        for words, settings in IMAGES.items():
            yield words, (arm, settings)


def _he2023(part: str) -> Any:
    name, rates = HE2023[part]
    config = _config(f"he2023/{name}").get_config("folder:emoji_task")
    if "sentences" in config.synthetic_sets:
        config.synthetic_sets.sentences = {"prompts": {"source": "builtin:tux_photos"}}
    config.task.validation_per_class = 0
    config.training.evaluations = 0
    config.study.seeds = SEEDS[part]
    arms = []
    for arm in config.arms:
        for rate in rates if config.recipes[arm] else ():  # zero_shot takes no step
            arms.append(f"{arm}-{_rate(rate)}")
            config.recipes[arms[-1]] = at_rate(config.recipes[arm], rate)
    config.arms = ("zero_shot", *arms)
    config.study.baseline = "zero_shot"
    return config


def _config(name: str) -> ModuleType:
    path = Path(__file__).parent / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
