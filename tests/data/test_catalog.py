"""Tasks of the catalogue: the tables against TFDS's own label names, and loading from folders written with its features."""

from __future__ import annotations

import dataclasses
import importlib
import socket

import numpy as np
import pytest
from pictures import encoded, picture
from prepared import write_prepared

from bridgejax.data import load_task
from bridgejax.data.catalog import TASKS, find_task, metric_of, spoken_names, task_of_tfds
from bridgejax.data.images import decode_rgb
from bridgejax.errors import UserError
from bridgejax.prompts import check_class_names, check_templates

FILES = {
    "caltech101": "image_classification/caltech101_labels.txt",
    "dtd": "image_classification/dtd_key_attributes.txt",
    "food101": "image_classification/food-101_classes.txt",
    "sun397": "image_classification/sun397_labels.txt",
    "imagenet": "datasets/imagenet2012/labels.txt",
    "imagenet_r": "datasets/imagenet2012/labels.txt",
    "imagenet_sketch": "datasets/imagenet2012/labels.txt",
}
LISTS = {
    "cars": ("image_classification.cars196", "_NAMES"),
    "eurosat": ("image_classification.eurosat", "_LABELS"),
    "flowers102": ("datasets.oxford_flowers102.oxford_flowers102_dataset_builder", "_NAMES"),
    "pets": ("datasets.oxford_iiit_pet.oxford_iiit_pet_dataset_builder", "_LABEL_CLASSES"),
}


def recorded_names(name: str) -> list[str]:
    """The label names that the installed TFDS gives a set."""
    from bridgejax.data.tensorflow import import_tfds

    tfds = import_tfds()
    if name in FILES:
        return [line for line in tfds.core.tfds_path(FILES[name]).read_text().split("\n") if line.strip()]
    module, attribute = LISTS[name]
    return list(getattr(importlib.import_module(f"tensorflow_datasets.{module}"), attribute))


@pytest.fixture
def offline(monkeypatch):
    """Any attempt to reach another machine fails the test."""

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_every_task_has_its_names_and_counts():
    assert len(TASKS) == 18
    for name, task in TASKS.items():
        assert task.name == name
        assert len(check_class_names(task.class_names)) == task.classes, name
        check_templates(task.template)
        assert task.metric in ("top-1", "mean per class")
        assert min(task.images if task.train else task.images[1:]) >= task.classes
        assert sum((task.tfds is not None, task.archive is not None, name == "birdsnap")) == 1


@pytest.mark.parametrize("name", sorted({*FILES, *LISTS}))
def test_the_tables_hold_the_label_names_of_tfds_in_their_order(name):
    recorded = recorded_names(name)
    assert list(find_task(name).table) == recorded
    turned = recorded[::-1]
    assert spoken_names(find_task(name), turned) == [find_task(name).table[key] for key in turned]


@pytest.mark.parametrize(
    ("name", "recorded", "spoken"),
    [
        ("food101", "cheese_plate", "cheese plate"),
        ("sun397", "/j/jail/indoor", "jail indoor"),
        ("caltech101", "faces_easy", "person's face"),
        ("pets", "german_shorthaired", "German Shorthaired Pointer"),
        ("eurosat", "HerbaceousVegetation", "brushland or shrubland"),
        ("imagenet", "n02123045", "tabby cat"),
        ("imagenet_r", "n01443537", "goldfish"),
        ("imagenet_r", "n01440764", ""),  # tench
        ("dogs", "n02113978", "Mexican hairless dog (xoloitzcuintli)"),
        ("cub200", "001.Black_footed_Albatross", "Black-footed Albatross"),
        ("aircraft", "F-16A/B", "General Dynamics F-16A/B"),
        ("birdsnap", "Bewicks_Wren", "Bewick's Wren"),
        ("caltech256", "063.electric-guitar-101", "electric guitar"),
    ],
)
def test_a_class_is_called_what_a_person_calls_it(name, recorded, spoken):
    assert find_task(name).table[recorded] == spoken


def test_labels_that_are_not_the_tasks_are_refused():
    dogs = find_task("dogs")
    assert spoken_names(dogs, [f"{key}-some_breed" for key in dogs.table]) == list(dogs.class_names)
    assert spoken_names(dogs, list(map(str, range(120)))) == list(dogs.class_names)
    assert spoken_names(dogs, list(map(str, range(119)))) is None
    assert spoken_names(dogs, ["cat", *list(dogs.table)[1:]]) is None
    with pytest.raises(UserError, match="did you mean 'flowers102'"):
        load_task("task:flowers")
    assert task_of_tfds("sun397/standard-part1-120k:4.0.0") is find_task("sun397")
    assert task_of_tfds("sun397") is find_task("sun397")
    for other in ("sun397/tfds", "visual_domain_decathlon/dtd", "dtd/dtd:3.0.1"):
        assert task_of_tfds(other) is None


def first_pixels(examples):
    return np.array([decode_rgb(image)[0, 0] for image in examples.images])


def test_flowers_join_train_and_validation_and_keep_the_test_part(tmp_path, offline):
    folder = write_prepared(
        tmp_path, "oxford_flowers102", "2.1.1", {"train": 2, "test": 3, "validation": 1}, recorded_names("flowers102")
    )
    set_of_tfds = "tfds:oxford_flowers102"
    for source in ("task:flowers102", set_of_tfds, f"{set_of_tfds}:2.1.1", f"{set_of_tfds}/2.1.1", f"tfds:{folder}"):
        task = load_task(source, data_dir=tmp_path)
        assert (task.name, metric_of(source)) == ("flowers102", "mean per class")
        assert task.class_names == find_task("flowers102").class_names
        assert (len(task.train), len(task.test), task.validation) == (3 * 102, 3 * 102, None)
        assert len({*task.train.ids, *task.test.ids}) == 6 * 102
    pixels = first_pixels(task.train)
    np.testing.assert_array_equal(pixels[:, 1], task.train.labels)  # each image still has its own class
    assert set(pixels[:, 2]) == {0, 2}
    assert set(first_pixels(task.test)[:, 2]) == {1}
    part = load_task("task:flowers102", data_dir=tmp_path, class_names=["rose", "pink-yellow dahlia?"], shots=3)
    assert part.class_names == ("rose", "pink and yellow dahlia")
    np.testing.assert_array_equal(part.test.counts(2), 3)
    assert set(first_pixels(part.test)[:, 1]) == {
        recorded_names("flowers102").index(n) for n in ("rose", "pink-yellow dahlia?")
    }


def test_a_set_without_label_names_takes_them_by_position(tmp_path, offline):
    from bridgejax.data.tensorflow import import_tfds

    tfds = import_tfds()
    mask = tfds.features.Image(shape=(None, None, 1))
    extra = {
        "label_name": (tfds.features.Text(), "x"),
        "segmentation_mask": (mask, np.zeros((8, 8, 1), np.uint8)),
        "image/filename": (tfds.features.Text(), "x.jpg"),
    }
    write_prepared(tmp_path, "caltech_birds2011", "0.2.0", {"train": 1, "test": 1}, 200, extra=extra)
    task = load_task("task:cub200", data_dir=tmp_path)
    assert task.class_names[int(task.train.labels[5])] == find_task("cub200").class_names[first_pixels(task.train)[5, 1]]
    assert len(task.test) == 200


def test_the_background_class_is_left_out(tmp_path, offline):
    write_prepared(tmp_path, "caltech101", "3.0.2", {"train": 1, "test": 1}, recorded_names("caltech101"))
    task = load_task("task:caltech101", data_dir=tmp_path)
    background = recorded_names("caltech101").index("background_google")
    assert len(task.class_names) == len(task.test) == 101
    assert background not in first_pixels(task.train)[:, 1]
    assert task.class_names[-1] == "yin and yang symbol"


def test_one_split_is_cut_where_the_catalogue_says_and_configs_are_found(tmp_path, offline, monkeypatch):
    published = find_task("eurosat")
    assert (published.train, published.test) == ("train[:21600]", "train[21600:]")
    monkeypatch.setitem(TASKS, "eurosat", dataclasses.replace(published, train="train[:200]", test="train[200:]"))
    write_prepared(tmp_path, "eurosat", "2.0.0", {"train": 30}, recorded_names("eurosat"), config="rgb")
    for source in ("task:eurosat", "tfds:eurosat", "tfds:eurosat:2.0.0", "tfds:eurosat/rgb/2.0.0"):
        task = load_task(source, data_dir=tmp_path)
        assert (len(task.train), len(task.test)) == (200, 100)
        assert (task.name, task.class_names, metric_of(source)) == ("eurosat", published.class_names, "top-1")
    assert len({*task.train.ids, *task.test.ids}) == 300
    assert len({image for part in (task.train, task.test) for image in part.images}) == 300
    np.testing.assert_array_equal(first_pixels(task.test)[:, 1], task.test.labels)


def test_a_name_without_config_means_that_of_the_catalogue(tmp_path, offline):
    with pytest.raises(UserError, match=r"tfds\.builder\('sun397/standard-part1-120k:4\.0\.0'"):
        load_task("tfds:sun397:4.0.0", data_dir=tmp_path)
    write_prepared(tmp_path, "sun397", "4.0.0", {"train": 2, "test": 1}, ["a", "b"], config="tfds")
    other = load_task("tfds:sun397", data_dir=tmp_path)  # what is there is read as what it is
    assert (other.name, other.class_names) == ("sun397", ("a", "b"))
    write_prepared(tmp_path, "sun397", "4.0.0", {"train": 1, "test": 1}, recorded_names("sun397"), config="standard-part1-120k")
    assert load_task("tfds:sun397", data_dir=tmp_path).name == "sun397"
    assert len(load_task("tfds:sun397", data_dir=tmp_path).class_names) == 397
    assert load_task("tfds:sun397/tfds", data_dir=tmp_path).class_names == ("a", "b")


def test_array_record_data_loads_too(tmp_path, offline):
    splits = {"train": 1, "validation": 1, "test": 1}
    write_prepared(tmp_path, "dtd", "3.0.1", splits, recorded_names("dtd"), file_format="array_record")
    task = load_task("task:dtd", data_dir=tmp_path)
    assert (len(task.train), len(task.test)) == (94, 47)
    np.testing.assert_array_equal(first_pixels(task.train)[:, 1], task.train.labels)


def test_absent_data_names_the_command_that_prepares_it(tmp_path, offline):
    for name, words in (
        ("flowers102", r"tfds\.builder\('oxford_flowers102', data_dir='.*'\)\.download_and_prepare\(\)"),
        ("sun397", r"tfds\.builder\('sun397/standard-part1-120k'"),
        ("imagenet", r"downloads/manual"),
        ("aircraft", r"curl -L https://www\.robots.* tar -xzf - -C .*fgvc-aircraft-2013b"),
        ("caltech256", r"curl -L https://data\.caltech\.edu.* tar -xf - -C "),
        ("birdsnap", r"birdsnap/train and /test"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            load_task(f"task:{name}", data_dir=tmp_path)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_data_of_another_version_or_another_set_is_named(tmp_path, offline):
    names = recorded_names("pets")
    write_prepared(tmp_path, "oxford_iiit_pet", "3.2.0", {"train": 1, "test": 1}, names)
    with pytest.raises(
        UserError, match=r"version 4\.x\.x of oxford_iiit_pet, but .* has 3\.2\.0.*tfds:oxford_iiit_pet:3\.2\.0"
    ):
        load_task("task:pets", data_dir=tmp_path)
    assert len(load_task("tfds:oxford_iiit_pet:3.2.0", data_dir=tmp_path).class_names) == 37
    write_prepared(tmp_path, "oxford_iiit_pet", "4.0.0", {"train": 1}, names)
    with pytest.raises(UserError, match=r"has no split named 'test'"):
        load_task("task:pets", data_dir=tmp_path)
    write_prepared(tmp_path, "oxford_iiit_pet", "4.0.1", {"train": 1, "test": 2}, names)
    write_prepared(tmp_path, "oxford_iiit_pet", "5.0.0", {"train": 3, "test": 3}, names)
    assert len(load_task("task:pets", data_dir=tmp_path).test) == 2 * 37  # the newest of the version that the task is of
    write_prepared(tmp_path, "stanford_dogs", "0.2.0", {"train": 2, "test": 1}, ["cat", "dog", "emu"])
    with pytest.raises(UserError, match=r"has 3 classes, but task:dogs is a set of 120"):
        load_task("task:dogs", data_dir=tmp_path)
    # By its TFDS name it is what it is.
    assert load_task("tfds:stanford_dogs", data_dir=tmp_path).class_names == ("cat", "dog", "emu")


def test_a_list_of_names_of_another_length_is_named(tmp_path, offline):
    write_prepared(tmp_path, "my_digits", "1.0.0", {"train": 2, "test": 1}, 3)
    named = load_task("tfds:my_digits", data_dir=tmp_path, class_names=["zero", "one", "two"])
    assert named.class_names == ("zero", "one", "two")
    np.testing.assert_array_equal(first_pixels(named.test)[:, 1], named.test.labels)
    with pytest.raises(UserError, match=r"has 3 classes, but task\.class_names lists 2; give 3 names"):
        load_task("tfds:my_digits", data_dir=tmp_path, class_names=["zero", "one"])
    assert load_task("tfds:my_digits", data_dir=tmp_path, class_names=["2", "0"]).class_names == ("2", "0")
    write_prepared(tmp_path, "cifar10", "3.0.2", {"train": 1, "test": 1}, list(find_task("cifar10").table))
    with pytest.raises(UserError, match=r"'dgo', which is not a class of task:cifar10.*did you mean 'dog'"):
        load_task("task:cifar10", data_dir=tmp_path, class_names=["cat", "dgo"])


def save(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(number), "JPEG"))


def test_aircraft_is_read_from_its_archive(tmp_path, offline):
    root = tmp_path / "fgvc-aircraft-2013b" / "data"
    variants = list(find_task("aircraft").table)
    for number, split in enumerate(("trainval", "test")):
        lines = []
        for label, variant in enumerate(variants):
            save(root / "images" / f"{number}{label:04d}.jpg", label)
            lines.append(f"{number}{label:04d} {variant}\n")
        (root / f"images_variant_{split}.txt").write_text("".join(reversed(lines)))
    task = load_task("task:aircraft", data_dir=tmp_path)
    assert (len(task.train), len(task.test)) == (100, 100)
    assert task.class_names[0] == "Boeing 707-320"
    assert task.test.ids[3] == "data/images/10003.jpg"
    part = load_task("task:aircraft", data_dir=tmp_path, class_names=["Eurofighter Typhoon", "A380"])
    assert part.class_names == ("Eurofighter Typhoon", "Airbus A380")
    (root / "images_variant_test.txt").write_text("10000 747-8\n")
    with pytest.raises(UserError, match="'10000 747-8'"):
        load_task("task:aircraft", data_dir=tmp_path)


def test_caltech256_is_split_the_same_way_every_time(tmp_path, offline):
    root = tmp_path / "256_ObjectCategories"
    for key in ("056.dog", "198.spider"):
        for number in range(63):
            save(root / key / f"{key[:3]}_{number:04d}.jpg", number)
    (root / "198.spider" / "RENAME2").write_text("the archive holds such a file")
    save(root / "056.dog" / "greg" / "vision309" / "x.jpg", 0)
    options = {"data_dir": tmp_path, "class_names": ["dog", "spider"]}
    task, again = load_task("task:caltech256", **options), load_task("task:caltech256", seed=7, **options)
    np.testing.assert_array_equal(task.train.counts(2), 60)
    np.testing.assert_array_equal(task.test.counts(2), 3)
    assert task.test.ids == again.test.ids
    with pytest.raises(UserError, match=r"001\.ak47 has 0 images"):
        load_task("task:caltech256", data_dir=tmp_path)


def test_any_task_is_read_from_class_folders(tmp_path, offline):
    birds = find_task("birdsnap")
    for part in ("train", "test"):
        for number, (key, spoken) in enumerate(birds.table.items()):
            save(tmp_path / "birdsnap" / part / (key if number % 2 else spoken) / "1.jpg", number)
    task = load_task("task:birdsnap", data_dir=tmp_path)
    assert task.class_names == birds.class_names
    assert len(task.train) == 500
    (tmp_path / "birdsnap" / "test" / "Zone_tailed_Hawk" / "1.jpg").unlink()
    (tmp_path / "birdsnap" / "test" / "Zone_tailed_Hawk").rmdir()
    with pytest.raises(UserError, match=r"499 class folders, but task:birdsnap has 500"):
        load_task("task:birdsnap", data_dir=tmp_path)


def test_few_shot_draws_of_a_task_never_touch_its_test_part(tmp_path, offline):
    write_prepared(tmp_path, "cifar10", "3.0.2", {"train": 16, "test": 2}, list(find_task("cifar10").table))
    options = {"data_dir": tmp_path}
    whole = load_task("task:cifar10", **options)
    before: set[str] = set()
    for shots in (1, 2, 4, 8, 16):
        task = load_task("task:cifar10", shots=shots, seed=3, **options)
        np.testing.assert_array_equal(task.train.counts(10), shots)
        assert before <= set(task.train.ids)  # fewer shots are part of more
        before = set(task.train.ids)
        assert task.test.ids == whole.test.ids
    kept = load_task("task:cifar10", shots=4, seed=3, validation_per_class=1, **options)
    again = load_task("task:cifar10", shots=4, seed=3, validation_per_class=1, **options)
    np.testing.assert_array_equal(kept.train.counts(10), 3)
    np.testing.assert_array_equal(kept.validation.counts(10), 1)
    assert kept.digest == again.digest
    four = load_task("task:cifar10", shots=4, seed=3, **options)
    assert {*kept.train.ids, *kept.validation.ids} == set(four.train.ids)  # validation is of the shots, not beside them
    assert load_task("task:cifar10", shots=4, seed=4, **options).train.ids != four.train.ids
    for shots, validation in ((1, 1), (4, 4), (None, 16)):
        with pytest.raises(UserError, match=r"task\.validation_per_class|validation \(16\)") as caught:
            load_task("task:cifar10", shots=shots, validation_per_class=validation, **options)
        assert "\n" not in str(caught.value)


def test_a_task_that_only_tests_has_no_training_part(tmp_path, offline):
    write_prepared(tmp_path, "imagenet_r", "0.2.0", {"test": 1}, recorded_names("imagenet_r"), side=2)
    task = load_task("task:imagenet_r", data_dir=tmp_path)
    assert (len(task.train), task.validation, len(task.test), len(task.class_names)) == (0, None, 200, 200)
    names = list(find_task("imagenet_r").table)
    shown = [names[256 * int(high) + int(low)] for high, low in first_pixels(task.test)[:, :2]]
    assert [find_task("imagenet_r").table[name] for name in shown] == [task.class_names[k] for k in task.test.labels]
    with pytest.raises(UserError, match=r"images to test on alone; leave task\.shots at None"):
        load_task("task:imagenet_r", data_dir=tmp_path, shots=1)
    for name in ("goldfish", "hammerhead_shark"):
        folder = tmp_path / "other" / "imagenet_sketch" / "test" / name
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(encoded(picture(1)))
    chosen = {"class_names": ["goldfish", "hammerhead shark"], "data_dir": tmp_path / "other"}
    assert load_task("task:imagenet_sketch", **chosen).test.labels.tolist() == [0, 1]
