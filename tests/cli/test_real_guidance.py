"""Arms that train on images which start from their shots."""

from __future__ import annotations

import json

from bridgejax.cli import main


def guided(config_file, tmp_path, stated, more=""):
    config = tmp_path / "guided.py"
    config.write_text(
        config_file.read_text().replace(
            "    return config\n",
            '    config.synthetic_sets.guided = {"generator": {"steps": 4}, '
            f'"synthetic": {{"real_guidance": {stated!r}}}}}\n'
            '    config.recipes.guided = ({"data": "synthetic", "synthetic_set": "guided"}, {"data": "real"})\n'
            '    config.arms = ("vanilla", "guided")\n'
            '    config.study.baseline = "vanilla"\n'
            f"{more}    return config\n",
        )
    )
    return config


def test_each_split_has_a_set_from_its_own_shots(config_file, tmp_path):
    config = guided(config_file, tmp_path, "paper", "    config.study.shots = (1, 2)\n    config.study.seeds = 1\n")
    assert main(["run", "--config", str(config), "--workdir", str(tmp_path / "work")]) == 0
    identities = [
        json.loads((tmp_path / "work" / "synthetic_sets" / "guided" / f"shots-{shots}_seed-0" / "identity.json").read_text())
        for shots in (1, 2)
    ]
    first, second = (each["identity"]["guidance"] for each in identities)
    assert (first["strength"], second["strength"]) == (0.5, 0.4)
    assert first["shots"] != second["shots"]
    results = (tmp_path / "work" / "results.jsonl").read_bytes()
    assert len(results.splitlines()) == 4
    assert main(["run", "--config", str(config), "--workdir", str(tmp_path / "work")]) == 0
    assert (tmp_path / "work" / "results.jsonl").read_bytes() == results


def test_what_cannot_start_from_shots_is_refused_before_anything_is_made(config_file, tmp_path, capsys):
    names = '    config.task.source = "classes"\n    config.task.class_names = ("cup", "hat")\n    config.task.shots = None\n'
    for stated, more, message in (
        (0.5, names, "class 'cup' of task 'classes' has no training image; give it shots"),
        (0.2, "", "strength = 0.2 of 4 steps leaves none to make"),
        (1.5, "", "real_guidance is 1.5"),
    ):
        config = guided(config_file, tmp_path, stated, more)
        assert main(["generate", "--config", str(config), "--workdir", str(tmp_path / "work")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "work").exists()
