"""The architecture figures of Li et al. 2024: other networks, full shot and 4 shots, 2,500 images per class with style
inversion.

    bridgejax run --config configs/bridged_transfer/architectures.py --workdir W                # the embedded task
    bridgejax run --config configs/bridged_transfer/architectures.py:cars,vit_b16,4 --workdir W # one in full, 4 shots (or all)

The paper: mean gains of 13, 12 and 9 % (apparently ResNet-50, ViT-B/16 and ViT-L/16 at 4 shots), ++ above vanilla in nearly
all cases; radar plots without values. The fifth network is not known. The images of its plots come from a learned word
(`bridgejax invert`); here from the template.

Ours, on the embedded task: docs/results/paper_embedded.md, by `python -m benchmarks paper_embedded`. At full size: not run;
what that would cost is counted by `python -m benchmarks paper_cost` (docs/results/paper_cost.md). The embedded task has one
embedded network, EfficientNet-Lite0.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.bridged_transfer import DATA_SETS, MODELS, full_steps, is_full, paper_config, per_class

FULL = tuple(
    f"{name},{model},{shots}" for name in DATA_SETS for model in MODELS if model != "resnet18" for shots in ("4", "all")
)


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set (or "embedded", the default), a network of `MODELS` and shots or "all"."""
    name, model, shots = (*(arg or "embedded").split(","), "", "")[:3]
    config = paper_config(name)
    config.arms = ("vanilla_long", "bridged_plus_plus")
    config.study.per_class = (per_class(config, 2500),)
    if shots and shots != "all":
        config.task.shots = int(shots)
        if is_full(config):
            config.training.base_steps = full_steps(config.task.shots * DATA_SETS[name].classes)
    if model:
        config.classifier.weights = MODELS[model]
        config.classifier.image_size = 224
    return config
