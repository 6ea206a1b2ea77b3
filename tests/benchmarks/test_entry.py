"""The entry of the benchmarks: its table, its messages and its page."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as entry
from benchmarks import page, results
from benchmarks.entries import Entry, entries
from bridgejax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RUN: dict[str, Any] = {
    "command": "python -m benchmarks train_step --sizes 64",
    "quick": False,
    "repeats": 3,
    "machine": {
        "cpu": "a CPU",
        "cores": 2,
        "memory_bytes": 8 * 2**30,
        "system": "Linux 6",
        "python": "3.11.7",
        "versions": {"jax": "0.10.2"},
        "commit": "abc1234",
        "xla_flags": "",
        "matrix_rates": {"jax": {"flops": 100e9, "others": 0.0}, "torch": {"flops": 50e9, "others": 0.9}},
    },
    "rows": [
        {
            "key": "resnet18 64",
            "what": "ResNet-18, 64 px",
            "batch": 32,
            "flops": 5e9,
            "flops_by": "counted by hand",
            "sides": [
                {
                    "name": "bridgejax",
                    "seconds": {"median": 0.1, "low": 0.09, "high": 0.12},
                    "turns": [0.09, 0.1, 0.12],
                    "calls": 5,
                    "others": 0.01,
                    "first_seconds": 4.0,
                    "first_process_seconds": 0.14,
                    "peak_bytes": 2**30,
                },
                {
                    "name": "timm, eager",
                    "seconds": {"median": 0.2, "low": 0.19, "high": 0.21},
                    "turns": [0.19, 0.2, 0.21],
                    "calls": 3,
                    "others": 0.02,
                    "first_seconds": 1.0,
                    "peak_bytes": 2**29,
                    "ratio": {"median": 0.5, "low": 0.47, "high": 0.57},
                },
            ],
            "notes": ["timm, compiled was not measured: it failed"],
        }
    ],
}


def test_the_list_names_every_program_and_why_some_are_not_in_all_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["list"]) == 0
    text = capsys.readouterr().out
    for one in entries():
        assert f"\n{one.name} " in f"\n{text}"
        assert one.summary
        assert bool(one.quick) != bool(one.why_not)
        assert (one.quick or one.why_not) in text


def test_every_program_with_a_main_is_an_entry() -> None:
    helpers = {"__main__", "page", "random_generator", "worker", "classifier_cases"}
    programs = {file.stem for file in (ROOT / "benchmarks").glob("*.py") if "\ndef main(" in file.read_text(encoding="utf-8")}
    assert programs - helpers == {one.name for one in entries()}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train_stp"], "did you mean 'train_step'"),
        (["tuning", "--quick"], "tuning has no short version"),
        (["all"], "all --quick"),
        (["train_step", "--repeats", "0"], "--repeats is 0"),
    ],
)
def test_a_wrong_input_is_told_in_one_sentence(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1


def test_all_quick_runs_each_short_version_and_says_what_it_leaves_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    some = [one for one in entries() if one.name in ("paper_cost", "tuning")]
    monkeypatch.setattr(entry, "entries", lambda: some)
    assert entry.main(["all", "--quick"]) == 0
    text = capfd.readouterr().out
    assert "== paper_cost: done after" in text
    assert "tuning: left out, it trains every candidate" in text
    monkeypatch.setattr(entry, "entries", lambda: [Entry("absent", quick="nothing")])
    assert entry.main(["all", "--quick"]) == 1
    assert "Failed: absent." in capfd.readouterr().err


def test_the_entry_imports_nothing_heavy() -> None:
    code = "import sys; from benchmarks import __main__ as m; m.main(['list']); print({'jax', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_page_is_made_from_what_was_kept(tmp_path: Path) -> None:
    results.keep("train_step", RUN, tmp_path)
    assert entry.main(["page", "--output", str(tmp_path)]) == 0
    text = (tmp_path / "performance.md").read_text()
    ratios, _, rest = text.partition("## A train step")
    assert "| a train step | ResNet-18, 64 px | 32 | timm, eager | 0.5 (0.47 to 0.57) |  |" in ratios
    assert f"`{RUN['command']}`, on 2 CPU cores (a CPU)" in rest
    assert "100 GFLOP/s (jax) and 50 GFLOP/s (torch, disturbed)" in rest
    assert "| 50% | 4 | 0.14 | 1.00 | 1% |" in rest  # 5 GFLOP in 0.1 s, of 100 GFLOP/s
    assert "- ResNet-18, 64 px: timm, compiled was not measured: it failed" in rest
    assert "Not run: `inference`, `generation`" in rest
    assert "Disturbed" not in rest


def test_a_figure_that_other_programs_disturbed_is_marked(tmp_path: Path) -> None:
    run = copy.deepcopy(RUN)
    run["rows"][0]["sides"][1]["others"] = 0.5
    results.keep("train_step", run, tmp_path)
    text = page.performance(tmp_path)
    assert "| 0.5 (0.47 to 0.57) | disturbed |" in text
    assert "50%, disturbed" in text
    assert "**Disturbed** means" in text


def test_without_an_undisturbed_matrix_rate_no_share_is_told() -> None:
    run = copy.deepcopy(RUN)
    run["machine"]["matrix_rates"]["jax"]["others"] = 0.5
    assert "| 5 |  | 4 | 0.14 | 1.00 |" in results.section(run)


def test_a_row_measured_again_takes_the_place_of_the_older_one(tmp_path: Path) -> None:
    other = copy.deepcopy(RUN)
    other["rows"].append({**other["rows"][0], "key": "resnet18 96"})
    results.keep("train_step", other, tmp_path)
    results.keep("train_step", {**RUN, "command": "later"}, tmp_path)
    kept = [(run["command"], [row["key"] for row in run["rows"]]) for run in results.read("train_step", tmp_path)]
    assert kept == [(RUN["command"], ["resnet18 96"]), ("later", ["resnet18 64"])]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "inference.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match=r"inference\.json"):
        page.performance(tmp_path)


def test_every_benchmark_that_keeps_its_rows_has_a_heading_on_the_page():
    assert {each.name for each in entries() if each.keeps_json} == set(results.TITLES)
    assert all("comparison.run(" not in each.file.read_text() for each in entries() if not each.keeps_json)
