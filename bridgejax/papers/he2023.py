"""The experiments of He et al. 2023 (arXiv 2210.07574) as configs: data sets, models, lengths.

What the paper does not publish is our choice, and says so here and in docs/he2023.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bridgejax.config import default_config
from bridgejax.papers.paper_tasks import paper_tasks, set_other_task
from bridgejax.prompts import template_list

if TYPE_CHECKING:
    from ml_collections import ConfigDict

SENTENCES = "sentences"  # the synthetic set of language enhancement
GUIDED = "guided"  # the synthetic set of real guidance
OTHERS = "others"  # the synthetic set of other classes than the task's

DATA_SETS = paper_tasks(
    (
        *("cifar10", "cifar100", "caltech101", "caltech256", "imagenet", "sun397", "aircraft", "birdsnap", "cars", "cub200"),
        *("flowers", "food", "pets", "dtd", "eurosat", "imagenet_sketch", "imagenet_r"),
    )
)
FEW_SHOT = ("imagenet", "caltech101", "pets", "cars", "aircraft", "sun397", "dtd", "eurosat")
# Templates of the released code where they are not "a photo of a {}.": transfer_ds_template.py; which of them made which row of
# a table is recorded for EuroSAT alone.
TEMPLATES = {
    **{name: template_list(name) for name in ("aircraft", "flowers", "food", "pets", "eurosat", "dtd")},
    **{"birdsnap": template_list("birds"), "cub200": template_list("birds"), "sun397": template_list("sun")},
}
SIMPLE = ("a photo of a {}.",)
CLIP, CLIP_RN50 = "openai/clip-vit-base-patch16", "timm/resnet50_clip.openai"
T5 = "mrm8488/t5-base-finetuned-common_gen"
# The released code's, where they are not the paper's.
SENTENCE_TEMPLATES = {"eurosat": "a centered satellite photo of {}", "imagenet_sketch": "sketch of {}"}
# What the embedded generator draws besides the classes of the embedded task.
OTHER_NAMES: tuple[str, ...] = (
    *("airplane", "banana", "bicycle", "butterfly", "carrot", "elephant", "giraffe", "guitar"),
    *("hammer", "penguin", "pineapple", "sailboat", "scissors", "tomato", "trumpet", "zebra"),
)
PER_CLASS = 800  # synthetic images per class that the head trains on, after the filter
EPOCHS = 30  # passes over the synthetic images
_SYNTHETIC_BATCH, _EMBEDDED_BATCH = 512, 64
_EMBEDDED_PER_CLASS, _EMBEDDED_CLASSES = 32, 11


def paper_config(arg: str | None = None) -> ConfigDict:
    """Returns the config that a table or figure starts from.

    Args:
      arg: None or "embedded": the embedded task, generator and CLIP-like model, on a laptop; a key of `DATA_SETS`: that data
        set in full, with Stable Diffusion 1.5 in GLIDE's place and CLIP ViT-B/16; a `task.source` (such as "folder:PATH"): that
        task with the embedded models.

    Raises:
      UserError: an unknown data set.
    """
    config = default_config()
    config.study.seeds = 3
    config.training.learning_rate = 0.002
    config.training.evaluations = 1
    if arg in DATA_SETS:
        data = DATA_SETS[str(arg)]
        config.task.source = f"task:{data.name}"
        config.generator.weights = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        config.generator.dtype = "bfloat16"
        config.classifier.weights = CLIP
        config.classifier.image_size = 224
        config.classifier.templates = TEMPLATES.get(str(arg), SIMPLE)
        config.prompts.template = config.classifier.templates
        config.synthetic.per_class = PER_CLASS
        config.training.batch_size = _SYNTHETIC_BATCH
        config.training.eval_batch_size = 256
        config.training.base_steps = steps(data.classes * PER_CLASS, _SYNTHETIC_BATCH)
        return config
    set_other_task(config, arg, DATA_SETS)
    config.generator.steps = 12
    config.generator.guidance_scale = 3.0
    config.classifier.weights = "builtin:tiny_clip"
    config.classifier.templates = SIMPLE
    config.synthetic.per_class = _EMBEDDED_PER_CLASS
    config.training.batch_size = _EMBEDDED_BATCH
    config.training.base_steps = steps(_EMBEDDED_CLASSES * _EMBEDDED_PER_CLASS, _EMBEDDED_BATCH)
    # A real image to sixteen synthetic ones, as in the paper's 32 + 512.
    config.recipes.tuned_mix = ({**config.recipes.tuned_mix[0], "batch_size": 17 * _EMBEDDED_BATCH // 16},)
    return config


def add_sentences(config: ConfigDict) -> None:
    """Gives a config of `paper_config` the set `SENTENCES`, of language enhancement, and the classifier that filters.

    The paper's sentences come from a T5 that was fine-tuned on CommonGen, 200 for each class. The embedded task has a file of
    them, another task with the embedded models several templates.
    """
    data = next((name for name, data in DATA_SETS.items() if config.task.source == f"task:{data.name}"), None)
    prompts: dict[str, object] = {"template": template_list("imagenet")}
    if config.task.source == "builtin:tux_photos":
        prompts = {"source": "builtin:tux_photos"}
    elif data is not None:
        prompts = {"source": f"t5:{T5}", "sentences": 200, "sentence_template": SENTENCE_TEMPLATES.get(data, "a photo of {}")}
    config.synthetic_sets[SENTENCES] = {"prompts": prompts}
    config.filter.classifier = config.classifier.weights
    config.filter.template = config.classifier.templates


def add_guidance(config: ConfigDict) -> None:
    """Gives a config of `paper_config` the set `GUIDED`, which starts from the shots, and the arm `tuned_mix_guided`."""
    config.synthetic_sets[GUIDED] = {"synthetic": {"real_guidance": "paper"}}
    config.recipes.tuned_mix_guided = ({**config.recipes.tuned_mix[0], "synthetic_set": GUIDED},)


def add_other_classes(config: ConfigDict) -> None:
    """Gives a config of `paper_config` the set `OTHERS` of other classes than the task's: in full, ImageNet's."""
    config.synthetic_sets[OTHERS] = {"synthetic": {"class_names": "task:imagenet" if is_full(config) else OTHER_NAMES}}


def add_few_shot_arms(config: ConfigDict) -> None:
    """Sets the arms of the few-shot figures in a config of `paper_config`; all that train take as many steps.

    The filter keeps half of the images, and the phases are half as long as `tuned_mix` each.
    """
    add_guidance(config)
    kept = f"real_top:{config.synthetic.per_class // 2}"
    config.recipes.tuned_mix_filtered = ({**config.recipes.tuned_mix[0], "synthetic_filter": (kept,)},)
    for name, phases in (("synthetic_then_real", "tuned_synthetic_real"), ("real_then_synthetic", "tuned_real_synthetic")):
        config.recipes[name] = tuple({**stage, "length": 0.5} for stage in config.recipes[phases])
    others = ("zero_shot", "linear_probe", "tuned_real", "tip_adapter", "tip_adapter_f", "coop")
    mixed = ("tuned_mix", "tuned_mix_filtered", "tuned_mix_guided")
    config.arms = (*others, *mixed, "synthetic_then_real", "real_then_synthetic")
    config.study.baseline = "tuned_real"


def steps(images: int, batch_size: int) -> int:
    """Returns `training.base_steps` for so many synthetic images: the paper's 30 passes."""
    return max(1, round(EPOCHS * images / batch_size))


def is_full(config: ConfigDict) -> bool:
    """Returns whether a config of `paper_config` is of full size."""
    return any(config.task.source == f"task:{data.name}" for data in DATA_SETS.values())


def shots(config: ConfigDict) -> Sequence[int]:
    """Returns the counts of shots of the few-shot figures; some embedded classes have too few images for 16."""
    return (1, 2, 4, 8, 16) if is_full(config) else (1, 2, 4, 8)
