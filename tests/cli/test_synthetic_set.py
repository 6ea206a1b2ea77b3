"""What a finished study tells of its synthetic set when it is asked to."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bridgejax.cli import main
from bridgejax.errors import UserError
from bridgejax.report.write import write_report


@pytest.fixture(scope="module")
def compared(finished, config_file, tmp_path_factory):
    """The finished workdir, run again with the questions added."""
    workdir = tmp_path_factory.mktemp("compared") / "work"
    shutil.copytree(finished, workdir)
    asked = ("--config.report.synthetic_set=train", "--config.report.leep=True")
    assert main(["run", "--config", str(config_file), "--workdir", str(workdir), *asked]) == 0
    return workdir


def test_nothing_is_reported_unasked(finished):
    assert not (finished / "synthetic_set.json").exists()
    assert json.loads((finished / "summary.json").read_text())["synthetic_set"] is None
    assert "The synthetic set" not in (finished / "report.html").read_text()


def test_asking_adds_figures_and_trains_no_run_again(compared, finished):
    assert (compared / "results.jsonl").read_bytes() == (finished / "results.jsonl").read_bytes()
    found = json.loads((compared / "summary.json").read_text())["synthetic_set"]
    (one,) = found["sets"]
    assert (found["real_images"], one["synthetic_images"], found["against"]) == (6, 24, "train")
    assert one["frechet"]["low"] < one["frechet"]["high"]
    assert np.isfinite([one["kernel"]["distance"], one["kernel"]["standard_error"]]).all()
    assert 0 <= one["precision"] <= 1
    assert 0 <= one["recall"] <= 1
    distances = [row["cosine_distance"] for row in one["copies"]["closest"]]
    assert len(distances) == 12
    assert distances == sorted(distances)
    pretrained, after = found["leep"]
    assert (pretrained["outputs"], after["outputs"], after["images"]) == (1000, 3, 6)
    assert "bridged_plus_plus" in after["network"]
    assert all(row[key] <= 1e-9 for row in found["leep"] for key in ("leep", "leep_matched"))


def test_both_reports_show_the_figures_and_the_pairs(compared):
    found = json.loads((compared / "summary.json").read_text())["synthetic_set"]
    page, markdown = (compared / "report.html").read_text(), (compared / "report.md").read_text()
    for text in (page, markdown):
        assert "The synthetic set" in text
        assert f"{found['sets'][0]['frechet']['estimate']:.4g}" in text
        assert "6 training images of the first seed" in text
        assert f"{found['leep'][1]['leep_matched']:.3f}".replace("-", "−") in text
    with np.load(compared / "synthetic_pairs.npz") as stored:
        neighbours = sum(len(row) for row in stored["neighbours0"])
    assert neighbours == 12  # of three classes, each with a strip of four
    assert page.count("<img") == 24 + neighbours + _pictures(compared)


def _pictures(workdir) -> int:
    with np.load(workdir / "examples.npz") as stored:
        return sum(int(image.min() != image.max()) for kind in ("real", "synthetic") for row in stored[kind] for image in row)


def test_the_report_is_made_from_the_files_and_a_damaged_one_is_named(compared, tmp_path):
    workdir = tmp_path / "work"
    shutil.copytree(compared, workdir, ignore=shutil.ignore_patterns("runs", "synthetic"))
    write_report(workdir)
    assert (workdir / "report.html").read_bytes() == (compared / "report.html").read_bytes()
    (workdir / "synthetic_pairs.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"synthetic_pairs\.npz is damaged"):
        write_report(workdir)
