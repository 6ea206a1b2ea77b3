"""`generate --verify`, `export` and `merge`."""

from __future__ import annotations

import shutil
import tarfile

from bridgejax.cli import main


def test_a_set_is_checked_repaired_exported_and_merged(tmp_path, config_file, capsys):
    place = ["--config", str(config_file), "--workdir", str(tmp_path / "work")]
    assert main(["generate", *place, "--verify"]) == 2
    assert "holds no synthetic set" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
    assert main(["generate", *place, "--config.synthetic.per_class=2"]) == 0
    place += ["--config.synthetic.per_class=2"]
    assert main(["generate", *place, "--verify"]) == 0
    assert "2 of 2 shards are whole" in capsys.readouterr().out

    page = (tmp_path / "work" / "progress.html").read_text()
    assert "finished" in page
    assert "made: generate 6" in page
    assert sorted(file.name for file in (tmp_path / "work").iterdir() if file.is_file()) == [
        *("config.json", "progress.html", "seconds.json"),
    ]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*")}
    assert main(["generate", *place]) == 0  # makes nothing, and leaves the page as it is
    assert {file: file.stat().st_mtime_ns for file in before if file.is_file()} == {
        file: when for file, when in before.items() if file.is_file()
    }

    made = tmp_path / "work" / "synthetic"
    shutil.copytree(made, tmp_path / "part")
    victim = made / "bridgejax_synthetic-train.tfrecord-00001"
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    before = {file: file.read_bytes() for file in made.rglob("*") if file.is_file()}
    assert main(["generate", *place, "--verify"]) == 1
    printed = capsys.readouterr()
    assert "shard 1 of" in printed.out
    assert "1 shards in" in printed.err
    assert before == {file: file.read_bytes() for file in made.rglob("*") if file.is_file()}
    assert main(["generate", *place]) == 0
    assert main(["generate", *place, "--verify"]) == 0

    assert main(["export", str(made), "--to", str(tmp_path / "tars"), "--format", "webdataset"]) == 0
    with tarfile.open(tmp_path / "tars" / "train-00000.tar") as tar:
        assert len(tar.getnames()) == 12
    (tmp_path / "part" / "sidecars" / "00001.json").unlink()
    shutil.copytree(made, tmp_path / "rest")
    (tmp_path / "rest" / "sidecars" / "00000.json").unlink()
    assert main(["merge", str(tmp_path / "part"), str(tmp_path / "rest"), "--to", str(tmp_path / "merged")]) == 0
    assert {file.name: file.read_bytes() for file in made.iterdir() if file.is_file()} == {
        file.name: file.read_bytes() for file in (tmp_path / "merged").iterdir() if file.is_file()
    }
