"""Measures seeds that train at once against one by one and writes docs/results/parallel_seeds.md.

    python -m benchmarks parallel_seeds                       # every backbone
    python -m benchmarks parallel_seeds --only vit_8x64       # one; the page keeps the others
    python -m benchmarks parallel_seeds --quick               # the smallest, two seeds, one round; printed alone

Each backbone trains `--seeds` seeds of `real_reset_real` on the embedded photographs (4 per class), from the same weights
each way: one by one (`train_recipe` after `train_recipe`), in turns ("interleave") and as one vmapped program ("vmap"). The
first round compiles; of the `--rounds` after it, which take the ways in turn, the median counts. "CPU seconds" are those of
the whole process: where other work shares the machine, they say more than the wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "parallel_seeds.md"
RECORD = Path(tempfile.gettempdir()) / "bridgejax-parallel-seeds.json"
WAYS = ("one by one", "interleave", "vmap")

# name → (what it is, pixels, batch, steps of a stage)
BACKBONES: dict[str, tuple[str, int, int, int]] = {
    # As long as in the quick start, as `training.base_steps` says by default, and longer.
    "vit_2x32_quick": ("vision transformer, 2 blocks of width 32, patches of 8", 32, 8, 15),
    "vit_2x32_default": ("vision transformer, 2 blocks of width 32, patches of 8", 32, 8, 50),
    "vit_2x32": ("vision transformer, 2 blocks of width 32, patches of 8", 32, 8, 150),
    "vit_4x48": ("vision transformer, 4 blocks of width 48, patches of 8", 32, 8, 150),
    "vit_8x64": ("vision transformer, 8 blocks of width 64, patches of 8", 32, 16, 40),
    "efficientnet_lite0": ("EfficientNet-Lite0, the embedded classifier", 32, 8, 15),
}


def build(name: str, classes: int, seed: int) -> Any:
    """Returns a backbone with a head of its own for each seed."""
    from flax import nnx

    from bridgejax.models import load_classifier, reinitialise
    from bridgejax.models.classifier import Preprocessing
    from bridgejax.models.vit import VisionTransformer, ViTConfig

    if name == "efficientnet_lite0":
        return load_classifier("builtin:efficientnet_lite0", num_classes=classes, seed=seed)
    layers, width = map(int, name.split("_")[1].split("x"))
    config = ViTConfig("timm", name, 32, 8, width, layers, 4, 4 * width)
    model = VisionTransformer(config, classes, Preprocessing(32, (0.5,) * 3, (0.5,) * 3, 1.0), rngs=nnx.Rngs(0))
    return reinitialise(model, seed)


def measure(name: str, seeds: int, rounds: int) -> dict[str, Any]:
    """Returns seconds and CPU seconds by way, and how far the ways' results lie apart."""
    import numpy as np

    from bridgejax.data import load_task
    from bridgejax.recipes import all_recipes, recipe_from_config
    from bridgejax.training import RunInputs, RunOptions, train_group, train_recipe

    _, pixels, batch, steps = BACKBONES[name]
    training = {"base_steps": steps, "learning_rate": 0.003, "batch_norm": "frozen"}
    recipe = recipe_from_config("real_reset_real", all_recipes(), training)
    tasks = [load_task("builtin:tux_photos", shots=4, seed=seed) for seed in range(seeds)]
    models = [build(name, len(tasks[0].class_names), seed) for seed in range(seeds)]
    options = RunOptions(batch_size=batch, image_size=pixels, keep_final=False)

    def members(folder: Path) -> list[RunInputs]:
        return [RunInputs(models[seed], tasks[seed], seed, directory=folder / str(seed)) for seed in range(seeds)]

    def alone(folder: Path) -> list[Any]:
        return [train_recipe(recipe, member, options) for member in members(folder)]

    def together(strategy: str) -> Callable[[Path], list[Any]]:
        return lambda folder: train_group(recipe, members(folder), options, strategy=strategy)

    ways = dict(zip(WAYS, (alone, together("interleave"), together("vmap")), strict=True))
    wall: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    first: dict[str, float] = {}
    results: dict[str, list[Any]] = {}
    for number in range(rounds + 1):
        for way, train in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                began, worked = time.perf_counter(), time.process_time()
                results[way] = train(Path(folder))
                taken, work = time.perf_counter() - began, time.process_time() - worked
            if number:
                wall[way].append(taken)
                cpu[way].append(work)
            else:
                first[way] = taken
    apart = {}
    for way in WAYS[1:]:
        weights = [
            max(
                float(np.abs(a.state.params[key] - b.state.params[key]).max() / max(np.abs(a.state.params[key]).max(), 1e-3))
                for key in a.state.params
            )
            for a, b in zip(results[WAYS[0]], results[way], strict=True)
        ]
        pairs = list(zip(results[WAYS[0]], results[way], strict=True))
        changed = sum(int(x != y) for a, b in pairs for x, y in zip(a.metrics["correct"], b.metrics["correct"], strict=True))
        apart[way] = {"weights": max(weights), "answers": changed, "of": sum(len(a.metrics["correct"]) for a, _ in pairs)}
    return {
        "seeds": seeds,
        "rounds": rounds,
        "steps": recipe.steps,
        "first": first,
        "wall": {way: statistics.median(values) for way, values in wall.items()},
        "cpu": {way: statistics.median(values) for way, values in cpu.items()},
        "apart": apart,
        "load": os.getloadavg()[0],
    }


def step_alone(name: str, seeds: int, rounds: int = 20, count: int = 20) -> dict[str, float]:
    """Returns the milliseconds of a step of each of `seeds` runs on a batch in memory: one after the other, and stacked."""
    import jax
    import numpy as np

    from bridgejax.recipes import all_recipes, recipe_from_config
    from bridgejax.training import stages
    from bridgejax.training.stacked import StackedStep, stack

    _, pixels, batch, _ = BACKBONES[name]
    training = {"base_steps": 50, "learning_rate": 0.003, "batch_norm": "frozen"}
    plan = stages.stage_plans(recipe_from_config("real_reset_real", all_recipes(), training))[0]
    states = [stages.fresh_state(plan, build(name, 11, seed), seed) for seed in range(seeds)]
    rng = np.random.default_rng(0)
    given = [
        {"image": rng.integers(0, 256, (batch, pixels, pixels, 3), np.uint8), "label": rng.integers(0, 11, batch, np.int32)}
        for _ in range(seeds)
    ]
    single = stages.step_of(plan.stage, None)
    stacked = StackedStep(single)
    stacked.prepare(states, given)
    together = stack(states)
    taken: dict[str, list[float]] = {"one by one": [], "vmap": []}
    for _ in range(rounds):
        began = time.perf_counter()
        for number in range(seeds):
            for _ in range(count):
                states[number], _ = single(states[number], given[number])
            jax.block_until_ready(states[number])
        taken["one by one"].append((time.perf_counter() - began) / count)
        began = time.perf_counter()
        for _ in range(count):
            together, _ = stacked(together, given)
        jax.block_until_ready(together)
        taken["vmap"].append((time.perf_counter() - began) / count)
    return {way: 1e3 * statistics.median(values) for way, values in taken.items()}


def page(found: dict[str, dict[str, Any]]) -> str:
    """Returns the page."""
    import jax

    parts = [""] if len(found) == len(BACKBONES) else [f" --only {name}" for name in found]
    commands = " and ".join(f"`python -m benchmarks parallel_seeds{part}`" for part in parts)
    text = (
        f"# Many seeds at once\n\n{commands}, on "
        f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, jax {jax.__version__}. Seeds of `real_reset_real` on "
        "the embedded photographs, with checkpoints and the evaluation of each; medians of rounds after one that compiles. "
        '"Times" is the throughput against one by one. "Steps" are those of both stages: 30 in the quick start, 100 by default '
        "(`training.base_steps`).\n\n"
        "| backbone | pixels, batch, steps | way | seconds | times | CPU seconds | times by CPU | load |\n"
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
    )
    for name, told in found.items():
        what, pixels, batch, _ = BACKBONES[name]
        for way in WAYS:
            wall, cpu = told["wall"], told["cpu"]
            text += (
                f"| {what} | {pixels}, {batch}, {told['steps']} | {told['seeds']} seeds, {way} | {wall[way]:.2f} | "
                f"{wall[WAYS[0]] / wall[way]:.2f} | {cpu[way]:.2f} | {cpu[WAYS[0]] / cpu[way]:.2f} | {told['load']:.1f} |\n"
            )
    twice = [f"{name} ({way})" for name, told in found.items() for way in WAYS[1:] if _times(told, way) >= 2]
    below = [f"{name} ({way})" for name, told in found.items() for way in WAYS[1:] if _times(told, way) < 2]
    text += f"\nTwice the throughput, by the wall clock: {', '.join(twice) or 'none'}. Less: {', '.join(below) or 'none'}.\n"
    text += (
        '\n"Load" is the machine\'s load average at the end: well above 1, other work took part of its cores, and wall seconds '
        "say less than CPU seconds.\n\n## The same results\n\n"
        "| backbone | way | largest difference of a weight, of its tensor's largest | answers that differ |\n"
        "| --- | --- | ---: | ---: |\n"
    )
    for name, told in found.items():
        for way, apart in told["apart"].items():
            text += f"| {name} | {way} | {apart['weights']:.1e} | {apart['answers']} of {apart['of']} |\n"
    text += (
        "\n## The step alone\n\nA step of every seed on batches that lie in memory, in milliseconds: on a CPU stacking saves "
        "little of it. What training together saves beside that is the seeds' own starts, evaluations and input.\n\n"
        "| backbone | seeds | one by one | stacked (vmap) |\n| --- | ---: | ---: | ---: |\n"
    )
    for name, told in found.items():
        step = told["step"]
        text += f"| {name} | {told['seeds']} | {step['one by one']:.1f} | {step['vmap']:.1f} |\n"
    text += "\n## With compilation, from a cache as it was found\n\n| backbone | way | first round, seconds |\n"
    text += "| --- | --- | ---: |\n"
    for name, told in found.items():
        for way, seconds in told["first"].items():
            text += f"| {name} | {way} | {seconds:.1f} |\n"
    return text


def _times(told: dict[str, Any], way: str) -> float:
    return told["wall"][WAYS[0]] / told["wall"][way]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and writes the page from what was measured now and before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(BACKBONES), help="one backbone; the others' rows are kept")
    parser.add_argument("--seeds", type=int, help="4, with --quick 2")
    parser.add_argument("--rounds", type=int, help="5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="the smallest backbone; the page is left as it is")
    parser.add_argument("--record", type=Path, default=RECORD, help="what was measured before, and now")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from bridgejax.files import write_atomic

    if options.quick:
        name = options.only or next(iter(BACKBONES))
        seeds, rounds = options.seeds or 2, options.rounds or 1
        print(page({name: {**measure(name, seeds, rounds), "step": step_alone(name, seeds, rounds)}}))
        return
    seeds, rounds = options.seeds or 4, options.rounds or 5
    found = json.loads(options.record.read_text()) if options.record.is_file() and options.only else {}
    for name in [options.only] if options.only else BACKBONES:
        found[name] = {**measure(name, seeds, rounds), "step": step_alone(name, seeds)}
        options.record.write_text(json.dumps(found))
    ordered = {name: found[name] for name in BACKBONES if name in found}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS, page(ordered))
    print(page(ordered))
