"""Table 11 of He et al. 2023, its pre-training: momentum contrast (MoCo v2) on synthetic images, here followed by fine-tuning.

    bridgejax run --config configs/he2023/table11_moco.py --workdir W            # the embedded task
    bridgejax run --config configs/he2023/table11_moco.py:cifar100 --workdir W   # in full, transferred to CIFAR-100

The paper transfers to detection on VOC, whose images are not here (`bridgejax detect` trains on a folder like it); AP50 of
ResNet-50 with 0, 1.2 and 2.4 million synthetic images of ImageNet's classes: from a random network 66.08, 81.55, 82.13; from
weights of ImageNet-1k 82.44, -, 82.47.

`others_random` and `others_weights` contrast views of synthetic images of other classes than the task's (ImageNet's at full
size), without their labels; `moco_random` and `moco_weights` as many of the task's own. All are then fine-tuned on real images
as `none_random` and `none_weights` are, which start from a random network and from the weights. MoCo v2's settings are those of
its authors: batches of 256, a queue of 65,536, SGD at rate 0.03 (from weights 0.003, as in the paper), decay 0.0001, a cosine,
200 passes. At full size: not run; 1.2 million images of each kind, then 937,500 updates of 256 images in two views, and as many
to fine-tune.
"""

from __future__ import annotations

from typing import Any

from bridgejax.papers.he2023 import OTHERS, add_other_classes, is_full, paper_config

FULL = ("cifar100",)


def get_config(arg: str | None = None) -> Any:
    """Returns the config; `arg` is a data set of `FULL`, "embedded" (the default) or a `task.source`."""
    config = paper_config(arg)
    config.classifier.templates = ()
    config.classifier.weights = "timm/resnet50.tv_in1k" if is_full(config) else "builtin:efficientnet_lite0"
    contrast = {"data": "synthetic", "loss": "moco", "batch_norm": "train", "optimizer": "sgd", "weight_decay": 0.0001}
    contrast |= {"queue_size": 320, "key_momentum": 0.99}
    if is_full(config):
        config.synthetic.per_class = 12_000
        config.training.batch_size = 256
        config.training.base_steps = round(200 * 1_200_000 / 256)
        contrast |= {"queue_size": 65536, "key_momentum": 0.999}
    else:
        config.task.shots = 4
    add_other_classes(config)
    tuning = {"data": "real", "batch_norm": "train", "learning_rate": 0.01}
    for start, reset, rate in (("random", "all", 0.03), ("weights", "none", 0.003)):
        config.recipes[f"none_{start}"] = ({**tuning, "reset": "head" if reset == "none" else reset},)
        contrasting = {**contrast, "reset": reset, "learning_rate": rate}
        config.recipes[f"moco_{start}"] = (contrasting, {**tuning, "reset": "head"})
        config.recipes[f"others_{start}"] = ({**contrasting, "synthetic_set": OTHERS}, {**tuning, "reset": "head"})
    config.arms = tuple(f"{arm}_{start}" for start in ("random", "weights") for arm in ("none", "moco", "others"))
    config.study.baseline = "none_random"
    return config
