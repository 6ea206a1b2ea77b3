"""`bridgejax invert`, and studies whose images are worded with what it learned."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from bridgejax.cli import main
from bridgejax.inversion.tokens import class_tokens

OPTIONS = {
    "steps": 30,
    "initial": "mean_feature",  # the test's tokenizer knows single bytes, so no word is one token
    "learning_rate": 0.02,
    "batch_size": 4,
    "evaluations": 2,
    "checkpoint_every": 5,
}


def _arguments(config_file: Path, workdir: Path, **options: object) -> list[str]:
    given = {**OPTIONS, **options}
    changes = [f"--config.inversion.{key}={value}" for key, value in given.items()]
    return ["--config", str(config_file), *changes, "--workdir", str(workdir)]


@pytest.fixture(scope="module")
def inverted(tmp_path_factory: pytest.TempPathFactory, config_file: Path, command) -> Path:
    """A workdir with a word of the data set, learned without a stop."""
    workdir = tmp_path_factory.mktemp("inverted") / "work"
    process = command("invert", *_arguments(config_file, workdir), "--seed", 1)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert output.strip() == str(workdir / "inversion" / "shots-2_seed-1")
    return workdir


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _without_machine(files: dict[str, bytes]) -> dict[str, object]:
    """Files, with the record freed of times and memory."""
    out: dict[str, object] = dict(files)
    for name in files:
        if name.endswith("inversion.json"):
            record = json.loads(files[name])
            record.pop("peak_bytes")
            record["words"] = [{k: v for k, v in word.items() if "seconds" not in k} for word in record["words"]]
            out[name] = record
    return out


def test_a_word_is_learned_from_the_shots_of_its_seed_alone(inverted, config_file):
    from bridgejax.config import Settings, load_config
    from bridgejax.studies.study_plan import plan_study

    folder = inverted / "inversion" / "shots-2_seed-1"
    record = json.loads((folder / "inversion.json").read_text())
    task = plan_study(Settings.of(load_config(str(config_file)))).task(2, 1)
    assert record["images"] == list(task.train.ids)
    assert len(record["images"]) == 6
    assert not {*record["images"]} & {*task.test.ids}
    (word,) = record["words"]
    assert word["steps"] == 30
    assert len(word["losses"]) == 30
    assert [step for step, _ in word["shots_loss"]] == [0, 15, 30]
    assert word["shots_loss"][-1][1] < word["shots_loss"][0][1]
    assert word["seconds_per_1000_steps"] > 0
    assert record["peak_bytes"]["host"] > 0
    assert sorted(_files(folder)) == [
        "inversion.json",
        "learned_embeds.safetensors",
        *(f"sheets/learned_embeds-step-{step:06d}.png" for step in (0, 15, 30)),
    ]
    with Image.open(folder / "sheets" / "learned_embeds-step-000030.png") as sheet:
        assert sheet.size == (5 * 100 + 4, 3 * 114 + 4)  # a row per class: a real image and four made ones
        assert np.asarray(sheet.convert("L")).std() > 5
    assert load_file(folder / "learned_embeds.safetensors")["<style>"].shape == (1, 32)


@pytest.mark.parity
def test_pytorch_diffusers_reads_the_word(inverted, tiny_generator):
    pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    folder = inverted / "inversion" / "shots-2_seed-1"
    theirs = StableDiffusionPipeline.from_pretrained(tiny_generator, safety_checker=None)
    theirs.load_textual_inversion(str(folder))
    number = theirs.tokenizer.convert_tokens_to_ids("<style>")
    assert number == len(theirs.tokenizer) - 1
    row = theirs.text_encoder.get_input_embeddings().weight[number].detach().numpy()
    np.testing.assert_array_equal(row, load_file(folder / "learned_embeds.safetensors")["<style>"][0])


def test_the_second_time_nothing_is_done(inverted, config_file, capsys):
    before = {path: path.stat().st_mtime_ns for path in inverted.rglob("*") if path.is_file()}
    assert main(["invert", *_arguments(config_file, inverted), "--seed", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in inverted.rglob("*") if path.is_file()} == before
    assert "invert:" not in capsys.readouterr().err


@pytest.mark.slow
def test_killed_again_and_again_it_learns_the_same_word(inverted, config_file, command, tmp_path):
    workdir = tmp_path / "work"
    folder = workdir / "inversion" / "shots-2_seed-1"
    for milestone in ("learned_embeds.checkpoint.npz", "sheets/learned_embeds-step-000015.png"):
        process = command("invert", *_arguments(config_file, workdir), "--seed", 1)
        limit = time.monotonic() + 300
        while not (folder / milestone).exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert not (folder / "inversion.json").exists()
    assert main(["invert", *_arguments(config_file, workdir), "--seed", "1"]) == 0
    assert _without_machine(_files(workdir)) == _without_machine(_files(inverted))


def test_a_word_for_each_class_comes_from_its_own_images(config_file, tmp_path):
    arguments = _arguments(config_file, tmp_path, mode="class", steps=2, vectors=2, evaluations=1)
    assert main(["invert", *arguments]) == 0
    folder = tmp_path / "inversion" / "shots-2_seed-0"
    words = json.loads((folder / "inversion.json").read_text())["words"]
    assert [word["token"] for word in words] == ["<style-the-number-one>", "<style-zero>", "<style-zw-lf-b-2>"]
    assert [word["images"] for word in words] == [2, 2, 2]
    for word in words:
        assert load_file(folder / word["file"])[word["token"]].shape == (2, 32)
    assert len(list(folder.glob("sheets/style-zero-step-*.png"))) == 2
    # Names that read alike are told apart, in any order.
    both = class_tokens("<s>", ["a b", "A-B"])
    assert len(set(both)) == 2
    assert class_tokens("<s>", ["A-B", "a b"]) == both[::-1]


def test_the_untrained_word_is_a_draw_from_the_vocabulary(config_file, tmp_path, tiny_generator):
    rows = []
    for seed in (0, 1):
        workdir = tmp_path / str(seed)
        arguments = _arguments(config_file, workdir, mode="untrained", vectors=30)
        assert main(["invert", *arguments, "--seed", str(seed)]) == 0
        folder = workdir / "inversion" / f"shots-2_seed-{seed}"
        rows.append(load_file(folder / "learned_embeds.safetensors")["<style>"])
        assert sorted(_files(folder)) == ["inversion.json", "learned_embeds.safetensors"]
    table = load_file(tiny_generator / "text_encoder" / "model.safetensors")
    (vocabulary,) = [array for name, array in table.items() if "token_embedding" in name]
    assert (rows[0] != rows[1]).all()
    for row in rows:
        assert row.std() == pytest.approx(vocabulary.std(), rel=0.1)


STUDY = ("--config.arms=bridged", "--config.synthetic.per_class=2")


@pytest.mark.slow
def test_a_study_makes_a_set_with_the_word_of_each_seed(config_file, command, tmp_path):
    workdir = tmp_path / "work"
    process = command("run", *_arguments(config_file, workdir, mode="dataset", steps=2), *STUDY)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    from bridgejax.synthesis import open_set

    digests = set()
    for seed in (0, 1):
        made = open_set(workdir / "synthetic" / f"shots-2_seed-{seed}")
        digests.add(made.digest)
        assert {record["prompt"] for record in made} == {
            f"A {name} photo in the style of <style>" for name in ("zero", "the number one", "zwölf & <b>2")
        }
        assert (workdir / "inversion" / f"shots-2_seed-{seed}" / "learned_embeds.safetensors").is_file()
    assert len(digests) == 2
    results = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    assert [result["seed"] for result in results] == [0, 1]
    assert "invert" in json.loads((workdir / "seconds.json").read_text())
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    assert main(["run", *_arguments(config_file, workdir, mode="dataset", steps=2), *STUDY]) == 0
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("mode", "prompt"), [("word", "A zero photo in the style of photo"), ("none", "A zero photo")])
def test_controls_without_a_new_word_share_one_set(config_file, tmp_path, mode, prompt):
    assert main(["generate", *_arguments(config_file, tmp_path, mode=mode), *STUDY]) == 0
    from bridgejax.synthesis import open_set

    assert prompt in {record["prompt"] for record in open_set(tmp_path / "synthetic")}
    assert not (tmp_path / "inversion").exists()


def test_class_words_stand_for_their_classes(config_file, tmp_path):
    arguments = _arguments(config_file, tmp_path, mode="class", steps=0)
    assert main(["generate", *arguments, *STUDY, "--config.study.seeds=1"]) == 0
    from bridgejax.synthesis import open_set

    for record in open_set(tmp_path / "synthetic" / "shots-2_seed-0"):
        assert record["prompt"] == f"A photo of a {class_tokens('<style>', [record['class_name']])[0]}"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"token": "a"}, "inversion.token 'a' collides with 'a' in the vocabulary"),
        ({"prompt": "a {class} photo"}, "has no {token}"),
        ({"prompt": "a {token} photo"}, "has no {class}"),
        ({"prompt": "a {token} {class}", "mode": "class"}, "holds {class}"),
        ({"initial": "photo"}, "inversion.initial 'photo' is 5 tokens"),
        ({"mode": "datset"}, "did you mean 'dataset'"),
        ({"mode": "none"}, "nothing is learned"),
        ({"steps": -1}, "inversion.steps"),
        ({"learning_rate": -1.0}, "inversion.learning_rate"),
        ({"token": "two words"}, "inversion.token"),
        ({"token": "../style", "mode": "class"}, "should be one word without spaces or slashes"),
        ({"token": "umb"}, "'umb' also stands in 'the number one'"),
        ({"prompt": "a {class} " + "long " * 80 + "{token}"}, "lies beyond the 77 tokens"),
        ({"mode": "class", "shots": 1}, "class 'the number one' has 1 training image to learn the token"),
    ],
)
def test_what_cannot_be_learned_is_told_in_a_sentence(config_file, tmp_path, capfd, options, told):
    workdir = tmp_path / "work"
    shots = options.pop("shots", 2)
    code = main(["invert", *_arguments(config_file, workdir, **options), f"--config.task.shots={shots}"])
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("bridgejax: ")]
    assert code == 2
    assert len(errors) == 1
    assert told in errors[0]
    assert not workdir.exists()


def test_a_rate_that_is_too_high_is_told(config_file, tmp_path, capfd):
    assert main(["invert", *_arguments(config_file, tmp_path / "work", learning_rate=1e30)]) == 2
    told = capfd.readouterr().err
    assert "the loss is nan at step" in told
    assert "learning rate 1e+30" in told
    assert "Traceback" not in told
    assert not list((tmp_path / "work").rglob("*.safetensors"))
