"""Sentences of files: forms, flags, what is refused; those that come with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridgejax.data import load_task
from bridgejax.errors import UserError
from bridgejax.files import asset_folder
from bridgejax.models.tokenizer import Tokenizer
from bridgejax.prompts.sentences import distinct, names_class, read_sentences

CLASSES = ("bird", "road_sign")


@pytest.mark.parametrize(
    ("text", "name", "named"),
    [
        ("A red Bird on a tree", "bird", True),
        ("two birds", "bird", True),
        ("boxes", "box", True),
        ("a birdhouse", "bird", False),
        ("a robin", "bird", False),
        ("an old road sign.", "road_sign", True),
        ("Road-signs", "road sign", True),
        ("a sign on the road", "road sign", False),
        ("a St. Bernard", "St. Bernard", True),
        ("日本の犬", "犬", False),
    ],
)
def test_a_sentence_is_flagged_unless_its_class_stands_in_it_as_words(text: str, name: str, named: bool):
    assert names_class(text, name) is named


def test_sentences_are_made_tidy_and_distinct():
    texts = ["a  bird ", "a bird", "", "a\tbird\n", "x" * 500, "a bell\x07", "A bird"]
    assert distinct(texts) == ["a bird", "A bird"]
    assert distinct(texts, known=["a bird"]) == ["A bird"]


@pytest.mark.parametrize("name", ["rows.jsonl", "lines.txt"])
def test_both_forms_of_a_file_are_read(tmp_path: Path, name: str):
    rows = [
        ("bird", "a bird in a tree"),
        ("road sign", "a sign"),
        ("bird", "a bird in a  tree"),
        ("cat", "a cat"),
        ("bird", "it"),
    ]
    lines = ["# a comment", "", "seen with {}", *(f"{name}\t{text}" for name, text in rows)]
    if name == "rows.jsonl":
        lines = [json.dumps({"class": name, "sentence": text, "note": 1}) for name, text in rows]
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    found = read_sentences(tmp_path / name, CLASSES, most=200)
    everywhere = () if name == "rows.jsonl" else ("seen with bird",)
    assert found["bird"] == (*everywhere, "a bird in a tree", "it")
    assert found["road_sign"][-1] == "a sign"
    assert read_sentences(tmp_path / name, CLASSES, most=1)["bird"] == found["bird"][:1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"cannot be read \(No such file or directory\); check prompts\.source"),
        ("bird\tx\nroad signs\ty", r"no sentence for class 'road_sign'; add some, .* did you mean 'road signs'"),
        ("", r"no sentence for class 'bird' and 1 more; add some"),
        ("bird\t \nroad sign\ty", "no sentence for class 'bird'"),
        ("a bird", r"line 1: 'a bird' does not say its class; a line is a JSON object"),
        ('bird\tx\n{"class": "bird"', "line 2: it is not JSON"),
        ('{"class": "bird", "sentence": 3}', "line 1: class and sentence should be texts"),
    ],
)
def test_a_file_that_does_not_serve_is_told(tmp_path: Path, content: str | None, told: str):
    file = tmp_path / "sentences.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=told):
        read_sentences(file, CLASSES, most=10)


def test_the_built_in_sentences_serve_the_built_in_task_and_its_generator():
    classes = load_task("builtin:tux_photos").class_names
    found = read_sentences("builtin:tux_photos", classes, most=1000)
    tokenizer = Tokenizer(asset_folder("tiny_diffusion") / "tokenizer", 77)
    for name, texts in found.items():
        assert len(texts) >= 20
        assert all(names_class(text, name) for text in texts)
        starts = {text.split(",")[0] for text in texts}
        assert len(starts) == len(texts)
        ids = tokenizer([f"a photo of {text}" for text in texts])  # words of the vocabulary take few tokens
        assert ((ids != tokenizer.end_id).sum(axis=1) <= 24).all()
    with pytest.raises(UserError, match=r"no built-in sentences 'builtin:tux'; did you mean 'builtin:tux_photos'"):
        read_sentences("builtin:tux", classes, most=10)
