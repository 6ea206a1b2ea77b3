"""`bridgejax filter`, and arms that train on what a filter keeps."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bridgejax.cli import main
from bridgejax.synthesis import score_set
from tests.small_backbones import write_clip

NAMES = ("the number one", "zero", "zwölf & <b>2")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def made(config_file, tmp_path_factory):
    """A workdir with the synthetic set alone: 3 classes of 8 images."""
    workdir = tmp_path_factory.mktemp("made") / "work"
    assert main(["generate", "--config", str(config_file), "--workdir", str(workdir)]) == 0
    return workdir


def files_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(command, config_file, workdir, *options):
    return main([command, "--config", str(config_file), "--workdir", str(workdir), *options])


def test_a_set_is_scored_and_its_page_shows_what_is_kept(made, config_file, clip_folder, capsys):
    before = files_of(made / "synthetic")
    rule = ("--config.filter.rule=top:3", f"--config.filter.classifier={clip_folder}")
    assert run("filter", config_file, made, *rule) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(made / "filter.html")
    assert "9 of 24 images are kept by top:3" in lines[0]
    rows = {name: re.search(rf"^{re.escape(name)} +(\d+) +(\d+) ", "\n".join(lines), re.MULTILINE) for name in NAMES}
    assert all(row and row.groups() == ("3", "5") for row in rows.values())
    after = files_of(made / "synthetic")
    assert {name: after[name] for name in before} == before
    (column,) = (made / "synthetic" / "columns").glob("score-*.npz")
    scores = score_set(made / "synthetic", clip_folder)
    with np.load(column) as stored:
        np.testing.assert_array_equal(stored["value"], scores)
    page = (made / "filter.html").read_text()
    assert page.count("<img") == 3 * (3 + 4)
    assert "zwölf &amp; &lt;b&gt;2" in page
    assert f"{scores.max():.3f}" in page
    assert run("filter", config_file, made, *rule) == 0
    assert files_of(made / "synthetic") == after


def test_rules_follow_each_other(made, config_file, clip_folder, capsys):
    rules = "--config.filter.rule=top:6,real:-2,real_top:4,distinct:1"
    assert run("filter", config_file, made, rules, f"--config.filter.classifier={clip_folder}") == 0
    assert "12 of 24 images are kept by top:6, then real:-2, then real_top:4, then distinct:1" in capsys.readouterr().out
    assert {path.name.partition("-")[0] for path in (made / "synthetic" / "columns").iterdir()} >= {"score", "real", "earlier"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--config.filter.rule=above_chance",), "set filter.classifier to a CLIP folder"),
        (("--config.filter.rule=best",), "holds the rule 'best'"),
        (("--config.filter.rule=quota",), "give quota:NUMBER, a whole number of at least 1"),
        (("--config.filter.classifier=builtin:efficientnet_lite0",), "has 1000 classes, but the synthetic set has 3"),
        (("--config.filter.rule=real:2",), "the filter rule 'real:2' leaves no image of class 'the number one'"),
        (("--config.arms=vanilla",), "none of the config's arms uses synthetic images"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(made, config_file, capsys, options, message):
    if options[0].startswith("--config.arms"):
        options = (*options, "--config.filter.rule=distinct")
    assert run("filter", config_file, made, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_real_filtering_without_shots_is_said(tmp_path, tiny_generator, capsys):
    config = tmp_path / "names.py"
    config.write_text(
        "from bridgejax.config import default_config\n\n\ndef get_config(arg=None):\n    config = default_config()\n"
        f"    config.task.source = 'classes'\n    config.generator.weights = {str(tiny_generator)!r}\n"
        "    config.task.class_names = ('apple', 'cup')\n    config.generator.steps = 1\n    config.synthetic.per_class = 2\n"
        "    config.filter.rule = ('real',)\n    return config\n"
    )
    assert run("filter", config, tmp_path / "work") == 2
    assert "the filter rules 'real' and 'real_top' compare with real" in capsys.readouterr().err


@pytest.fixture(scope="module")
def filtered_config(config_file, clip_folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("filtered") / "filtered.py"
    file.write_text(
        config_file.read_text().replace(
            "    return config\n",
            f"    config.filter.classifier = {str(clip_folder)!r}\n"
            '    config.recipes.kept = ({"data": "synthetic", "synthetic_filter": ("quota:2", "real:-2")}, {"data": "real"})\n'
            '    config.arms = ("bridged", "kept")\n'
            "    config.study.seeds = 1\n"
            "    return config\n",
        )
    )
    return file


def test_an_arm_trains_on_what_its_filter_keeps_and_the_report_says_so(
    filtered_config, clip_folder, tmp_path, monkeypatch, capsys
):
    from bridgejax.training import driver

    seen = {}
    original = driver.RunDriver.stream_settings

    def noted(self, plan):
        settings = original(self, plan)
        if plan.stage.data == "synthetic":
            seen[self.recipe.name] = settings["sources"][0].ids
        return settings

    monkeypatch.setattr(driver.RunDriver, "stream_settings", noted)
    workdir = tmp_path / "work"
    assert run("run", filtered_config, workdir) == 0
    assert len(seen["bridged"]) == 24
    assert len(seen["kept"]) == 6
    scores = dict(zip(seen["bridged"], score_set(workdir / "synthetic", clip_folder), strict=True))
    for name in NAMES:
        kept = [i for i in seen["kept"] if i.startswith(f"{name}/")]
        dropped = [i for i in seen["bridged"] if i.startswith(f"{name}/") and i not in kept]
        assert len(kept) == 2
        assert min(scores[i] for i in kept) > 1 / 3 or min(scores[i] for i in kept) >= max(scores[i] for i in dropped)
    (figures,) = json.loads((workdir / "summary.json").read_text())["filters"]
    assert [each["kept"] for each in figures["classes"]] == [2, 2, 2]
    for page in ("report.html", "report.md"):
        assert "6 of 24 images are kept for kept by quota:2, then real:-2" in (workdir / page).read_text().replace("\\", "")
    results, runs = (workdir / "results.jsonl").read_bytes(), files_of(workdir)
    seen.clear()
    assert run("run", filtered_config, workdir) == 0
    assert not seen
    assert files_of(workdir) == runs
    # Another draw of what passes is another result; the arm without a filter stays.
    assert run("run", filtered_config, workdir, "--config.filter.template=a bad photo of a {}") == 0
    assert set(seen) == {"kept"}
    assert (workdir / "results.jsonl").read_bytes() != results
    (workdir / "filter_images.npz").write_bytes(b"PK")
    assert main(["report", "--workdir", str(workdir)]) == 2
    assert "filter_images.npz beside it is damaged" in capsys.readouterr().err
    # Without the arm, what its filter kept is no longer part of the report.
    assert run("run", filtered_config, workdir, "--config.arms=bridged") == 0
    assert json.loads((workdir / "summary.json").read_text())["filters"] == []


def test_a_filter_that_needs_scores_needs_a_classifier(filtered_config, tmp_path, capsys):
    assert run("run", filtered_config, tmp_path / "work", "--config.filter.classifier=None") == 2
    assert "recipes.kept[0].synthetic_filter has the rule 'quota:2'" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
