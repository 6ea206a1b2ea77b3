"""Synthetic sets: whole or absent, the same after any interruption, and refused when they are another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bridgejax.diffusion import load_pipeline
from bridgejax.errors import UserError
from bridgejax.synthesis import generate_set, open_set

OPTIONS = {"class_names": ["a b", "ü/<b>"], "per_class": 5, "batch_size": 2, "template": ("a {}", "the {}"), "steps": 3}


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_set_holds_the_planned_images(tmp_path, fake):
    made = generate_set(tmp_path / "set", pipeline=fake, **OPTIONS, negative_prompt="blur")
    records = list(made)
    assert len(records) == len(made) == made.images_made == 10
    assert 0 < made.seconds < 60
    assert set(fake.batches) == {2}
    assert {(r["class_name"], r["label"], r["index"]) for r in records} == {
        (name, label, i) for label, name in enumerate(OPTIONS["class_names"]) for i in range(5)
    }
    one = records[3]
    pixels = fake(
        [one["prompt"]], seeds=[one["seed"]], steps=3, guidance_scale=1, negative_prompt="", height=8, width=12, scheduler=None
    )
    np.testing.assert_array_equal(one["image"], np.rint(pixels[0] * 255).astype(np.uint8))
    assert one["prompt"] == "the ü/<b>"
    assert (one["negative_prompt"], one["generator"]) == ("blur", "f" * 64)
    assert not [name for name in content(tmp_path / "set") if "tmp" in name or "lock" in name]


def test_images_do_not_depend_on_batch_or_class_order(tmp_path, fake):
    first = generate_set(tmp_path / "a", pipeline=fake, **OPTIONS)
    other = OPTIONS | {"class_names": OPTIONS["class_names"][::-1], "batch_size": 3}
    second = generate_set(tmp_path / "b", pipeline=fake, **other)
    key = lambda r: (r["class_name"], r["index"])  # noqa: E731
    for left, right in zip(sorted(first, key=key), sorted(second, key=key), strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])
        assert (left["prompt"], left["seed"]) == (right["prompt"], right["seed"])


def test_what_a_lost_worker_left_of_a_shard_is_gone_from_the_finished_set(tmp_path, fake):
    folder = tmp_path / "set"

    def carry_out(shards):
        for place in (folder, folder / "sidecars"):  # one worker is killed, another makes all
            (place / ".tmp-half").write_bytes(b"half")
        generate_set(folder, pipeline=fake, **OPTIONS, shards=shards)

    assert generate_set(folder, pipeline=fake, **OPTIONS, carry_out=carry_out).images_made == 10
    generate_set(tmp_path / "alone", pipeline=fake, **OPTIONS)
    assert content(folder) == content(tmp_path / "alone")


def test_a_finished_set_is_not_made_again(tmp_path, fake):
    generate_set(tmp_path, pipeline=fake, **OPTIONS)
    before = content(tmp_path)
    fake.batches.clear()
    again = generate_set(tmp_path, pipeline=fake, **OPTIONS | {"batch_size": 5})
    assert fake.batches == []
    assert again.images_made == 0
    assert content(tmp_path) == before


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "sidecar", "sidecar's key", "sidecar's index"])
def test_a_damaged_shard_is_named_and_made_again(tmp_path, fake, capfd, harm):
    generate_set(tmp_path, pipeline=fake, **OPTIONS)
    before = content(tmp_path)
    victim = tmp_path / "bridgejax_synthetic-train.tfrecord-00002"
    data = bytearray(victim.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    elif harm == "cut":
        victim.write_bytes(data[:-10])
    elif harm == "remove":
        victim.unlink()
    else:
        sidecar = tmp_path / "sidecars" / "00002.json"
        changed = {"sidecar's key": ('"bytes"', '"cytes"'), "sidecar's index": ('"images": "', '"images": "A')}
        old, new = changed.get(harm, (sidecar.read_text(), "{"))
        assert old in sidecar.read_text()
        sidecar.write_text(sidecar.read_text().replace(old, new))
    if "sidecar" not in harm:
        with pytest.raises(UserError, match=r"shard 2 of .* is damaged"):
            open_set(tmp_path)
    fake.batches.clear()
    assert generate_set(tmp_path, pipeline=fake, **OPTIONS).images_made == 2
    assert "shard 2" in capfd.readouterr().err
    assert fake.batches == [2]
    assert content(tmp_path) == before


def test_a_larger_set_keeps_what_is_there(tmp_path, fake):
    generate_set(tmp_path / "grown", pipeline=fake, **OPTIONS, shard_size=4)
    fake.batches.clear()
    grown = generate_set(tmp_path / "grown", pipeline=fake, **OPTIONS | {"per_class": 8})
    assert sum(fake.batches) == 8  # the short last shard anew, and one more
    whole = generate_set(tmp_path / "whole", pipeline=fake, **OPTIONS | {"per_class": 8}, shard_size=4)
    assert content(tmp_path / "grown") == content(tmp_path / "whole")
    assert grown.digest == whole.digest
    with pytest.raises(UserError, match="8 images per class"):
        generate_set(tmp_path / "grown", pipeline=fake, **OPTIONS)
    assert len(list(open_set(tmp_path / "grown", per_class=3))) == 6


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"steps": 4}, "steps is 3 there and 4 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"template": "{}"}, r'templates is \["a \{\}", "the \{\}"\] there and \["\{\}"\] here'),
        ({"class_names": ["a b", "c"]}, r'class_names is \["a b", "ü/<b>"\] there and \["a b", "c"\] here'),
        ({"negative_prompt": "x"}, 'negative_prompt is "" there and "x" here'),
        ({"shard_size": 3}, r"holds shards of 2 images, not 3; set synthetic\.shard_size=2"),
    ],
)
def test_a_folder_of_another_set_is_left_alone(tmp_path, fake, change, key):
    generate_set(tmp_path, pipeline=fake, **OPTIONS)
    before = content(tmp_path)
    with pytest.raises(UserError, match=key):
        generate_set(tmp_path, pipeline=fake, **OPTIONS | change)
    assert content(tmp_path) == before


def test_a_mistake_leaves_no_folder_behind(tmp_path, fake):
    with pytest.raises(UserError, match=r"^prompts\.template 'x' has no"):
        generate_set(tmp_path / "set", pipeline=fake, **OPTIONS | {"template": "x"})

    def broken(prompts, **options):
        return np.full((len(prompts), 8, 12, 3), np.nan, np.float32)

    with pytest.raises(UserError, match="pixels that are not finite for 'a a b'"):
        generate_set(tmp_path / "set", pipeline=broken, **OPTIONS, height=8, width=12)
    assert not (tmp_path / "set").exists()


def test_a_file_or_anothers_data_set_is_refused(tmp_path, fake):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file; give a folder"):
        generate_set(tmp_path / "file", pipeline=fake, **OPTIONS)
    (tmp_path / "alien").mkdir()
    (tmp_path / "alien" / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="did not generate"):
        generate_set(tmp_path / "alien", pipeline=fake, **OPTIONS)
    with pytest.raises(UserError, match="absent holds no finished synthetic set"):
        open_set(tmp_path / "absent")


def test_a_set_killed_again_and_again_is_the_same_byte_for_byte(tmp_path, fake, fake_file):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = OPTIONS | {"per_class": 30}
    generate_set(whole, pipeline=fake, **options)
    program = (
        f"import sys; sys.path.insert(0, {str(fake_file.parent)!r})\n"
        "from fake_pipeline import FakePipeline\n"
        "from bridgejax.synthesis import generate_set\n"
        f"generate_set({str(killed)!r}, pipeline=FakePipeline(pause=0.03), **{options!r})\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    stood = []
    for aim in (3, 11, 19):
        process = subprocess.Popen([sys.executable, "-c", program], env=environment)
        limit = time.monotonic() + 120
        while len(list(killed.glob("sidecars/0*.json"))) < aim and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        stood.append(len(list(killed.glob("sidecars/0*.json"))))
        assert not (killed / "dataset_info.json").exists()
    assert stood == sorted(set(stood))  # each start went on where the last one was killed
    (killed / ".tmp-bridgejax_synthetic-train.tfrecord-00029.1").write_bytes(b"left by a killed process")
    fake.batches.clear()
    generate_set(killed, pipeline=fake, **options)
    assert len(fake.batches) == 30 - stood[-1]
    assert content(killed) == content(whole)


def test_a_full_disk_is_one_sentence_and_leaves_whole_shards_only(tmp_path, fake, monkeypatch):
    from bridgejax.synthesis import store

    real, calls = store.frame_record, []

    def fills_up(record):
        calls.append(1)
        if len(calls) > 7:
            raise OSError(28, "No space left on device")
        return real(record)

    monkeypatch.setattr(store, "frame_record", fills_up)
    with pytest.raises(UserError, match="No space left on device"):
        generate_set(tmp_path / "set", pipeline=fake, **OPTIONS)
    monkeypatch.undo()
    assert not [name for name in content(tmp_path / "set") if "tmp" in name]
    generate_set(tmp_path / "whole", pipeline=fake, **OPTIONS)
    fake.batches.clear()
    generate_set(tmp_path / "set", pipeline=fake, **OPTIONS)
    assert len(fake.batches) == 2
    assert content(tmp_path / "set") == content(tmp_path / "whole")


def test_two_processes_of_a_host_do_not_share_a_folder(tmp_path, fake):
    from bridgejax.synthesis.store import exclusive

    with exclusive(tmp_path / "set"), pytest.raises(UserError, match="another process is generating into"):
        generate_set(tmp_path / "set", pipeline=fake, **OPTIONS)


def test_shards_of_several_hosts_make_the_same_set(tmp_path, fake, monkeypatch):
    from bridgejax.synthesis import generate

    alone = generate_set(tmp_path / "alone", pipeline=fake, **OPTIONS)
    for process in (1, 2, 0):  # process 0 last: it finds all shards, as it would after the barrier
        monkeypatch.setattr(generate, "_processes", lambda process=process: (process, 3))
        if process:
            with pytest.raises(UserError, match="lacks shards of other processes; start all 3 processes"):
                generate_set(tmp_path / "hosts", pipeline=fake, **OPTIONS)
        else:
            together = generate_set(tmp_path / "hosts", pipeline=fake, **OPTIONS)
    assert content(tmp_path / "hosts") == content(tmp_path / "alone")
    assert together.digest == alone.digest


def test_a_real_pipeline_makes_a_set_and_goes_on_with_it(tmp_path, tiny_pipeline, tiny_generator):
    options = {"class_names": ["cat", "dog"], "per_class": 3, "batch_size": 4, "steps": 2, "shard_size": 4}
    whole = generate_set(tmp_path / "a", pipeline=tiny_pipeline, **options)
    assert next(iter(whole))["image"].shape == (16, 16, 3)
    assert whole.identity["dtype"] == "float32"
    generate_set(tmp_path / "b", pipeline=tiny_pipeline, **options | {"per_class": 2})
    generate_set(tmp_path / "b", pipeline=tiny_pipeline, **options)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    # What changes pixels without changing the generator's files makes another set.
    for changed, words in (
        ({"dtype": "bfloat16", "param_dtype": "float32"}, '"bfloat16 on float32 parameters" here'),
        ({"vae_tile": 16}, "vae_tile is null there and 16 here"),
    ):
        with pytest.raises(UserError, match=words):
            generate_set(tmp_path / "a", pipeline=load_pipeline(tiny_generator, **changed), **options)
