"""Table 8 of He et al. 2023: supervised pre-training on synthetic images of the task's or other classes, then fine-tuning.

    bridgejax run --config configs/he2023/table8_pretraining.py --workdir W            # the embedded task
    bridgejax run --config configs/he2023/table8_pretraining.py:cifar100 --workdir W   # the paper's data set in full

The paper, CIFAR-100 after fine-tuning, ResNet-50, top-1 in %, with 0, 1.2, 2.4 and 3.6 million synthetic images: from a random
network 78.83, 83.90, 85.03, 85.24; from weights of ImageNet-1k 84.50, 84.90, 85.32, 85.52. That is `synthetic_random` and
`synthetic_weights`, on images of the task's own classes. `others_random` and `others_weights` do not know the task: they train
on as many images of other classes (ImageNet's at full size), with a head of their own, as in the paper's Tables 9 to 11.

The paper pre-trains with AdamW, decay 0.9 as printed, for 90 passes in batches of 512 (rate 0.0001, from weights 0.00001), and
fine-tunes with SGD for 200 passes in batches of 128, rate 0.003, a fifth of it after 60, 120 and 160. It does not publish the
size of the inputs nor SGD's momentum: 224 and 0.9 are ours. At full size: not run; 1.2 million images of 50 sampling steps,
then 210,938 updates of 512 images and 78,125 of 128 for each arm.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import OTHERS, add_other_classes, is_full, paper_config

FULL = ("cifar100",)
RATES = ((0.003, 60), (0.0006, 60), (0.00012, 40), (0.000024, 40))  # of fine-tuning, and for how many passes
PRETRAIN = {"data": "synthetic", "batch_norm": "train", "optimizer": "adamw", "weight_decay": 0.9}


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    config.classifier.templates = ()
    config.classifier.weights = "timm/resnet50.tv_in1k" if is_full(config) else "builtin:efficientnet_lite0"
    # Of fine-tuning in all: 200 passes over 50,000 images, in the length of pre-training.
    length, batch_size = 1.0, config.training.batch_size
    if is_full(config):
        config.synthetic.per_class = 12_000
        config.training.base_steps = round(90 * 1_200_000 / 512)
        length, batch_size = 200 * 50_000 / 128 / config.training.base_steps, 128
    else:
        config.task.shots = 4
    tuning = {"data": "real", "batch_norm": "train", "schedule": "constant", "batch_size": batch_size}
    stages = [
        {**tuning, "learning_rate": rate, "length": length * passes / 200, "restart_optimizer": number == 0}
        for number, (rate, passes) in enumerate(RATES)
    ]
    first, later = stages[0], tuple(stages[1:])
    config.recipes.none_random = ({**first, "reset": "all"}, *later)
    config.recipes.none_weights = ({**first, "reset": "head"}, *later)
    add_other_classes(config)
    for name, synthetic_set in (("synthetic", ""), ("others", OTHERS)):
        pretraining = {**PRETRAIN, "synthetic_set": synthetic_set}
        config.recipes[f"{name}_random"] = ({**pretraining, "reset": "all", "learning_rate": 0.0001}, *stages)
        config.recipes[f"{name}_weights"] = ({**pretraining, "reset": "head", "learning_rate": 0.00001}, *stages)
    starts = ("random", "weights")
    config.arms = tuple(f"{name}_{start}" for start in starts for name in ("none", "synthetic", "others"))
    config.study.baseline = "none_random"
    return config
