"""Sets on an object store: the same objects as files on a disk, and one sentence where the store refuses."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bridgejax.errors import UserError
from bridgejax.synthesis import export_set, generate_set, merge_sets, open_set, verify_set

OPTIONS = {"class_names": ["a", "ü"], "per_class": 5, "batch_size": 2, "steps": 3, "shard_size": 4}


class RefusingStore(MemoryFileSystem):
    """Takes what is read, and nothing that is written after so many objects."""

    protocol = "refusing"
    left = 0
    words = "Forbidden: no storage.objects.create"

    def pipe_file(self, path, value, **options):
        self._count()
        return super().pipe_file(path, value, **options)

    def put_file(self, *arguments, **options):
        self._count()
        return super().put_file(*arguments, **options)

    def _count(self) -> None:
        RefusingStore.left -= 1
        if RefusingStore.left < 0:
            raise RuntimeError(self.words)  # as a store's own client would, not as an OSError


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()


def objects(store, folder: str) -> dict[str, bytes]:
    return {name.removeprefix(f"/{folder}/"): store.cat_file(name) for name in store.find(f"/{folder}")}


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_set_on_a_store_is_the_set_on_a_disk(tmp_path, fake, memory):
    local = generate_set(tmp_path / "set", pipeline=fake, **OPTIONS)
    made = generate_set("memory://bucket/set", pipeline=fake, **OPTIONS)
    assert made.images_made == 10
    assert objects(memory, "bucket/set") == files(tmp_path / "set")
    assert [r["image"].tobytes() for r in made] == [r["image"].tobytes() for r in local]
    fake.batches.clear()
    assert generate_set("memory://bucket/set", pipeline=fake, **OPTIONS).images_made == 0
    generate_set("memory://bucket/set", pipeline=fake, **OPTIONS | {"per_class": 7})
    assert len(open_set("memory://bucket/set", per_class=5)) == 10


def test_damage_on_a_store_is_found_and_repaired(fake, memory):
    generate_set("memory://bucket/set", pipeline=fake, **OPTIONS)
    before = objects(memory, "bucket/set")
    name = "/bucket/set/bridgejax_synthetic-train.tfrecord-00001"
    memory.pipe_file(name, before["bridgejax_synthetic-train.tfrecord-00001"][:-3] + b"abc")
    assert list(verify_set("memory://bucket/set").damaged) == [1]
    fake.batches.clear()
    generate_set("memory://bucket/set", pipeline=fake, **OPTIONS)
    assert fake.batches == [2, 2]
    assert objects(memory, "bucket/set") == before


def test_export_and_merge_reach_stores(tmp_path, fake, memory):
    a = generate_set("memory://bucket/a", pipeline=fake, **OPTIONS)
    b = generate_set(tmp_path / "b", pipeline=fake, **OPTIONS | {"class_names": ["c"]})
    whole = generate_set(tmp_path / "whole", pipeline=fake, **OPTIONS | {"class_names": ["a", "ü", "c"]})
    merge_sets("memory://bucket/merged", ["memory://bucket/a", b.directory])
    assert objects(memory, "bucket/merged") == files(whole.directory)
    export_set(a.directory, tmp_path / "tars", "webdataset")
    export_set(a.directory, "memory://bucket/tars", "webdataset")
    assert objects(memory, "bucket/tars") == files(tmp_path / "tars")
    with pytest.raises(UserError, match="ImageFolder is a file per image"):
        export_set(a.directory, "memory://bucket/images", "imagefolder")


def test_a_store_that_refuses_is_one_sentence_and_the_next_call_goes_on(fake, memory):
    fsspec.register_implementation("refusing", RefusingStore, clobber=True)
    RefusingStore.left = 0
    with pytest.raises(UserError, match=r"refusing://bucket/set.* could not be written .*Forbidden.*see that you may write"):
        generate_set("refusing://bucket/set", pipeline=fake, **OPTIONS)
    assert objects(memory, "bucket/set") == {}
    # identity, two shards and their sidecars, and no more: in the third shard the store refuses.
    RefusingStore.left = 1 + 2 * (len(open_formats()) + 1)
    with pytest.raises(UserError, match=r"refusing://bucket/set.*Forbidden"):
        generate_set("refusing://bucket/set", pipeline=fake, **OPTIONS)
    RefusingStore.left = 100
    fake.batches.clear()
    generate_set("refusing://bucket/set", pipeline=fake, **OPTIONS)
    assert fake.batches == [2]
    assert len(list(open_set("refusing://bucket/set"))) == 10


def open_formats() -> tuple[str, ...]:
    from bridgejax.synthesis.generate import _formats

    return _formats(None)


def test_a_store_that_is_not_known_or_not_installed_is_one_sentence(fake):
    with pytest.raises(UserError, match=r"nowhere://b/set: nowhere:// is no storage that fsspec knows"):
        generate_set("nowhere://b/set", pipeline=fake, **OPTIONS)
    with pytest.raises(UserError, match=r"cannot be reached .*install"):
        open_set("oss://bucket/set")
