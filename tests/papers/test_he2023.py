"""The configs of He et al. 2023 load in every variant and hold to the paper's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgejax.config import Settings, load_config, to_plain
from bridgejax.errors import UserError
from bridgejax.papers import he2023 as paper
from bridgejax.papers.bridged_transfer import full_arguments
from bridgejax.recipes import recipe_from_config

FILES = sorted((Path(__file__).resolve().parents[2] / "configs" / "he2023").glob("*.py"))


def recipes(config):
    plain = to_plain(config)
    return {arm: recipe_from_config(arm, plain["recipes"], plain["training"]) for arm in config.arms}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_variant_loads_and_says_what_the_paper_gives(file):
    for argument in full_arguments(file):
        config = load_config(f"{file}:{argument}")
        assert paper.is_full(config)
        assert recipes(config)
    small = load_config(f"{file}:embedded")
    assert to_plain(load_config(str(file))) == to_plain(small)
    assert small.task.source == "builtin:tux_photos"
    assert set(small.arms) == set(config.arms) or file.stem == "volume"
    words = " ".join(file.read_text().split())
    assert "The paper" in words
    assert "not run" in words
    with pytest.raises(UserError, match="did you mean 'eurosat'"):
        load_config(f"{file}:eurosatt")


def test_eurosat_is_tuned_as_in_the_paper():
    config = load_config(f"{FILES[0].parent / 'zero_shot.py'}:eurosat")
    (stage,) = recipes(config)["tuned_synthetic"].stages
    assert stage.steps == round(30 * 10 * 800 / 512)
    assert (stage.optimizer, stage.learning_rate, stage.weight_decay, stage.schedule) == ("adamw", 0.002, 0.1, "cosine")
    assert (stage.clip_norm, stage.warmup_steps, stage.label_smoothing, stage.augment) == (1.0, 0, 0.0, False)
    assert (stage.loss, stage.soft_weight, stage.temperature, stage.teacher) == ("soft_target", 0.5, 2.0, "pretrained")
    assert (stage.trainable, stage.batch_norm, config.training.batch_size) == (("head",), "frozen", 512)
    assert config.classifier.templates == ("a centered satellite photo of {}.",)
    config = load_config(f"{FILES[0].parent / 'few_shot.py'}:eurosat")
    (stage,) = recipes(config)["tuned_mix"].stages
    assert (stage.learning_rate, stage.batch_size, stage.synthetic_share) == (0.001, 544, pytest.approx(512 / 544))
    assert (stage.synthetic_loss, stage.soft_images) == (0.5, "synthetic")
    assert tuple(config.study.shots) == (1, 2, 4, 8, 16)


def test_deit_is_trained_as_by_its_authors():
    config = load_config(f"{FILES[0].parent / 'table9_deit.py'}:cifar100")
    first, second = recipes(config)["others_random"].stages
    assert Settings.of(config).of_set(first.synthetic_set).synthetic.class_names == "task:imagenet"
    assert first.steps == round(300 * 1_200_000 / 1024)
    assert (first.optimizer, first.learning_rate, first.weight_decay, first.warmup_steps) == ("adamw", 0.001, 0.05, 5859)
    assert (first.mixup_alpha, first.cutmix_alpha, first.cutmix_share, first.label_smoothing) == (0.8, 1.0, 0.5, 0.1)
    assert (first.erasing, first.erasing_fill, first.randaugment, first.randaugment_layers) == (0.25, "pixel", 9.0, 2)
    assert (first.repeats, second.repeats) == (3, 1)
    assert (first.stochastic_depth, config.training.batch_size, config.synthetic.per_class) == (0.1, 1024, 12_000)
    assert (second.steps, second.batch_size) == (round(1000 * 50_000 / 768), 768)
