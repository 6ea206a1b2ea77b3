"""Classifier tuning on cached features: how long the head trains once each image was encoded.

    python -m benchmarks cached_features [--repeats 5]     # writes docs/results/cached_features.json
    python -m benchmarks cached_features --quick           # a tenth of the images, once; the file is left as it is

Random images, a random vision transformer of one block whose features are 512 wide, ten classes: the head trains by the recipe
`tuned_synthetic` (soft targets of the frozen head, AdamW, a cosine, clipping) for 30 passes in batches of 512. The limit is the
one that the project set itself: 5 seconds for 16,000 images on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "cached_features.json"
IMAGES, WIDTH, CLASSES, PASSES, BATCH, SIDE = 16_000, 512, 10, 30, 512, 32
LIMIT = 5.0  # seconds


def measure(images: int, repeats: int) -> dict[str, Any]:
    """Returns the steps of a run, and the seconds that `repeats` runs after the first one took, which compiles."""
    from flax import nnx

    from bridgejax.data.examples import Examples, Task
    from bridgejax.data.images import encode_png
    from bridgejax.models.classifier import Preprocessing
    from bridgejax.models.vit import VisionTransformer, ViTConfig
    from bridgejax.recipes import all_recipes, recipe_from_config
    from bridgejax.training import RunInputs, RunOptions, train_recipe

    rng = np.random.default_rng(0)

    def examples(count: int, name: str) -> Examples:
        pixels = rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
        labels = np.arange(count, dtype=np.int32) % CLASSES
        return Examples(tuple(map(encode_png, pixels)), labels, tuple(f"{name}-{number}" for number in range(count)))

    config = ViTConfig("timm", "vit_tiny_patch16_224", SIDE, 16, WIDTH, layers=1, heads=8, intermediate_size=WIDTH)
    model = VisionTransformer(config, CLASSES, Preprocessing(SIDE, (0.5,) * 3, (0.5,) * 3, 1.0), rngs=nnx.Rngs(0))
    few, many = examples(10, "real"), examples(images, "synthetic")
    task = Task("noise", tuple(f"class {k}" for k in range(CLASSES)), few, None, few, "noise")
    steps = -(-PASSES * images // BATCH)
    recipe = recipe_from_config("tuned_synthetic", [{**stage, "steps": steps} for stage in all_recipes()["tuned_synthetic"]])
    options = RunOptions(batch_size=BATCH, eval_batch_size=64, image_size=SIDE, evaluations=1)
    runs = [train_recipe(recipe, RunInputs(model, task, 0, many), options).metrics["seconds"] for _ in range(repeats + 1)]
    taken = [run["train"] for run in runs[1:]]
    return {
        "images": images,
        "steps": steps,
        "seconds": {"median": statistics.median(taken), "low": min(taken), "high": max(taken)},
        "input_stall": statistics.median(run["input_stall"] for run in runs[1:]),
        "first_run": {"encode": runs[0]["encode"], "train": runs[0]["train"]},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and keeps; returns 1 where training takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs after the first; default 5")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images, once; the file is left as it is")
    options = parser.parse_args(arguments)
    from benchmarks.machine import facts
    from bridgejax.files import write_json

    found = measure(IMAGES // 10, 1) if options.quick else measure(IMAGES, options.repeats)
    run = {"command": "python -m benchmarks cached_features", "machine": facts(), "limit_seconds": LIMIT, **found}
    print(json.dumps(run, indent=1))
    if not options.quick:
        write_json(RESULTS, run)
    return int(found["seconds"]["median"] > LIMIT)
