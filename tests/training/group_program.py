"""Trains three seeds at once; with a number, kills itself with SIGKILL when that batch, of all seeds together, is drawn."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from test_groups import SIZES, STAGES, members
from training_fixtures import Streams

from bridgejax.recipes import recipe_from_config
from bridgejax.training import RunOptions, train_group


def main(directory: str, output: str, kill_at: int, strategy: str) -> None:
    drawn = 0

    def on_batch(step: int) -> None:
        nonlocal drawn
        drawn += 1
        if drawn == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    results = train_group(
        recipe_from_config("two", STAGES, {"batch_norm": "train"}),
        members(directory=Path(directory)),
        RunOptions(checkpoint_every=4, **SIZES),
        streams=Streams(on_batch),
        strategy=strategy,
    )
    report = {
        "drawn": drawn,
        "correct": [result.metrics["correct"] for result in results],
        "weights": [float((result.state.params["head.kernel"] ** 2).sum()) for result in results],
    }
    Path(output).write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
