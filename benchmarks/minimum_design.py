"""Runs the minimum design on two tasks, after choosing each arm's rate on a third; writes docs/results/minimum_design.md.

    python tools/build_emoji_task.py --output emoji_task        # where rates are chosen
    python tools/build_fashion_task.py --output fashion_task    # the second task: photographs of clothing
    python -m benchmarks minimum_design

Parts: "tuning" (three rates for every arm, three seeds, on 3D emoji; the best stand in the config, by hand), "photos"
(`builtin:tux_photos`) and "fashion". Finished workdirs are only read, so the page can be written anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.result_tables import level, points, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "minimum_design.md"
CONFIG = "configs/bridged_transfer/minimum_design.py"
METRIC = "test_mean_per_class_accuracy"
PARTS = ("tuning", "photos", "fashion")
REPLICATES = 100  # of a Fréchet interval
# What each comparison isolates.
QUESTIONS = (
    ("twice the steps, real images alone", "vanilla_long", "vanilla"),
    ("Mixup alone", "vanilla_mixup", "vanilla_long"),
    ("two phases with a new head, real images alone", "real_reset_real", "vanilla_long"),
    ("no real image at all", "synthetic_only", "vanilla_long"),
    ("the union of all images", "mixed", "vanilla_long"),
    ("half of every batch synthetic", "mixed_50", "vanilla_long"),
    ("the same with Mixup", "mixed_50_mixup", "vanilla_long"),
    ("bridged", "bridged", "vanilla_long"),
    ("bridged, its switch and new head apart", "bridged_reset", "real_reset_real"),
    ("a new head at the switch", "bridged_reset", "bridged"),
    ("Mixup in the first stage", "bridged_mixup", "bridged"),
    ("bridged ++", "bridged_plus_plus", "vanilla_long"),
    ("bridged ++ against plain mixing", "bridged_plus_plus", "mixed_50"),
    ("another sentence with an untrained word", "bridged_plus_plus_untrained", "bridged_plus_plus"),
    ("the word learned", "bridged_plus_plus_dsi", "bridged_plus_plus_untrained"),
    ("style inversion in all", "bridged_plus_plus_dsi", "bridged_plus_plus"),
)


def run(argument: str, workdir: Path) -> None:
    """Runs or continues the config; a finished workdir is left alone."""
    if (workdir / "report.html").is_file():
        return
    config = f"{CONFIG}:{argument}" if argument else CONFIG
    subprocess.run(
        [sys.executable, "-m", "bridgejax", "run", "--config", config, "--workdir", str(workdir)], cwd=ROOT, check=True
    )


def tuned(workdir: Path) -> list[str]:
    """Returns the table of candidates, the best of each arm in bold."""
    runs: dict[str, dict[str, list[float]]] = {}
    for line in (workdir / "results.jsonl").read_text().splitlines():
        result = json.loads(line)
        arm, _, rate = result["arm"].partition("-")
        runs.setdefault(arm, {}).setdefault(rate, []).append(100 * result[METRIC])
    found = {arm: {rate: sum(values) / len(values) for rate, values in rates.items()} for arm, rates in runs.items()}
    rates = list(next(iter(found.values())))
    rows = [
        [arm, *(f"**{v[rate]:.1f}**" if rate == max(v, key=lambda key: v[key]) else f"{v[rate]:.1f}" for rate in rates)]
        for arm, v in found.items()
    ]
    return table(["arm", *rates], rows)


def compared(workdir: Path) -> list[str]:
    """Returns the tables of a finished study: arms, then what each comparison isolates."""
    from bridgejax.report.summary import summarise
    from bridgejax.studies.run_results import read_results

    pairs = [(arm, against) for _, arm, against in QUESTIONS]
    summary = summarise(read_results(workdir), pairs=pairs).to_dict()
    arms = [
        [arm, level(summary["arms"][arm][METRIC]), level(summary["arms"][arm]["test_accuracy"])] for arm in summary["order"]
    ]
    known = {(d["arm"], d["against"]): d for d in summary["differences"]}
    rows = [
        [what, f"{arm} − {against}", points(known[arm, against][METRIC])]
        for what, arm, against in QUESTIONS
        if (arm, against) in known
    ]
    return [
        *table(["arm", "mean per class, %", "top-1, %"], arms),
        "",
        *table(["what it isolates", "difference", "points of mean per-class accuracy"], rows),
    ]


def distances(workdir: Path) -> list[str]:
    """Returns the Fréchet distances between features of each draw's images and of the real ones that it did not take."""
    from bridgejax.config import Settings, load_config
    from bridgejax.data import eval_batches, synthetic_examples
    from bridgejax.evaluation import frechet_distance, frechet_interval
    from bridgejax.evaluation.features import image_features
    from bridgejax.models import load_classifier
    from bridgejax.report.config_text import config_file
    from bridgejax.studies.study_plan import plan_study

    file = workdir.parent / f"{workdir.name}_config.py"
    file.write_text(config_file(json.loads((workdir / "config.json").read_text())))
    study = plan_study(Settings.of(load_config(str(file))), load_generators=False)
    file.unlink()
    model = load_classifier(study.settings.classifier.weights)

    def features(examples: Any) -> Any:
        size, crop = study.settings.classifier.image_size, model.preprocessing.crop
        return image_features(model, eval_batches(examples, batch_size=64, image_size=size, crop=crop))

    names = {"": "the config's own", "untrained": "an untrained word", "dsi": "the learned word"}
    rows: list[list[str]] = []
    gaps: list[list[float]] = []
    shots = study.runs[0].shots
    for seed in range(study.settings.study.seeds):
        real = features(study.task(shots, seed).test)
        seen = {
            name: features(
                synthetic_examples(workdir / one.folder(shots, seed), class_names=study.class_names, per_class=study.per_class)
            )
            for name, one in study.sets.items()
        }
        row = [str(seed), *(f"{frechet_distance(seen[name], real):.1f}" for name in names if name in seen)]
        found = [frechet_interval(seen["dsi"], real, minus=seen[other], replicates=REPLICATES) for other in ("", "untrained")]
        gaps.append([gap.estimate for gap in found])
        rows.append([*row, *(_distance(gap.estimate, gap.low, gap.high) for gap in found)])
    rows.append(["all", *[""] * len(study.sets), *_over_draws(gaps)])
    heads = ["draw", *names.values(), "learned − own", "learned − untrained"]
    return table(heads, rows)


def _over_draws(gaps: Sequence[Sequence[float]]) -> list[str]:
    """Returns the mean over draws of each column of differences, with Student's 95 % interval."""
    import numpy as np
    from scipy import stats

    values = np.asarray(gaps)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return [_distance(mean, mean - h, mean + h) for mean, h in zip(values.mean(axis=0), half, strict=True)]


def _distance(mean: float, low: float, high: float) -> str:
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


def costs(workdir: Path) -> str:
    """Returns a sentence on what the words cost."""
    records = [json.loads(file.read_text()) for file in sorted(workdir.glob("inversion/dsi/*/inversion.json"))]
    words = [record["words"][0] for record in records]
    each = sum(word["seconds_per_1000_steps"] for word in words) / len(words)
    peak = max(record["peak_bytes"]["host"] for record in records) / 2**30
    return (
        f"Learning the word took {each:.0f} s per 1,000 steps of 8 images (mean over {len(words)} draws of {words[0]['steps']} "
        f"steps each); the process peaked at {peak:.2f} GiB, generation and all."
    )


def page(workdirs: Path) -> str:
    """Returns the page from what is finished below `workdirs`."""
    text = "# The minimum design of bridged transfer\n\n"
    text += f"`python -m benchmarks minimum_design` (`{CONFIG}`): fourteen arms, five draws of four real images per class, "
    text += "32 synthetic images per class, 64 px, EfficientNet-Lite0. Intervals are 95 %, over seeds and test images, and "
    text += "differences are paired; with sixteen comparisons per task, expect about one that misses by chance.\n"
    titles = {
        "photos": "Photographs (`builtin:tux_photos`)",
        "fashion": "Clothing (Fashion-MNIST), which the generator does not know",
    }
    for part, title in titles.items():
        workdir = workdirs / part
        if not (workdir / "report.html").is_file():
            continue
        text += f"\n## {title}\n\n" + "\n".join(compared(workdir)) + "\n"
        text += (
            "\nFréchet distances between features of the synthetic images and of the real images that the draw did not take, "
        )
        text += (
            "with the difference's interval over images, and over the draws in the last row:\n\n"
            + "\n".join(distances(workdir))
            + "\n\n"
            + costs(workdir)
            + "\n"
        )
    if (workdirs / "tuning" / "report.html").is_file():
        text += "\n## Rates, chosen on 3D emoji\n\n"
        text += "Mean per-class accuracy in %, over three draws; the best of each arm in bold.\n\n"
        text += "\n".join(tuned(workdirs / "tuning")) + "\n"
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts below a folder, continuing finished ones, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--workdirs", type=Path, default=Path("minimum_design"), help="where the studies' workdirs are kept")
    parser.add_argument("--emoji", type=Path, default=Path("emoji_task"), help="the folder of tools/build_emoji_task.py")
    parser.add_argument("--fashion", type=Path, default=Path("fashion_task"), help="the folder of tools/build_fashion_task.py")
    options = parser.parse_args(arguments)
    from bridgejax.files import write_atomic

    workdirs = options.workdirs.resolve()
    arguments_of = {
        "tuning": f"tuning:folder:{options.emoji.resolve()}",
        "photos": "",
        "fashion": f"folder:{options.fashion.resolve()}",
    }
    for part in options.parts:
        run(arguments_of[part], workdirs / part)
    text = page(workdirs)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS, text)
    print(text)
