"""Trains fifty float32 steps with the state replicated and split over all processes; prints both loss curves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

from sharded_program import train

from bridgejax import runtime
from bridgejax.mesh import make_mesh
from bridgejax.training import make_optimizer


def main() -> None:
    runtime.start()
    optimizer = make_optimizer("sgd", 0.05, weight_decay=5e-4)
    curves = {axis: train(make_mesh(((axis, -1),)), optimizer)[1] for axis in ("data", "fsdp")}
    if runtime.is_first():
        print(json.dumps(curves))


if __name__ == "__main__":
    main()
