"""The page of He et al. on the embedded task, from its record."""

from __future__ import annotations

import json
import runpy
from typing import Any

import pytest

from benchmarks import he2023, tuning


def _ends(mean: float, half: float = 0.02) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "sd": 0.01, "seeds": 10}


def _summary() -> dict[str, Any]:
    """Two arms with 2 and 5 photographs; the second is better with 2 alone."""
    arms, differences = {}, []
    for shots, above in ((2, 0.05), (5, 0.01)):
        for arm, mean in (("tuned_real", 0.5), ("tuned_mix", 0.5 + above)):
            found = {"arm": arm, "shots": shots, "test_images": 240.0 - shots, "setting": f"{shots} shots"}
            arms[f"{arm} ({shots} shots)"] = {**found, he2023.METRIC: _ends(mean), he2023.TOP: _ends(mean)}
        pair = {"arm": f"tuned_mix ({shots} shots)", "against": f"tuned_real ({shots} shots)"}
        differences.append({**pair, he2023.METRIC: _ends(above), he2023.TOP: _ends(above)})
    boot = {"over": "seeds and test images"}
    told = {"baseline": "tuned_real", "seeds": list(range(10)), "bootstrap": boot, "order": list(arms)}
    return {**told, "arms": arms, "differences": differences}


def test_the_page_says_what_was_run_what_differs_and_which_rates_were_chosen() -> None:
    budget = {"learning_rates": [0.002, 0.008], "lengths": [1.0], "seeds": 5, "validation_per_class": 1}
    chosen = {"tuned_real": {"learning_rate": 0.008}, "tuned_mix": {"learning_rate": 0.002}}
    candidates = [{"arm": "tuned_real", "train_steps": 1}, {"arm": "tuned_mix", "train_steps": 165}]
    tuning = {"budget": budget, "chosen": chosen, "candidates": candidates}
    told = he2023.figures(_summary(), tuning, 1, ["study.seeds=10"])
    text = he2023.page(json.loads(json.dumps({"few_shot_tuned": told})))
    assert "from `tuned_real`: `tuned_mix` (1 shot) +5.0 (+3.0 to +7.0)." in text
    assert "Not run: `table2_losses.py`, `few_shot.py`, `combined.py`." in text
    assert "--workdir W --config.study.seeds=10 --config.training.tuned=T/tuning.json" in text
    assert "10 seeds, 235 to 238 test images" in text
    assert "best of 0.002, 0.008 on the validation photographs, 1 of each class in each of 5 seeds" in text
    assert "The lowest was the best for 1 of 1 arms" in text
    assert "have standard deviations of 1.0 to 1.0 points" in text
    assert r"| 4 | tuned\_real | – | 50.0" in text
    assert r"| 4 | tuned\_mix | 0.002 | 51.0 (49.0 to 53.0) | 51.0 (49.0 to 53.0) | +1.0 (−1.0 to +3.0)" in text


def test_the_page_that_is_there_is_that_of_its_record() -> None:
    record = json.loads(he2023.RECORD.read_text(encoding="utf-8"))
    assert he2023.RECORD.with_suffix(".md").read_text(encoding="utf-8") == he2023.page(record)


@pytest.mark.parametrize("part", ["table2", "combined"])
def test_every_arm_has_the_rate_that_was_best_on_the_emoji(part: str) -> None:
    record = json.loads(tuning.RECORD.read_text(encoding="utf-8"))
    best = {entry["candidate"].partition("-")[::2] for entry in record[part]["candidates"] if entry["best"]}
    study = next(name for name, study in he2023.STUDIES.items() if study.emoji == part)
    rates = runpy.run_path(str(he2023.ROOT / "configs" / "he2023" / f"{study}.py"))["RATES"]
    assert {arm: float(rate) for arm, rate in best if rate} == rates
