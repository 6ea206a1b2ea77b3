"""The command line with one more command: evaluates a classifier on a mesh of all processes a thousand times."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from bridgejax import cli, runtime
from bridgejax.mesh import make_mesh
from bridgejax.models import load_classifier
from bridgejax.training.eval_step import evaluate


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path)


def run(options: argparse.Namespace, _: object) -> str:
    runtime.start()
    mesh = make_mesh()
    model = load_classifier("builtin:efficientnet_lite0", num_classes=2)
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8), "label": np.arange(8) % 2, "mask": np.ones(8, np.float32)}
    for _ in range(1000):
        evaluate(model, [batch] * 4, mesh=mesh)
        options.workdir.mkdir(exist_ok=True)
        (options.workdir / "evaluated").touch()
    return "done"


if __name__ == "__main__":
    cli.COMMANDS["evaluate"] = cli.Command("", arguments, run)
    sys.exit(cli.main(sys.argv[2:]))
