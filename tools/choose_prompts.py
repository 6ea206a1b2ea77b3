"""Chooses the embedded generator's prompts and guidance on the emoji task, and shows what its images are worth.

    python tools/build_emoji_task.py --output emoji_task
    python tools/choose_prompts.py --data clipart.npz --emoji emoji_task

For each kind of prompt and each guidance scale: images of the quick start's steps, and the figures of ``clipart_figures``.
Chosen is the best accuracy on the emoji; the photographs are a report. Writes docs/results/generator.json and generator.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import clipart_figures
import numpy as np
from train_tiny_diffusion import CLASSES, draw_sheet, load_data

from bridgejax.config import load_config
from bridgejax.prompts import prompt_for

ROOT = Path(__file__).resolve().parent.parent
SENTENCES = ROOT / "bridgejax/assets/sentences"
RECORD = ROOT / "docs/results/generator.json"


def prompts_by_kind(per_class: int) -> dict[str, list[str]]:
    """Prompts of every class, ``per_class`` of each: the class alone, and in rotation the sentences of the built-in files."""
    kinds = {"a photo of a {}": [prompt_for(name, i, ["a photo of a {}"]) for name in CLASSES for i in range(per_class)]}
    for file in sorted(SENTENCES.glob("*.jsonl")):
        phrases: dict[str, list[str]] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            phrases.setdefault(row["class"].replace("_", " "), []).append(row["sentence"])
        found = [prompt_for(name, i, ["a photo of {}"], phrases) for name in CLASSES for i in range(per_class)]
        kinds[f"builtin:{file.stem}"] = found
    return kinds


def images_of(pipeline: Any, prompts: list[str], steps: int, guidance: float, batch: int = 44) -> np.ndarray:
    """Images uint8 [n, 64, 64, 3] of the prompts, with seeds 0, 1, …"""
    seeds = list(range(len(prompts)))
    parts = [
        np.asarray(pipeline(prompts[i : i + batch], seeds=seeds[i : i + batch], steps=steps, guidance_scale=guidance))
        for i in range(0, len(prompts), batch)
    ]
    return (np.concatenate(parts) * 255 + 0.5).astype(np.uint8)


def page(record: dict[str, Any]) -> str:
    """The page of a record."""
    kind, guidance = record["chosen"]
    lines = [
        "# Prompts and guidance of the embedded generator",
        "",
        f"Made by `{record['command']}`: {record['per_class']} images per class, {record['steps']} steps. Accuracies, mean per "
        "class in %, are those of a logistic regression on frozen EfficientNet-Lite0 features that learned from these images "
        f"alone. Chosen by the emoji alone: `{kind}` at guidance {guidance:g}; the photographs chose nothing. Recall: share of "
        "the clip art that the images cover. Copies: share of images suspected to be a picture of the training set. Both in %.",
        "",
        "| prompts | guidance | emoji | photographs | recall | copies |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in record["rows"]:
        values = [row["emoji"]["mean_per_class"], row["photographs"]["mean_per_class"], row["recall"], row["copies"]]
        shown = " | ".join(f"{100 * value:.1f}" for value in values)
        lines.append(f"| `{row['prompts']}` | {row['guidance']:g} | {shown} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    from bridgejax.diffusion import load_pipeline

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the .npz of build_clipart.py")
    parser.add_argument("--emoji", type=Path, required=True, help="the folder of build_emoji_task.py")
    parser.add_argument("--weights", default="builtin:tiny_diffusion")
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0, 3.0])
    parser.add_argument("--per-class", type=int, default=32)
    parser.add_argument("--sheet", type=Path, help="write a sheet of the best images here")
    parser.add_argument("--output", type=Path, default=RECORD, help="the record; the page is written beside it")
    options = parser.parse_args(argv)
    steps, per_class = int(load_config(str(ROOT / "configs/quickstart.py")).generator.steps), options.per_class
    labels = [name for name in CLASSES for _ in range(per_class)]
    judge = clipart_figures.Judge(load_data(options.data)["images"], options.emoji)
    pipeline = load_pipeline(options.weights)
    rows: list[dict[str, Any]] = []
    best: dict[str, Any] = {"emoji": {"mean_per_class": -1.0}}
    for kind, prompts in prompts_by_kind(per_class).items():
        for guidance in options.guidance:
            images = images_of(pipeline, prompts, steps, guidance)
            rows.append({"prompts": kind, "guidance": guidance, **judge(images, labels)})
            print(json.dumps(rows[-1]), flush=True)
            if rows[-1]["emoji"]["mean_per_class"] > best["emoji"]["mean_per_class"]:
                best, shown = rows[-1], images
    given = "".join(f" --{name} {value}" for name, value in (("per-class", per_class),) if value != 32)
    record = {
        "command": f"python tools/choose_prompts.py --data clipart.npz --emoji emoji_task{given}",
        "per_class": per_class,
        "steps": steps,
        "chosen": [best["prompts"], best["guidance"]],
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    options.output.with_suffix(".md").write_text(page(record), encoding="utf-8")
    if options.sheet:
        columns = min(20, per_class)
        rows_of = [shown[i * per_class + j] for i in range(len(CLASSES)) for j in range(columns)]
        draw_sheet(np.stack(rows_of), list(CLASSES), columns, options.sheet)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
