"""The accelerator's benchmark: its budget, its record, its page, what happens when memory runs out, and a smoke run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator
from benchmarks.accelerator_parts import command, page
from benchmarks.accelerator_parts.budget import Budget, Part
from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.correctness import ordered, tolerance
from benchmarks.accelerator_parts.generators import PLANS, random_pipeline
from benchmarks.accelerator_parts.measure import halving, out_of_memory
from benchmarks.accelerator_parts.parts import NAMES, PARTS
from benchmarks.accelerator_parts.products import products
from benchmarks.accelerator_parts.record import Record

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND, THIRD = (Part(name, name.title(), name, seconds=100, least=30) for name in ("first", "second", "third"))


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_part_gets_its_seconds_and_what_the_run_has_beyond_all_parts() -> None:
    clock = Clock()
    budget = Budget(320, clock)
    assert budget.share(FIRST, [SECOND, THIRD]).seconds == 120  # 20 s are more than the three need
    clock.now += 10  # it left 110
    assert budget.share(SECOND, [THIRD]).seconds == 100 + 110
    clock.now += 210
    assert budget.share(THIRD, []).seconds == 100


def test_a_short_run_drops_its_last_parts_and_says_why() -> None:
    clock = Clock()
    budget = Budget(150, clock)
    assert budget.share(FIRST, [SECOND, THIRD]).seconds == 100
    clock.now += 100
    assert budget.share(SECOND, [THIRD]).seconds == 50
    clock.now += 45
    share = budget.share(THIRD, [])
    assert share.seconds == 0
    assert share.why == "5 s of the run's 150 s were left and it needs 30 s"
    clock.now += 1000
    assert budget.left() == 0


def test_the_default_run_ends_within_nine_minutes_and_has_time_for_what_matters_most() -> None:
    assert command.SECONDS <= 540
    assert sum(part.seconds for part in PARTS[:5]) <= command.SECONDS
    assert all(part.least <= part.seconds for part in PARTS)


def test_halving_names_the_batch_that_fits() -> None:
    tried = []

    def attempt(batch: int) -> str:
        tried.append(batch)
        if batch > 6:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1234 bytes.")
        return f"{batch} images"

    assert halving(32, attempt) == (4, "4 images")
    assert tried == [32, 16, 8, 4]


def test_halving_passes_on_what_is_no_lack_of_memory_and_what_one_image_lacks() -> None:
    def broken(batch: int) -> None:
        raise ValueError("another kind of trouble")

    def full(batch: int) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(ValueError, match="another kind"):
        halving(8, broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        halving(8, full)
    assert out_of_memory(MemoryError())


def test_the_record_keeps_whole_lines_and_joins_rows_of_a_case(tmp_path: Path) -> None:
    record = Record(tmp_path / "accelerator.jsonl")
    record.add("run", code="a", smoke=False)
    record.add("begin", part="first")
    record.add("row", part="first", row={"case": "batch 8", "compile, s": 3.0})
    record.add("row", part="first", row={"case": "batch 8", "images/s": 2.5})
    record.add("end", part="first", status="done", seconds=4.0)
    record.add("begin", part="second")
    record.add("row", part="second", row={"case": "x", "value": 1})
    with record.file.open("a") as file:
        file.write('{"kind": "row", "part": "second", "ro')  # the machine went away here
    parts = record.parts()
    assert parts["first"].rows == [{"case": "batch 8", "compile, s": 3.0, "images/s": 2.5}]
    assert (parts["first"].status, parts["second"].status) == ("done", "running")
    assert record.value("first", "batch 8", "images/s") == 2.5
    assert record.value("first", "batch 9", "images/s") is None
    assert record.done() == {"first"}
    assert record.goes_on({"code": "a", "smoke": False})
    assert not record.goes_on({"code": "b", "smoke": False})


def test_a_part_begun_again_shows_its_new_rows_alone_and_a_skipped_one_keeps_the_old(tmp_path: Path) -> None:
    record = Record(tmp_path / "accelerator.jsonl")
    for value in (1, 2):
        record.add("begin", part="first")
        record.add("row", part="first", row={"case": "x", "value": value})
    record.add("end", part="first", status="skipped", why="no time")
    found = record.parts()["first"]
    assert found.rows == [{"case": "x", "value": 2}]
    assert found.status == "running"


def write_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a child in the place of the real one: its parts find one row and then end well, fail, crash or go on for ever."""
    program = folder / "child.py"
    program.write_text(
        "import json, os, sys, time\n"
        "file, context = sys.argv[1], json.loads(sys.argv[2])\n"
        "def add(**line):\n"
        "    open(file, 'a').write(json.dumps({'part': context['part'], **line}) + '\\n')\n"
        "add(kind='row', row={'case': 'x', 'value': 1.5})\n"
        "if context['part'] == 'facts': add(kind='end', status='done', seconds=0.1)\n"
        "if context['part'] == 'correctness': add(kind='end', status='failed', why='ValueError: no', seconds=0.1)\n"
        "if context['part'] == 'sd15': print('the driver is gone', file=sys.stderr, flush=True); os._exit(7)\n"
        "if context['part'] == 'sdxl': time.sleep(600)\n"
    )
    follow = command.follow

    def instead(words: list[str], log: Path, seconds: float, *rest: object) -> int | None:
        return follow([sys.executable, str(program), *words[3:]], log, min(seconds, 1.5), *rest)

    monkeypatch.setattr(command, "follow", instead)


def test_each_part_ends_in_its_own_way_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parts(tmp_path, monkeypatch)
    monkeypatch.setattr(command, "code_digest", lambda: "a")
    wanted = ["--only", "facts", "correctness", "sd15", "sdxl", "--smoke", "--budget", "60", "--output", str(tmp_path / "out")]
    began = time.monotonic()
    assert accelerator.main(wanted) == 1
    assert time.monotonic() - began < 30
    summary = json.loads((tmp_path / "out" / "accelerator.json").read_text())["parts"]
    told = {name: (part["status"], part["rows"]) for name, part in summary.items()}
    row = [{"case": "x", "value": 1.5}]
    assert told == {
        "facts": ("done", row),
        "correctness": ("failed", row),
        "sd15": ("failed", row),
        "sdxl": ("cut off", row),
    }
    assert summary["sd15"]["why"] == "its process ended with code 7: the driver is gone"
    assert "were over" in summary["sdxl"]["why"]
    assert "cut off after" in (tmp_path / "out" / "accelerator.md").read_text()
    capsys.readouterr()
    # The next run into the same folder goes on: what is done is not done again.
    assert accelerator.main(wanted) == 1
    assert "facts: kept from before" in capsys.readouterr().out
    # Other code begins anew, and the old findings lie beside.
    monkeypatch.setattr(command, "code_digest", lambda: "b")
    assert accelerator.main(wanted) == 1
    assert "facts: done" in capsys.readouterr().out
    assert (tmp_path / "out" / "accelerator.before.jsonl").exists()


def test_a_budget_that_is_no_time_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        accelerator.main(["--budget", "0"])
    assert "give a number of seconds above 0" in capsys.readouterr().err


def test_the_page_shows_tables_notes_and_what_failed(tmp_path: Path) -> None:
    record = Record(tmp_path / "accelerator.jsonl")
    record.add("run", command="python -m benchmarks accelerator", smoke=False)
    record.add("row", part="facts", row={"case": "device", "device": "a chip", "jax": "1.0"})
    record.add("row", part="facts", row={"case": "bfloat16 matrices", "TFLOP/s": 700.0})
    record.add("end", part="facts", status="done", seconds=3.0)
    record.add("row", part="sd15", row={"case": "batch 8", "images/s": 4.0, "of the matrix rate": 0.4567})
    record.add("row", part="sd15", row={"case": "batch 16", "images/s": 1234.5, "finite": True})
    record.add("row", part="sd15", row={"case": "batch 32", "note": "Batch 32 does not fit | really."})
    record.add("end", part="sd15", status="failed", why="XlaRuntimeError: broke.", seconds=9.0)
    page.write(record, PARTS)
    text = (tmp_path / "accelerator.md").read_text()
    assert "on a chip." in text
    assert "| jax | 1.0 |" in text  # what shares no column is a table of its own
    assert "| batch 8 | 4 | 0.457 |  |" in text
    assert "| batch 16 | 1,234 |  | yes |" in text
    assert "\nBatch 32 does not fit | really.\n" in text
    assert "sd15: failed after 9 s (XlaRuntimeError: broke)." in text
    assert "smoke" not in text
    assert page.shown("a | b\nc") == "a \\| b c"


def test_products_count_loops_convolutions_and_the_dearest_branch() -> None:
    def call(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = jax.lax.fori_loop(0, 3, lambda _, y: y @ jnp.ones((8, 8)), x)
        x = jax.lax.cond(x.sum() > 0, lambda y: y @ jnp.ones((8, 8)), lambda y: y, x)
        image = x.reshape(1, 4, 2, 8)
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    found = products(call, jax.ShapeDtypeStruct((8, 8), jnp.float32), jax.ShapeDtypeStruct((3, 3, 8, 5), jnp.float32))
    assert found.flops == 4 * 2 * 8 * 8 * 8 + 2 * (4 * 2 * 5) * (3 * 3 * 8)
    assert (found.count, found.longest) == (5, 72)


def test_tolerances_grow_with_depth_and_tell_tf32_from_float32() -> None:
    assert tolerance("bfloat16", 4, 64) == pytest.approx(2 * tolerance("bfloat16", 1, 64))
    tf32 = 2.0**-11  # half the spacing of its ten bits
    for count, longest in ((21, 4608), (50, 1536)):
        assert tolerance("float32", count, longest) < tf32 * math.sqrt(count)
        assert tolerance("bfloat16", count, longest) > 100 * tolerance("float32", count, longest)


def test_last_places_are_counted_across_zero() -> None:
    tiny = np.nextafter(np.float32(0), np.float32(1))
    values = ordered(np.array([-tiny, -0.0, 0.0, tiny, 1.0, np.nextafter(np.float32(1), np.float32(2))], np.float32))
    assert list(np.diff(values)) == [1, 0, 1, values[4] - 1, 1]


def test_random_networks_are_the_same_each_time_and_have_no_layer_without_effect() -> None:
    first, second = (random_pipeline("small sdxl", "float32") for _ in range(2))
    for left, right in zip(jax.tree.leaves(first.split[1]), jax.tree.leaves(second.split[1]), strict=True):
        assert np.array_equal(left, right)
        assert np.abs(np.asarray(left)).max() > 0


@pytest.mark.parity
@pytest.mark.parametrize("size", ["sd15", "small sd15"])
def test_the_hand_written_peer_has_the_parameters_of_diffusers(size: str) -> None:
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    from benchmarks.accelerator_parts.torch_unet import UNet

    with torch.device("meta"):
        mine, theirs = UNet(PLANS[size]["unet"]), diffusers.UNet2DConditionModel(**PLANS[size]["unet"])
    shapes = [{name: tuple(value.shape) for name, value in unet.state_dict().items()} for unet in (mine, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parity
def test_the_hand_written_peer_computes_what_diffusers_does() -> None:
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    from benchmarks.accelerator_parts.torch_unet import UNet

    config = {**PLANS["small sd15"]["unet"], "block_out_channels": [16, 32]}
    config |= {
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(**config).eval()
    mine = UNet(config).eval()
    mine.load_state_dict(theirs.state_dict())
    latents, text = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 32)
    with torch.no_grad():
        left, right = mine(latents, torch.full((2,), 500), text), theirs(latents, 500, text).sample
    assert float((left - right).abs().max()) <= 1e-5 * float(right.abs().max())


def test_a_context_survives_the_way_to_its_process() -> None:
    context = Context("sd15", True, 12.5, None, "somewhere")
    assert Context.from_json(context.to_json()) == context
    assert context.share(3.0) == {"TFLOP/s": 3.0}
    assert Context("sd15", True, 12.5, 4.0, "").share(3.0)["of the matrix rate"] == 0.75


@pytest.mark.slow
def test_a_smoke_run_needs_neither_tensorflow_nor_diffusers(tmp_path: Path) -> None:
    """Every part, in processes that cannot import what a machine with a GPU may lack."""
    blocked = ("tensorflow", "tensorflow_datasets", "ml_collections", "diffusers")
    # Python runs a sitecustomize that it finds in every process, children of children included.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {blocked!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    output = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "accelerator", "--smoke", "--budget", "500", "--output", str(output)],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    parts = json.loads((output / "accelerator.json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(NAMES, "done")
    assert all(part["rows"] for part in parts.values())
