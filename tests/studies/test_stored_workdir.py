"""A command's workdir on an object store: what a local one holds, whatever ends the command."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import jax
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bridgejax import runtime
from bridgejax.cli import main
from bridgejax.errors import UserError
from bridgejax.files import StoreObject, write_atomic
from bridgejax.improvement import improve
from bridgejax.studies import stored_workdir
from bridgejax.studies.stored_workdir import working_copy
from bridgejax.training.checkpoints import Checkpoints
from bridgejax.workdir import check_workdir
from tests.small_study import write_study

URL = "memory://bucket/work"


class RefusingStore(MemoryFileSystem):
    """Takes so many objects and no more."""

    protocol = "takes"
    left = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("takes://", "memory://"))

    def pipe_file(self, path, value, **options):
        self._count()
        return super().pipe_file(path, value, **options)

    def put_file(self, *arguments, **options):
        self._count()
        return super().put_file(*arguments, **options)

    def _count(self) -> None:
        RefusingStore.left -= 1
        if RefusingStore.left < 0:
            raise RuntimeError("Forbidden")


@pytest.fixture
def bucket() -> Iterator[Callable[[], dict[str, bytes]]]:
    """What lies in the workdir on the store."""
    fsspec.register_implementation("takes", RefusingStore, clobber=True)
    store = fsspec.filesystem("memory")

    def clear() -> None:
        store.store.clear()
        store.pseudo_dirs[:] = [""]

    clear()
    yield lambda: {name.partition("bucket/work/")[2]: store.cat_file(name) for name in store.find("/")}
    clear()


@pytest.fixture
def no_thread(monkeypatch):
    """Nothing is uploaded before the end."""
    monkeypatch.setattr(stored_workdir, "_SECONDS_BETWEEN", 1000.0)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def opened(*arguments: str, make: Callable[[Path], object] = lambda folder: None) -> dict[str, bytes]:
    """Opens a working copy, has something made in it, and returns what it held before that."""
    with working_copy(*arguments) as copy:
        held = files(copy.folder)
        make(copy.folder)
    return held


def without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if "seconds" not in key}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def test_a_study_on_a_store_is_the_study_on_a_disk(tmp_path, tiny_generator, bucket, capsys):
    config = write_study(tmp_path, tiny_generator, seeds=1)
    head = "config.recipes.mine = tuple({**stage, 'trainable': ('head',)} for stage in config.recipes.bridged)"
    text = config.read_text().replace("bridged_plus_plus", "mine").replace("base_steps = 3", "base_steps = 40")
    config.write_text(text.replace("    return config", f"    {head}\n    return config"))
    words = ["--config", str(config), "--workdir"]
    assert main(["run", *words, str(tmp_path / "local")]) == 0
    assert main(["generate", *words, URL]) == 0
    assert capsys.readouterr().out.split()[-1] == f"{URL}/synthetic"
    made = bucket()
    saved: list[int] = []
    restored: list[int] = []
    save, restore = Checkpoints.save, Checkpoints.restore

    def interrupt_second(self, step, state, notes, best=None):
        save(self, step, state, notes, best)
        saved.append(step)
        if len(saved) == 2:
            raise KeyboardInterrupt

    def count(self, step, like):
        restored.append(step)
        return restore(self, step, like)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupt_second)
        assert main(["run", *words, URL]) == 130
    assert sorted(name.partition("/checkpoints/")[2] for name in bucket() if "checkpoint" in name) == [
        f"{step}.tar" for step in saved
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "restore", count)
        assert main(["run", *words, URL]) == 0
    assert restored == saved[1:]
    assert capsys.readouterr().out.split()[-1] == f"{URL}/report.html"

    on_disk, on_store = files(tmp_path / "local"), bucket()
    assert set(on_disk) == set(on_store)
    assert {name: content for name, content in on_store.items() if name.startswith("synthetic/")} == {
        name: content for name, content in on_disk.items() if name.startswith("synthetic/")
    }
    assert made.items() & on_store.items() >= {item for item in made.items() if item[0].startswith("synthetic/")}
    ours, theirs = (
        without_seconds([json.loads(line) for line in each["results.jsonl"].splitlines()]) for each in (on_store, on_disk)
    )
    assert ours == theirs
    # The report is a function of the files: the same bytes from a folder that holds them.
    for name, content in on_store.items():
        (tmp_path / "same" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "same" / name).write_bytes(content)
    for folder in (str(tmp_path / "same"), URL):
        assert main(["report", "--workdir", folder]) == 0
    assert bucket() == files(tmp_path / "same") == on_store
    # Another config is refused by the name that the user gave the workdir, and nothing is touched.
    assert main(["run", *words, URL, "--config.generator.steps=3"]) == 2
    assert f"--workdir {URL} holds the work of another config" in capsys.readouterr().err
    assert bucket() == on_store


def test_files_reach_the_store_in_order_as_the_command_works(bucket, monkeypatch):
    monkeypatch.setattr(stored_workdir, "_SECONDS_BETWEEN", 0.02)
    monkeypatch.setattr(stored_workdir, "_SETTLED_SECONDS", 0.1)
    seen: list[set[str]] = []
    with working_copy(URL) as copy:
        names = [f"set/{kind}-{number:02d}" for number in range(15) for kind in ("sidecar", "shard")][::-1]
        (copy.folder / "set").mkdir()
        for name in names:
            write_atomic(copy.folder / name, name)
            (copy.folder / ".tmp-aside").touch()
            seen.append(set(bucket()))
            threading.Event().wait(0.02)
        assert any(0 < len(there) < len(names) for there in seen)
    for there in seen:  # each moment a beginning of what was written
        assert there == set(names[: len(there)])
    assert set(bucket()) == set(names)
    with working_copy(URL) as copy:
        assert set(files(copy.folder)) == set(names)
        (copy.folder / names[0]).unlink()
        write_atomic(copy.folder / names[1], "new")
    assert bucket() == {name: name.encode() for name in names[2:]} | {names[1]: b"new"}
    assert not copy.folder.exists()


def test_a_store_that_takes_no_more_costs_nothing_that_was_made(bucket, no_thread):
    classifier = "runs/arm/seed0/classifier"
    url = URL.replace("memory", "takes")

    def make(folder: Path) -> None:
        (folder / classifier).mkdir(parents=True)
        for name in ("weights", "config.json"):
            (folder / classifier / name).write_text(name)

    RefusingStore.left = 3  # the look at whether it takes anything, the mark and one of two files
    with pytest.raises(UserError, match=r"Forbidden.*what was made is kept in .*: copy it there") as told:
        opened(url, make=make)
    kept = Path(str(told.value).split("kept in ")[1].split(": copy")[0])
    assert set(files(kept)) == {f"{classifier}/weights", f"{classifier}/config.json"}
    RefusingStore.left = 100
    assert opened(url, make=make) == {}  # half a classifier is none
    assert bucket() == files(kept)
    assert opened(url) == files(kept)
    RefusingStore.left = 0
    with pytest.raises(UserError, match=r"takes://bucket/work cannot be used .*Forbidden.*that you may read, write"):
        opened(url)


def test_a_signal_leaves_what_is_finished_on_the_store(bucket, no_thread, capsys, monkeypatch):
    def make(folder: Path) -> None:
        (folder / "finished").write_text("whole")
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)

    def put(self, file: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # while the last upload is on its way
        upload(self, file)

    upload = StoreObject.upload
    monkeypatch.setattr(StoreObject, "upload", put)
    with pytest.raises(SystemExit) as ended:
        opened(URL, make=make)
    assert ended.value.code == os.EX_TEMPFAIL
    assert capsys.readouterr().err.count("ended by SIGTERM; what is finished is kept") == 1
    assert bucket() == {"finished": b"whole"}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_cannot_work_on_a_store_is_one_sentence(bucket, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"memory://.*workers of executor='ray' do not see; give a folder"):
        opened(URL, "ray")
    with pytest.raises(UserError, match=r"nowhere:// is no storage that fsspec knows"):
        opened("nowhere://bucket/work")
    for path in (Path("gs://bucket/work"), Path("memory://bucket")):
        with pytest.raises(UserError, match=r"is a URL in place of a folder.*working_copy"):
            check_workdir(path, {}, lambda old, new: [])
    with pytest.raises(UserError, match=r"gs://bucket/work is a URL; give a folder"):
        improve(tmp_path, workdir="gs://bucket/work")
    monkeypatch.setattr(runtime, "place", lambda: runtime.Place("a launcher", 0, 2))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"on which the 2 processes of a command cannot meet"):
        opened(URL)
    assert bucket() == {}
