"""Table 9 of He et al. 2023: DeiT-S, pre-trained on synthetic images with DeiT's augmentation, then fine-tuned.

    bridgejax run --config configs/he2023/table9_deit.py --workdir W            # the embedded task
    bridgejax run --config configs/he2023/table9_deit.py:cifar100 --workdir W   # the paper's data set in full

The paper, CIFAR-100 after fine-tuning, DeiT-S, top-1 in %: from a random network 69.29; pre-trained on synthetic images of
ImageNet-1k's classes 87.98 (1.2 million) and 88.39 (2.4), of these and 1000 more classes 88.57 (2.4) and 88.91 (4.0); from
weights of real ImageNet-1k 88.07.

`others_random` is the paper's: its images are of other classes than the task's, ImageNet's at full size (which classes the
paper added to these it does not say). `synthetic_random` trains on as many of the task's own classes.

Pre-training is DeiT's (Touvron et al. 2021, its Table 9): AdamW, batches of 1024, rate 0.001, decay 0.05, a cosine, 300 passes
of which 5 warm up, label smoothing 0.1, stochastic depth 0.1, Mixup 0.8 or CutMix 1.0, erasing 0.25, RandAugment 9 with two
operations, and each drawn image three times in a batch (repeated augmentation; so a pass has as many images, of which a third
differ). The paper says no more of fine-tuning than that it is DeiT's: SGD, rate 0.01, decay 0.0001, batches of 768 and 1000
passes are ours, with the same mixing. At full size: not run; 1.2 million images of 50 sampling steps for each of the two, then
351,563 updates of 1024 images and 65,104 of 768.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import OTHERS, add_other_classes, is_full, paper_config

FULL = ("cifar100",)
MIXING = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "cutmix_share": 0.5, "label_smoothing": 0.1}
DEIT = {**MIXING, "erasing": 0.25, "randaugment": 9.0, "stochastic_depth": 0.1, "repeats": 3}
PRETRAIN = {"data": "synthetic", "batch_norm": "train", "optimizer": "adamw", "weight_decay": 0.05, "learning_rate": 0.001}


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    config.classifier.templates = ()
    config.classifier.weights = "timm/deit_small_patch16_224.fb_in1k" if is_full(config) else "builtin:efficientnet_lite0"
    length, batch_size, warmup, deit = 1.0, config.training.batch_size, 0, DEIT
    if is_full(config):
        images = 1_200_000
        config.synthetic.per_class = images // 100
        config.training.base_steps = round(300 * images / 1024)
        config.training.batch_size = 1024
        # Of fine-tuning: 1000 passes over 50,000 images, in the length of pre-training.
        length, batch_size = 1000 * 50_000 / 768 / config.training.base_steps, 768
        warmup = round(5 * images / 1024)
    else:
        config.task.shots = 4
        deit = {**DEIT, "stochastic_depth": 0.0}  # the embedded network is no transformer
    pretraining = {**PRETRAIN, **deit, "warmup_steps": warmup}
    tuning = {"data": "real", "batch_norm": "train", "optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 0.0001}
    tuning |= {**MIXING, "batch_size": batch_size, "length": length}
    config.recipes.none_random = ({**tuning, "reset": "all"},)
    add_other_classes(config)
    for name, synthetic_set in (("synthetic", ""), ("others", OTHERS)):
        first = {**pretraining, "reset": "all", "synthetic_set": synthetic_set}
        config.recipes[f"{name}_random"] = (first, {**tuning, "reset": "head"})
    config.recipes.none_weights = ({**tuning, "reset": "head"},)
    config.arms = ("none_random", "synthetic_random", "others_random", "none_weights")
    config.study.baseline = "none_random"
    return config
