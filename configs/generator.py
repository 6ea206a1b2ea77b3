"""What the generator's pictures alone teach a classifier: more of them than the quick start has time for.

    bridgejax run --config configs/generator.py --workdir generator
    bridgejax run --config configs/generator.py:tuning --workdir tuning      # its rate and length, on another task

No real photograph is trained on; all that are not drawn for the (unused) shots are the test part. What came out stands in
docs/results/quickstart.md (`python -m benchmarks quickstart --parts generator`) and docs/results/tuning.md
(`python -m benchmarks tuning`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridgejax.config import load_config

RATES, STEPS = (0.003, 0.01, 0.03, 0.1), (80, 320)


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` "tuning" gives the candidates, on the emoji of tools/build_emoji_task.py."""
    config = load_config(str(Path(__file__).with_name("quickstart.py")))
    config.synthetic.per_class = 128
    config.study.shots = ()
    config.training.evaluations = 1
    stage = {key: value for key, value in config.recipes.synthetic_only[0].items() if key != "steps_of"}
    if arg == "tuning":
        config.task.source = "folder:emoji_task"
        config.study.seeds = 5
        names = []
        for rate in RATES:
            for steps in STEPS:
                names.append(f"synthetic_only-{rate:.0e}-{steps}".replace("e-0", "e-"))
                config.recipes[names[-1]] = ({**stage, "learning_rate": rate, "steps": steps},)
        config.arms = tuple(names)
    else:
        config.recipes.synthetic_only = ({**stage, "learning_rate": 0.003, "steps": 80},)
        config.arms = ("synthetic_only",)
    config.study.baseline = config.arms[0]
    return config
