"""Weights by name: built in, a folder, a single file, the hub; and one sentence for what is none of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bridgejax.diffusion.find import AUTOENCODERS, GENERATORS
from bridgejax.errors import UserError
from bridgejax.models import weight_sources
from bridgejax.models.registry import CLASSIFIERS
from bridgejax.models.weight_sources import WeightSources

ALL = {"generator": GENERATORS, "classifier": CLASSIFIERS, "autoencoder": AUTOENCODERS}


@pytest.mark.parametrize("sources", ALL.values(), ids=ALL)
def test_folders_and_hub_names(sources: WeightSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(weight_sources, "fetch", lambda name, patterns: asked.append((name, patterns)) or tmp_path)
    assert sources.resolve(tmp_path) == tmp_path
    assert sources.resolve(str(tmp_path)) == tmp_path
    assert asked == []  # a folder that exists is not looked for on the hub
    assert sources.resolve("owner/name") == tmp_path
    assert asked == [("owner/name", sources.hub_files)]
    for name in sources.builtin:
        assert sources.resolve(name).is_dir()


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("generator", "nowhere", "there is no generator folder nowhere; give a folder with a model_index.json, a .safetensors"),
        (
            "classifier",
            "nowhere",
            "there is no classifier folder nowhere; give a folder with config.json and model.safetensors",
        ),
        ("classifier", Path("owner/name"), "there is no classifier folder owner/name"),  # a path is never a hub name
        ("generator", "FILE.ckpt", "FILE.ckpt is a pickle, which could run code"),
        ("generator", "absent.safetensors", "there is no file absent.safetensors"),
        (
            "classifier",
            "FILE.safetensors",
            "is a file; expected as classifier a folder with config.json and model.safetensors.",
        ),
        ("generator", "FILE.txt", "is a file; expected as generator a folder with a model_index.json or a .safetensors file."),
        ("classifier", 3, "3 is no classifier; give the name or the folder of one as a string."),
        ("classifier", "builtin:tiny_diffusion", "classifier 'builtin:tiny_diffusion' is not built in"),
    ],
)
def test_wrong_names_get_one_sentence(tmp_path: Path, kind: str, name: str | Path, words: str) -> None:
    if "FILE" in str(name):
        name = tmp_path / str(name)
        name.touch()
    with pytest.raises(UserError, match=re.escape(words)):
        ALL[kind].resolve(name)
