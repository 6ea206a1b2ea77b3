"""The report of a workdir: summary.json, report.md and report.html, a pure function of the files that lie there."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bridgejax.data.catalog import metric_of
from bridgejax.errors import UserError
from bridgejax.files import write_atomic, write_json
from bridgejax.identity import file_digest
from bridgejax.progress import stage_heading
from bridgejax.report.config_text import ConfigJson
from bridgejax.report.markdown import markdown
from bridgejax.report.page import render
from bridgejax.report.summary import summarise
from bridgejax.studies.comparison_results import COMPARISON_FILE, read_comparison
from bridgejax.studies.filter_results import FILTER_FILE, read_selections
from bridgejax.studies.run_results import RESULTS_FILE, SECONDS_FILE, read_results
from bridgejax.workdir import CONFIG_FILE

PAGE_FILE, MARKDOWN_FILE, SUMMARY_FILE = "report.html", "report.md", "summary.json"
EXAMPLES_FILE = "examples.npz"


def write_report(workdir: str | Path) -> Path:
    """Writes `summary.json`, `report.md` and `report.html` beside `results.jsonl`; returns the path of the last.

    Reads `results.jsonl`, and where they are `config.json`, `examples.npz`, `seconds.json`, what filters kept, and what
    `report.synthetic_set` and `report.leep` left.

    Raises:
      UserError: there are no results, or a file cannot be read or written.
    """
    folder = Path(workdir)
    results = read_results(folder)
    config = _read_json(folder / CONFIG_FILE)
    config = config["config"] if isinstance(config.get("config"), Mapping) else config
    asked = config.get("report") or {}
    comparison, shown = read_comparison(folder) if asked.get("synthetic_set") or asked.get("leep") else (None, [])
    selections, pictures = read_selections(folder)
    seconds = _read_json(folder / SECONDS_FILE)
    summary = dataclasses.replace(
        summarise(results, baseline=config.get("study", {}).get("baseline") or "vanilla_long"),
        seconds={str(name): value for name, value in seconds.items() if isinstance(value, (int, float))},
        papers_report=metric_of(str(config.get("task", {}).get("source") or "")),
        synthetic_set=comparison,
        filters=tuple(selections),
    )
    page = render(summary, config, _read_examples(folder / EXAMPLES_FILE), shown, pictures)
    write_atomic(folder / MARKDOWN_FILE, markdown(summary, config))
    write_atomic(folder / PAGE_FILE, page)
    # Last: what it says that it was made from, the pages were made from too.
    write_json(folder / SUMMARY_FILE, {**summary.to_dict(), "made_from": _made_from(folder)})
    return folder / PAGE_FILE


def update_report(workdir: Path) -> Path:
    """Writes a workdir's report if what lies there was not made from its results and config; returns report.html."""
    if not is_current(workdir):
        stage_heading("report")
        write_report(workdir)
    return workdir / PAGE_FILE


def is_current(workdir: str | Path) -> bool:
    """Returns whether a workdir's report is there and was made from the results and the config that lie beside it."""
    folder = Path(workdir)
    if not all((folder / name).is_file() for name in (PAGE_FILE, MARKDOWN_FILE, SUMMARY_FILE)):
        return False
    try:
        return bool(_read_json(folder / SUMMARY_FILE).get("made_from") == _made_from(folder))
    except UserError:
        return False


def _made_from(folder: Path) -> dict[str, str]:
    """Returns a digest of each file that decides a report (the account of time aside)."""
    files = (CONFIG_FILE, RESULTS_FILE, EXAMPLES_FILE, COMPARISON_FILE, FILTER_FILE)
    return {name: file_digest(folder / name) for name in files if (folder / name).is_file()}


def _read_json(file: Path) -> ConfigJson:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable JSON; delete it and run the study again to rebuild it.") from error
    return content if isinstance(content, dict) else {}


def _read_examples(file: Path) -> dict[str, np.ndarray] | None:
    """The contact sheet's arrays, or None if the workdir has none."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is not a readable NumPy archive; delete it and run the study again to rebuild it.") from error
    count = len(arrays.get("class_names", ()))
    kinds = [arrays[kind] for kind in ("real", "synthetic") if kind in arrays]
    if not count or not all(images.ndim == 5 and images.dtype == np.uint8 and len(images) == count for images in kinds):
        raise UserError(f"{file} should hold class_names and uint8 images [classes, k, h, w, 3]; delete it and run again.")
    return arrays
