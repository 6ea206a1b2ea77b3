"""Made-up results of a study, in the shape that a run writes them."""

from __future__ import annotations

import json

import numpy as np
import pytest

CLASSES = ("bird", "fish", "road sign")


def fake_results(arms=("vanilla_long", "mixed", "bridged_plus_plus"), seeds=3, shots=(4,), classes=CLASSES, curves=True):
    """Runs of arms × seeds × shots; later arms are better by a good deal."""
    runs, count = [], len(classes)
    sizes = [12 + 3 * (c % 5) for c in range(count)]
    for shot in shots:
        for rank, arm in enumerate(arms):
            for seed in range(seeds):
                rng = np.random.default_rng([seed, rank, shot])
                labels = np.repeat(np.arange(count), sizes)
                right = rng.random(len(labels)) < 0.5 + 0.4 * rank / max(1, len(arms) - 1)
                confusion = np.zeros((count, count), int)
                np.add.at(confusion, (labels, np.where(right, labels, (labels + 1) % count)), 1)
                per_class = [float(right[labels == c].mean()) for c in range(count)]
                history = []
                for stage, step in ((0, 5), (0, 10), (1, 15), (1, 20)) if curves else ():
                    history.append({"stage": stage, "step": step, "loss": 1 / step})
                    value = float(np.mean(per_class)) * step / 20
                    accuracies = dict.fromkeys(("test_accuracy", "test_mean_per_class_accuracy"), value)
                    history.append({"stage": stage, "step": step, **accuracies})
                runs.append(
                    {
                        "arm": arm,
                        "seed": seed,
                        "shots": shot,
                        "per_class": 0 if arm.startswith("vanilla") else 30,
                        "volume": 30,
                        "task": "photos",
                        "classes": list(classes),
                        "test_ids": [f"{label}-{i}" for i, label in enumerate(labels)],
                        "test_labels": labels.tolist(),
                        "correct": right.astype(int).tolist(),
                        "test_accuracy": float(right.mean()),
                        "test_mean_per_class_accuracy": float(np.mean(per_class)),
                        "per_class_accuracy": per_class,
                        "confusion": confusion.tolist(),
                        "train_steps": 20,
                        "history": history,
                        "seconds": {"train": 3.5 + seed, "evaluate": 0.25, "input_stall": 0.07 + 0.02 * seed},
                    }
                )
    return runs


@pytest.fixture
def make_results():
    """make_results(arms=..., seeds=..., shots=..., classes=..., curves=...) → runs."""
    return fake_results


@pytest.fixture
def make_workdir(tmp_path):
    """make_workdir(config=..., examples=..., seconds=..., **of make_results) → a workdir."""

    def make(config=None, examples=None, seconds=None, results=None, **options):
        folder = tmp_path / "work"
        folder.mkdir(exist_ok=True)
        runs = fake_results(**options) if results is None else results
        (folder / "results.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        if seconds is not None:
            (folder / "seconds.json").write_text(json.dumps(seconds))
        if examples is not None:
            np.savez(folder / "examples.npz", **examples)
        return folder

    return make
