"""The report of a workdir: summary.json, report.md and report.html, a pure function of the files that lie there."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bridgejax.data.catalog import metric_of
from bridgejax.errors import UserError
from bridgejax.identity import file_digest, write_atomic, write_json
from bridgejax.studies.markdown import markdown
from bridgejax.studies.page import render
from bridgejax.studies.summary import read_results, summarise
from bridgejax.studies.synthetic_set import SET_FILE, read_synthetic_set

REPORT_FILES = ("summary.json", "report.md", "report.html")


def write_report(workdir: str | Path) -> Path:
    """Writes `summary.json`, `report.md` and `report.html` into a workdir that holds `results.jsonl`.

    Reads `results.jsonl`, and where they are `config.json`, `examples.npz`, `seconds.json` and what `report.synthetic_set` and
    `report.leep` left.

    Returns:
      The path of report.html.

    Raises:
      UserError: there are no results, or a file cannot be read or written.
    """
    folder = Path(workdir)
    results = read_results(folder)
    config = _read_json(folder / "config.json")
    config = config["config"] if isinstance(config.get("config"), Mapping) else config
    baseline = config.get("study", {}).get("baseline") or "vanilla_long"
    summary = summarise(results, baseline=baseline)
    seconds = _read_json(folder / "seconds.json")
    summary["seconds"] = {str(name): value for name, value in seconds.items() if isinstance(value, (int, float))}
    summary["papers_report"] = metric_of(str(config.get("task", {}).get("source") or ""))
    summary["synthetic_set"], pairs = read_synthetic_set(folder, config)
    page = render(summary, config, _read_examples(folder / "examples.npz"), pairs)
    write_atomic(folder / "report.md", markdown(summary, config))
    write_atomic(folder / "report.html", page)
    # Last: what it says that it was made from, the pages were made from too.
    write_json(folder / "summary.json", {**summary, "made_from": _made_from(folder)})
    return folder / "report.html"


def is_current(workdir: str | Path) -> bool:
    """Tells whether a workdir's report is there and was made from the results and the config that lie beside it."""
    folder = Path(workdir)
    if not all((folder / name).is_file() for name in REPORT_FILES):
        return False
    try:
        return bool(_read_json(folder / "summary.json").get("made_from") == _made_from(folder))
    except UserError:
        return False


def _made_from(folder: Path) -> dict[str, str]:
    """Returns a digest of each file that decides a report (the account of time aside)."""
    files = ("config.json", "results.jsonl", "examples.npz", SET_FILE)
    return {name: file_digest(folder / name) for name in files if (folder / name).is_file()}


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable JSON; delete it and run the study again to rebuild it.") from error
    return value if isinstance(value, dict) else {}


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
