"""JSON files and built-in assets: what is read, and one sentence for each way in which they can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgejax import files
from bridgejax.errors import UserError


def test_json_objects_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"größe": [1, null]}', encoding="utf-8")
    assert files.read_json_object(tmp_path / "a.json") == {"größe": [1, None]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", r"a\.json is not readable JSON .*; fetch it again\.$"),
        (b"\xff", r"a\.json is not readable JSON .*; fetch it again\.$"),
        (b"[" * 100_000, r"a\.json is not readable JSON .*; fetch it again\.$"),
        (b"[1]", r"a\.json must hold a JSON object; fetch it again\.$"),
        (None, r"a\.json is missing; fetch it again\.$"),
        (b" " * 99, r"a\.json holds 99 bytes, more than the 64 "),
    ],
)
def test_wrong_json_files_get_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, words: str
) -> None:
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 64 if content == b" " * 99 else files.MAX_JSON_BYTES)
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=words):
        files.read_json_object(tmp_path / "a.json")


def test_assets_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = ("builtin:tiny_diffusion",)
    assert (files.asset("builtin:tiny_diffusion", known, "generator") / "model_index.json").is_file()
    with pytest.raises(UserError, match=r"generator 'builtin:tiny' is not built in; did you mean 'builtin:tiny_diffusion'"):
        files.asset("builtin:tiny", known, "generator")
    monkeypatch.setattr(files, "_ASSETS", tmp_path)
    with pytest.raises(UserError, match="is not part of this installation"):
        files.asset("builtin:tiny_diffusion", known, "generator")
