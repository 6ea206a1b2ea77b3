"""Configs of published classifiers: how images are made ready, and what the outputs mean, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import small_backbones
from flax import nnx
from PIL import Image

from bridgejax.errors import UserError
from bridgejax.models import load_classifier, reset_head, save_classifier
from bridgejax.models.label_names import name_head
from bridgejax.training.teachers import load_teacher

MEAN, STD = np.asarray(small_backbones.MEAN), np.asarray(small_backbones.STD)
NAMES = ("tench", "crane", "crane", "café", "LABEL_4")  # as ImageNet has it, a name may stand twice
TIMM = ("timm resnet", "timm vit", "timm deit")
TRANSFORMERS = ("transformers resnet", "transformers vit", "transformers deit")


def load(folder: Path, kind: str = "transformers vit", preprocessor: dict | None = None, **config: object):
    """Loads a random classifier whose config and preprocessor file have further keys; None takes a key out."""
    small_backbones.write_config(kind, folder)
    for name, changes in (("config.json", config), ("preprocessor_config.json", preprocessor or {})):
        file = folder / name
        if changes and file.exists():
            content = {**json.loads(file.read_text()), **changes}
            file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return load_classifier(folder, pretrained=False)


def refused(folder: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SAME = {
    "nothing more": {},
    "all of an old file": {
        "feature_extractor_type": "ViTFeatureExtractor",
        "resample": 2,
        "do_resize": True,
        "do_normalize": True,
    },
    "all of a new file": {
        "image_processor_type": "ViTImageProcessor",
        "do_rescale": True,
        "rescale_factor": 0.00392156862745098,
    },
    "nulls of version 5": dict.fromkeys(["do_convert_rgb", "do_pad", "pad_size", "device", "data_format", "return_tensors"]),
    "steps that are off": {"do_flip_channel_order": False, "do_thumbnail": False, "do_align_long_axis": False, "do_pad": False},
    "pixels from 0 to 255": {"do_rescale": False, "image_mean": (255 * MEAN).tolist(), "image_std": (255 * STD).tolist()},
    "from -1 to 1 first": {"rescale_factor": 1 / 127.5, "image_mean": (2 * MEAN).tolist(), "image_std": (2 * STD).tolist()},
    "lists and numbers as sizes": {"size": [36, 36], "crop_size": 32},
    "a number as a size": {"size": 36},
    "the shortest edge": {"size": {"shortest_edge": 36}},
}


@pytest.mark.parametrize("keys", SAME)
def test_keys_that_say_the_same_in_another_way(tmp_path, keys):
    """The kind: spellings of one preprocessing, of every year; scale and offset are folded into mean and std."""
    made = load(tmp_path, preprocessor=SAME[keys]).preprocessing
    assert (made.size, made.crop) == (32, 32 / 36)
    np.testing.assert_allclose(made.mean, MEAN, rtol=1e-6)
    np.testing.assert_allclose(made.std, STD, rtol=1e-6)


FOLDED = {
    "rescaled to [-1, 1] alone": ({"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}, 0.5, 0.5),
    "a single number": ({"image_mean": 0.5, "image_std": 0.25}, 0.5, 0.25),
    "not normalised": ({"do_normalize": False, "image_mean": ...}, 0.0, 1.0),
    "neither": ({"do_normalize": False, "do_rescale": False}, 0.0, 1 / 255),
    "normalised without a rescale": ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}, 0.5, 0.5),
}


@pytest.mark.parametrize("keys", FOLDED)
def test_what_rescaling_and_normalising_come_to(tmp_path, keys):
    """The kind: any of the steps left out or with other factors."""
    changes, mean, std = FOLDED[keys]
    made = load(tmp_path, preprocessor=changes).preprocessing
    np.testing.assert_allclose([made.mean, made.std], [[mean] * 3, [std] * 3], rtol=1e-6)


# Each class of transformers, a kind of model that it belongs to, and the input and crop that a file without any options means.
CLASSES = {
    "SiglipImageProcessor": ("vit", 224, 1.0),
    "BitImageProcessor": ("vit", 224, 1.0),
    "CLIPImageProcessor": ("vit", 224, 1.0),
    "ViTImageProcessor": ("vit", 224, 1.0),
    "DeiTImageProcessor": ("deit", 224, 224 / 256),
    "BeitImageProcessor": ("vit", 224, 1.0),
    "ConvNextImageProcessor": ("resnet", 384, 1.0),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dropped", [None, "do_center_crop", "crop_pct", "do_rescale"])
def test_all_that_a_class_of_transformers_saves_is_read(tmp_path, name, dropped):
    """The kind: what the classes save, with the nulls and ending of their fast variants, or with a key left to the class."""
    import transformers

    kind, size, crop = CLASSES[name]
    saved = {**getattr(transformers, f"{name}Pil")().to_dict(), "image_processor_type": f"{name}Fast"}
    saved |= dict.fromkeys(("device", "data_format", "disable_grouping", "input_data_format", "return_tensors", "do_pad"))
    saved = {**saved, "image_seq_length": None, "default_to_square": True, "data_format": "channels_first"}
    saved.pop(dropped, None)
    whole = dict.fromkeys(("do_center_crop", "crop_size"), ...) | json.loads(json.dumps(saved))
    made = load(tmp_path, f"transformers {kind}", whole).preprocessing
    assert (made.size, made.crop) == (size, crop)
    np.testing.assert_allclose((made.mean, made.std), (saved["image_mean"], saved["image_std"]))


BY_CLASS = {
    "ConvNext without its crop": ({"image_processor_type": "ConvNextImageProcessor", "crop_size": ...}, 36, 0.875),
    "ConvNext with a null": ({"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": None}, 36, 0.875),
    "ViT, which is not asked to crop": ({"image_processor_type": "ViTImageProcessor", "do_center_crop": ...}, 36, 1.0),
    "ViT, which reads no crop_pct": ({"image_processor_type": "ViTImageProcessor", "crop_pct": 0.5}, 32, 32 / 36),
    "CLIP, which crops unasked": ({"image_processor_type": "CLIPImageProcessorFast", "do_center_crop": ...}, 32, 32 / 36),
}


@pytest.mark.parametrize("keys", BY_CLASS)
def test_the_class_that_a_file_names_says_what_keys_mean(tmp_path, keys):
    """The kind: keys that are absent or null, whose default each class has for itself, and keys that a class does not read."""
    changes, size, crop = BY_CLASS[keys]
    made = load(tmp_path, preprocessor=changes).preprocessing
    assert (made.size, made.crop) == (size, crop)


REFUSED = {
    "LevitImageProcessor": {"image_processor_type": "LevitImageProcessor"},
    "PoolFormerImageProcessor": {"feature_extractor_type": "PoolFormerFeatureExtractor", "crop_pct": 0.9},
    "do_flip_channel_order": {"do_flip_channel_order": True},
    "do_pad": {"do_pad": True},
    "do_thumbnail": {"do_thumbnail": True},
    "do_align_long_axis": {"do_align_long_axis": True},
    "include_top": {"include_top": True},
    "rescale_offset": {"rescale_offset": True},
    "do_grayscale": {"do_grayscale": True},
    "color_jitter": {"color_jitter": [0.4, 0.4]},
    "rescale_factor": {"rescale_factor": 0},
    "rescale_factor is '1/255'": {"rescale_factor": "1/255"},
    "do_resize": {"do_resize": False},
    "crop_size": {"crop_size": 48},
    "size": {"size": {"height": 32, "width": 64}},
    "longest_edge": {"size": {"longest_edge": 64}},
    "max_pixels": {"size": {"min_pixels": 64, "max_pixels": 640}},
    "image_mean": {"image_mean": [0.5, 0.5]},
    "std": {"image_std": [0.5, 0.5, 0.0]},
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_would_change_images_is_refused_by_name(tmp_path, key):
    """The kind: keys of other processors (Donut, EfficientNet, CLIPSeg, BEiT), sizes that are no square, wrong values."""
    words = refused(tmp_path, preprocessor=REFUSED[key])
    assert str(tmp_path / "preprocessor_config.json") in words
    assert key.split()[0].replace("longest_edge", "size").replace("max_pixels", "size").replace("image_mean", "list") in words


@pytest.mark.parametrize("name", ["CLIPForImageClassification", "SiglipForImageClassification"])
def test_an_image_tower_with_a_head_of_transformers_is_named(tmp_path, name):
    """The kind: models of one tower under the model_type of two."""
    folder = small_backbones.write_clip(tmp_path, name.split("For")[0].lower())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    with pytest.raises(UserError, match=f"{name} is not supported; .* a model of both towers"):
        load_classifier(folder, pretrained=False)


@pytest.mark.parametrize("change", [{"input_size": [3, 64, 48]}, {"input_size": [1, 64, 64]}, {"crop_mode": "border"}], ids=str)
def test_images_that_timm_makes_ready_in_another_way_are_refused(tmp_path, change):
    """The kind: timm's data options that are not read."""
    assert str(next(iter(change))) in refused(
        tmp_path, kind="timm resnet", pretrained_cfg={**small_backbones.PRETRAINED, **change}
    )
    load(tmp_path, kind="timm resnet", pretrained_cfg={**small_backbones.PRETRAINED, "crop_mode": "squash"})


@pytest.mark.parity
@pytest.mark.parametrize("keys", [*SAME, *FOLDED])
def test_pixels_are_made_ready_as_transformers_does(tmp_path, keys):
    """The kind: the same files read by transformers' processor of the class, on pixels of the size of the crop."""
    from transformers import DeiTImageProcessorPil

    changes = SAME.get(keys) or FOLDED.get(keys, ({},))[0]
    made = load(tmp_path, preprocessor=changes).preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    theirs = DeiTImageProcessorPil.from_pretrained(tmp_path, local_files_only=True)
    theirs.do_resize = theirs.do_center_crop = False
    wanted = np.asarray(theirs(Image.fromarray(pixels), return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
    ours = (pixels / 255.0 - np.asarray(made.mean)) / np.asarray(made.std)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


# -- what the outputs mean ---------------------------------------------------------------------------------------------------


def label_table(names: tuple[str, ...]) -> dict[str, object]:
    return {"id2label": {str(k): name for k, name in enumerate(names)}}


@pytest.mark.parametrize("kind", [*TIMM, *TRANSFORMERS])
def test_class_names_are_kept_both_ways(tmp_path, kind):
    """The kind: names of the outputs in each library's config, through load, save and load again."""
    named = {"label_names": list(NAMES)} if kind in TIMM else label_table(NAMES)
    model = load(tmp_path / "published", kind, **named)
    assert model.class_names == NAMES
    save_classifier(model, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["label_names"] == list(NAMES)) if kind in TIMM else (config["id2label"] == named["id2label"])
    again = load_classifier(tmp_path / "saved")
    assert again.class_names == NAMES
    assert load_classifier(tmp_path / "saved", num_classes=3).class_names == ()
    assert reset_head(again, 0, num_classes=2).class_names == ()


def test_every_place_and_form_of_names(tmp_path):
    """The kind: timm's list, table by index, older key and older place; transformers' numbers without names."""
    by_index = {str(number): name for number, name in reversed(list(enumerate(NAMES)))}
    for number, changes in enumerate(
        (
            {"label_names": by_index},
            {"labels": list(NAMES)},
            {"pretrained_cfg": {**small_backbones.PRETRAINED, "label_names": list(NAMES)}},
            {"pretrained_cfg": {**small_backbones.PRETRAINED, "labels": list(NAMES)}},
        )
    ):
        assert load(tmp_path / str(number), "timm resnet", **changes).class_names == NAMES
    bare = load(tmp_path / "bare", **label_table(tuple(f"LABEL_{k}" for k in range(5))))
    assert bare.class_names == ()
    save_classifier(bare, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["id2label"]["4"] == "LABEL_4"
    assert load(tmp_path / "unnamed", "timm resnet").class_names == ()
    lite = load_classifier("builtin:efficientnet_lite0", num_classes=2)
    lite.class_names = ("a", "b")
    save_classifier(lite, tmp_path / "lite")
    assert load_classifier(tmp_path / "lite").class_names == ("a", "b")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("transformers vit", {"id2label": {"1": "a", "2": "b"}}),
        ("transformers vit", {"id2label": {"0": "a", "x": "b"}}),
        ("transformers vit", {"id2label": {"0": 5, "1": "b"}}),
        ("timm resnet", {"label_names": ["a", "b"]}),
        ("timm resnet", {"label_names": "abcde"}),
    ],
    ids=str,
)
def test_names_that_do_not_fit_the_outputs(tmp_path, kind, changes):
    """The kind: tables with holes, other counts, and what is no text."""
    assert next(iter(changes)) in (words := refused(tmp_path, kind=kind, **changes)) or "names 2 classes" in words


def test_equal_counts_are_not_taken_for_equal_meaning(tmp_path):
    """The kind: a head of as many outputs as the task has classes, in another order or of other classes."""
    file = tmp_path / "saved"
    model = load(tmp_path / "published", "transformers resnet", **label_table(("a", "b", "c d", "é", "e")))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    logits = np.asarray(model(images))
    save_classifier(model, file)
    order = ("e", "c_D", "a", "e\u0301", "b")
    np.testing.assert_array_equal(np.asarray(name_head(load_classifier(file), order, 0)(images)), logits[:, [4, 2, 0, 3, 1]])
    teacher = load_teacher(str(file), order)
    np.testing.assert_allclose(teacher({"image": np.asarray(images)}), logits[:, [4, 2, 0, 3, 1]], rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="was trained on other classes"):
        load_teacher(str(file), ("a", "b", "c d", "é", "zebra"))
    other = name_head(load_classifier(file), ("v", "w", "x", "y", "z"), 0)
    assert other.class_names == ("v", "w", "x", "y", "z")
    assert not np.allclose(np.asarray(other(images)), logits)
    unnamed = load(tmp_path / "unnamed", "timm resnet")
    before = np.asarray(nnx.state(unnamed.head)["kernel"][...])
    np.testing.assert_array_equal(np.asarray(name_head(unnamed, order, 0).head.kernel[...]), before)


def test_training_keeps_the_names_of_the_task(tmp_path):
    """The kind: a classifier that `bridgejax train` leaves."""
    from bridgejax.cli import main

    for number, name in enumerate(("cat", "dog", "eel_fish")):
        (tmp_path / "task" / name).mkdir(parents=True)
        for image in range(4):
            Image.new("RGB", (16, 16), (60 * number, 20 * image, 90)).save(tmp_path / "task" / name / f"{image}.png")
    weights = small_backbones.write_backbone("transformers resnet", tmp_path / "weights")
    config = tmp_path / "config.py"
    config.write_text(
        "from bridgejax.config import default_config\n"
        "def get_config(arg=None):\n"
        "    config = default_config()\n"
        f"    config.task.source, config.classifier.weights = 'folder:{tmp_path / 'task'}', '{weights}'\n"
        "    config.task.shots, config.training.base_steps, config.training.batch_size = 2, 1, 4\n"
        "    config.classifier.image_size, config.training.evaluations = 32, 1\n"
        "    config.arms = ('vanilla',)\n"
        "    return config\n"
    )
    assert main(["train", "--config", str(config), "--workdir", str(tmp_path / "work"), "--recipe", "vanilla"]) == 0
    (saved,) = (tmp_path / "work").rglob("classifier/config.json")
    assert json.loads(saved.read_text())["id2label"] == {"0": "cat", "1": "dog", "2": "eel_fish"}
