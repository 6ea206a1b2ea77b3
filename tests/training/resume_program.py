"""Trains a tiny recipe; with a number, kills itself with SIGKILL when that batch of the run is drawn.

With "commit" the number is that of a checkpoint, whose commit kills it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

from flax import nnx
from training_fixtures import Streams, TinyNet, examples, task

from bridgejax.recipes import recipe_from_config
from bridgejax.training import RunInputs, RunOptions, train_recipe

STAGES = [
    {"data": "synthetic", "steps": 14, "mixup_alpha": 0.2, "warmup_steps": 3},
    {"data": "real", "steps": 11, "reset": "head", "label_smoothing": 0.1},
]
EARLY = [
    {"data": "synthetic", "steps": 60, "learning_rate": 0.1, "early_stop": 3, "early_stop_checks": 20},
    {"data": "real", "steps": 5},
]


def kill_at_commit(step: int) -> None:
    rename = os.rename

    def renamed(source: object, destination: object) -> None:
        if Path(str(destination)).name == str(step):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, destination)

    os.rename = renamed


def main(directory: str, output: str, kill_at: int, early: bool) -> None:
    drawn = 0

    def on_batch(step: int) -> None:
        nonlocal drawn
        drawn += 1
        if drawn == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    inputs = RunInputs(
        nnx.jit(lambda: TinyNet(nnx.Rngs(0), dropout=0.2))(),
        dataclasses.replace(task(), validation=examples(9, 2, "validation")) if early else task(),
        seed=3,
        synthetic=examples(30, 5, "synthetic"),
        directory=Path(directory),
    )
    options = RunOptions(batch_size=6, eval_batch_size=4, image_size=8, evaluations=3, checkpoint_every=4)
    recipe = recipe_from_config("two", EARLY if early else STAGES)
    result = train_recipe(recipe, inputs, options, streams=Streams(on_batch))
    metrics = {key: value for key, value in result.metrics.items() if key != "seconds"}
    weights = {name: float((array**2).sum()) for name, array in sorted(result.state.params.items())}
    text = json.dumps({"history": result.history, "metrics": metrics, "weights": weights, "drawn": drawn})
    Path(output).write_text(text)


if __name__ == "__main__":
    if "commit" in sys.argv[4:]:
        kill_at_commit(int(sys.argv[3]))
    main(sys.argv[1], sys.argv[2], 0 if "commit" in sys.argv[4:] else int(sys.argv[3]), "early" in sys.argv[4:])
