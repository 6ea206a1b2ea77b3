"""`prompts.source` from the command line: which prompts images get, what makes another set, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridgejax.cli import main
from bridgejax.synthesis import open_set
from tests.prompts.answering_server import answering, completion
from tests.small_language_model import V1_1, write_language_model

CLASSES = ["--config.task.source=classes", "--config.task.class_names=red_apple,cup"]


def _generate(config_file: Path, workdir: Path, source: str, *changed: str, per_class: int = 5) -> int:
    options = [f"--config.prompts.source={source}", f"--config.synthetic.per_class={per_class}", "--config.generator.steps=1"]
    return main(["generate", "--config", str(config_file), "--workdir", str(workdir), *CLASSES, *options, *changed])


def _prompts(workdir: Path) -> dict[str, list[str]]:
    """The prompts of each class, by index."""
    found: dict[str, list[str]] = {}
    for row in open_set(workdir / "synthetic"):
        found.setdefault(row["class_name"], []).append(row["prompt"])
    return found


def _file(folder: Path, text: str = "on a tree") -> Path:
    file = folder / "sentences.jsonl"
    rows = [
        ("red apple", f"a red apple {text}"),
        ("red apple", "an apple"),
        ("cup", "one cup"),
        ("red apple", "apples in a box"),
    ]
    file.write_text("".join(json.dumps({"class": name, "sentence": sentence}) + "\n" for name, sentence in rows))
    return file


def test_image_i_takes_sentence_i_of_its_class_in_rotation(config_file: Path, tmp_path: Path, capfd):
    source = f"file:{_file(tmp_path)}"
    assert _generate(config_file, tmp_path / "work", source) == 0
    three = ["a photo of a red apple on a tree", "a photo of an apple", "a photo of apples in a box"]
    assert _prompts(tmp_path / "work") == {"red_apple": [*three, *three[:2]], "cup": ["a photo of one cup"] * 5}
    digest = open_set(tmp_path / "work" / "synthetic").digest
    # The same again is only verified; other sentences are another set.
    assert _generate(config_file, tmp_path / "work", source) == 0
    capfd.readouterr()
    _file(tmp_path, "on a table")
    assert _generate(config_file, tmp_path / "work", source) == 2
    assert "holds another synthetic set (variants is" in capfd.readouterr().err
    assert _generate(config_file, tmp_path / "other", source, "--config.prompts.sentence_template={}") == 0
    assert _prompts(tmp_path / "other")["red_apple"][0] == "a red apple on a table"
    assert open_set(tmp_path / "other" / "synthetic").digest != digest


def test_a_further_set_can_have_sentences_of_its_own(config_file: Path, tmp_path: Path):
    config = tmp_path / "config.py"
    change = f"    config.synthetic_sets.told = {{'prompts': {{'source': 'file:{_file(tmp_path)}'}}}}\n"
    change += "    config.recipes.told = ({'data': 'synthetic', 'synthetic_set': 'told', 'length': 1.0},)\n"
    change += "    config.arms = ('bridged_plus_plus', 'told')\n    return config\n"
    config.write_text(config_file.read_text().replace("    return config\n", change))
    assert _generate(config, tmp_path / "work", "template", per_class=1) == 0
    assert _prompts(tmp_path / "work")["cup"] == ["a photo of a cup"]
    prompts = [row["prompt"] for row in open_set(tmp_path / "work" / "synthetic_sets" / "told")]
    assert prompts == ["a photo of a red apple on a tree", "a photo of one cup"]


def test_sentences_of_a_t5_folder_are_kept_in_the_workdir(config_file: Path, tmp_path: Path):
    folder = write_language_model(tmp_path / "t5", **V1_1)
    options = ["--config.prompts.sentences=3", "--config.prompts.max_tokens=6"]
    assert _generate(config_file, tmp_path / "work", f"t5:{folder}", *options) == 0
    (file,) = (tmp_path / "work" / "sentences").iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    for name, prompts in _prompts(tmp_path / "work").items():
        kept = [f"a photo of {row['sentence']}" for row in rows if row["class"] == name][:3]
        assert prompts == [*kept, *kept[:2]]
    # The workdir can be made again from what is kept.
    assert _generate(config_file, tmp_path / "again", f"file:{file}", *options) == 0
    assert _prompts(tmp_path / "again") == _prompts(tmp_path / "work")


def test_an_endpoint_that_fails_half_way_is_continued_by_the_same_command(
    config_file: Path, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    options = ["prompts.sentences=2", "prompts.endpoint_model=m", "prompts.endpoint_retries=0", "prompts.endpoint_rate=100000"]
    options = [f"--config.{option}" for option in options]

    def answer(number: int, body: dict):
        return (500, b"", {}) if number == 1 else completion(f"first {number}", f"second {number}")

    with answering(answer) as (url, requests):
        assert _generate(config_file, tmp_path / "work", f"endpoint:{url}", *options) == 2
        told = capfd.readouterr().err.splitlines()[-1]
        assert "was asked once and answered with status 500; 2 sentences (1 of 2 classes) are kept in" in told
        assert not (tmp_path / "work" / "synthetic").exists()
        assert _generate(config_file, tmp_path / "work", f"endpoint:{url}", *options) == 0
        assert len(requests) == 3
    prompts = _prompts(tmp_path / "work")
    assert prompts["red_apple"][:3] == ["a photo of first 0", "a photo of second 0", "a photo of first 0"]
    assert prompts["cup"][1] == "a photo of second 2"
    # With all sentences there, the endpoint is not asked again.
    assert _generate(config_file, tmp_path / "work", f"endpoint:{url}", *options) == 0


@pytest.mark.parametrize(
    ("source", "changes", "told"),
    [
        ("file:/no/such.jsonl", (), "/no/such.jsonl cannot be read"),
        ("builtin:tux_photos", (), "has no sentence for class 'red_apple' and 1 more; give file:PATH of your own"),
        ("builtin:cats", (), "no built-in sentences 'builtin:cats'"),
        ("t5:/no/such", (), "there is no language model folder /no/such"),
        ("endpoint:nowhere", (), "is no address"),
        ("sentences.txt", (), "prompts.source is 'sentences.txt'"),
        ("file:x", ("prompts.variants.cup=mug,",), "but prompts.variants fills them too"),
        ("file:x", ("inversion.mode='word'",), "but inversion.mode fills them too"),
        ("template", ("prompts.sentence_template=a photo",), "prompts.sentence_template 'a photo' has no {}"),
        ("template", ("prompts.question=what",), "prompts.question 'what' has no {}"),
    ],
)
def test_a_wrong_source_is_told_before_anything_is_written(
    config_file: Path, tmp_path: Path, capfd, source: str, changes: tuple[str, ...], told: str
):
    assert _generate(config_file, tmp_path / "work", source, *(f"--config.{change}" for change in changes)) == 2
    errors = capfd.readouterr().err
    assert told in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "work").exists()


def test_an_incomplete_t5_folder_is_told_before_anything_is_written(config_file: Path, tmp_path: Path, capfd):
    folder = write_language_model(tmp_path / "t5")
    (folder / "tokenizer.json").unlink()
    assert _generate(config_file, tmp_path / "work", f"t5:{folder}") == 2
    assert "holds no tokenizer; expected tokenizer.json or spiece.model" in capfd.readouterr().err
    assert not (tmp_path / "work").exists()
