"""Arms that train on other synthetic images than the config's own: `synthetic_sets`."""

from __future__ import annotations

import json

from bridgejax.cli import main


def test_a_stage_trains_on_the_set_that_it_names(config_file, tmp_path):
    config = tmp_path / "sets.py"
    config.write_text(
        config_file.read_text().replace(
            "    return config\n",
            '    config.synthetic_sets.sketches = {"prompts": {"template": "a sketch of a {}"}, "generator": {"steps": 3}}\n'
            '    config.recipes.drawn = ({"data": "synthetic", "synthetic_set": "sketches"}, {"data": "real"})\n'
            '    config.arms = ("vanilla", "bridged", "drawn")\n'
            "    config.study.seeds = 1\n"
            "    return config\n",
        )
    )
    assert main(["run", "--config", str(config), "--workdir", str(tmp_path / "work")]) == 0
    import tensorflow_datasets as tfds

    for folder, sentence in (("synthetic", b"a photo of a zero"), ("synthetic_sets/sketches", b"a sketch of a zero")):
        examples = tfds.builder_from_directory(tmp_path / "work" / folder).as_dataset(split="train").as_numpy_iterator()
        assert sentence in {example["prompt"] for example in examples}
    runs = {r["arm"]: r for r in map(json.loads, (tmp_path / "work" / "results.jsonl").read_text().splitlines())}
    assert runs["bridged"]["history"] != runs["drawn"]["history"]
