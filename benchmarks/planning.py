"""Plans a million images with a null generator, opens an index of ten million, and tells rates and memory.

    python -m benchmarks planning                # writes docs/results/planning.json
    python -m benchmarks planning --quick        # a hundredth of both; the file is left as it is

Planning is what the engine does to know an image: its class, index, prompt and seed, the digest that its shard's sidecar
keeps, and the call of the generator batch by batch; the null generator returns one black image for all. Nothing is compressed
or written. The set that is opened has an identity, TFDS's files, empty record files, and sidecars of the format and size that
real ones have. Each part runs in a process of its own; the system tells its peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "planning.json"
CLASSES = 1000
BATCH = 64
_MIB = 1 << 20


def plan_images(images: int) -> dict[str, float]:
    """Plans a set of so many images and hands each batch to a null generator."""
    from bridgejax.synthesis import make_plan

    image = np.zeros((1, 8, 8, 3), np.uint8)

    def null(prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        return np.broadcast_to(image, (len(prompts), 8, 8, 3))

    plan = make_plan([f"class {label}" for label in range(CLASSES)], images // CLASSES, ("a {}", "the {}"), 0, batch_size=BATCH)
    plan.rows_digest(0)  # compiles
    before, busy, began = _peak(), time.process_time(), time.perf_counter()
    made = tenth = 0
    for shard in range(plan.num_shards):
        items = plan.shard(shard)
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            made += len(null([item.prompt for item in part], [item.seed for item in part]))
        plan.rows_digest(shard)
        if not tenth and made >= images // 10:
            tenth = _peak()
    seconds = time.perf_counter() - began
    return {
        "images": made,
        "shards": plan.num_shards,
        "seconds": seconds,
        "processor_seconds": time.process_time() - busy,
        "images_per_second": made / seconds,
        "peak_mib_before": before / _MIB,
        "peak_mib_after_a_tenth": tenth / _MIB,
        "peak_mib": _peak() / _MIB,
    }


def fabricate(folder: Path, images: int) -> None:
    """Writes a finished set of so many images, with sidecars as real ones and without pixels."""
    from bridgejax.data.set_index import SIDECARS, SPANS_KEY, pack_spans, sidecar_path
    from bridgejax.files import write_json
    from bridgejax.identity import digest
    from bridgejax.synthesis import make_plan, tfds_files
    from bridgejax.synthesis.store import IDENTITY_FILE, SetIdentity, ShardFile, Sidecar, StoredSet

    names = [f"class {label}" for label in range(CLASSES)]
    plan = make_plan(names, images // CLASSES, "a {}", 0, batch_size=BATCH)
    identity = SetIdentity(
        generator="0" * 64,
        dtype="bfloat16",
        scheduler=None,
        steps=50,
        guidance_scale=7.5,
        negative_prompt="",
        height=512,
        width=512,
        seed=0,
        class_names=names,
        templates=["a {}"],
        variants={},
        format=1,
    )
    (folder / SIDECARS).mkdir(parents=True)
    stored = StoredSet(identity=identity, per_class=plan.per_class, shard_size=plan.shard_size, formats=[tfds_files.TFRECORD])
    write_json(folder / IDENTITY_FILE, stored)
    for shard in range(plan.num_shards):
        starts = np.arange(plan.shard_length(shard), dtype=np.int64) * 470_000 + 150
        file = tfds_files.shard_name(shard, tfds_files.TFRECORD)
        sidecar = Sidecar(
            shard=shard,
            identity=digest(identity),
            rows="0" * 64,
            num_examples=len(starts),
            files={file: ShardFile(sha256="0" * 64, bytes=470_000 * len(starts))},
        )
        spans = pack_spans(np.stack([starts, starts + 469_700], axis=1))
        sidecar_path(folder, shard).write_text(json.dumps({**sidecar, SPANS_KEY: spans}))
        (folder / file).touch()
    tfds_files.write_tfds_files(
        folder,
        description="Fabricated.",
        formats=[tfds_files.TFRECORD],
        shard_lengths=[plan.shard_length(shard) for shard in range(plan.num_shards)],
        num_bytes=470_000 * len(plan),
        class_names=names,
        height=512,
        width=512,
    )


def open_images(folder: Path, images: int) -> dict[str, float]:
    """Opens a fabricated set and its index: afterwards the place of any image is known."""
    from bridgejax.data.set_index import read_spans
    from bridgejax.synthesis import open_set

    before, busy, began = _peak(), time.process_time(), time.perf_counter()
    opened = open_set(folder, verify=False)
    known = time.perf_counter() - began
    places = read_spans(folder, [opened.shard_length(shard) for shard in range(len(opened.shard_files))])
    seconds = time.perf_counter() - began
    if places is None or len(places) != len(opened) or len(opened) != images:
        raise RuntimeError("the index is not of the whole set")
    return {
        "images": len(places),
        "shards": len(opened.shard_files),
        "open_seconds": known,
        "seconds": seconds,
        "processor_seconds": time.process_time() - busy,
        "index_mib": places.nbytes / _MIB,
        "peak_mib_before": before / _MIB,
        "peak_mib": _peak() / _MIB,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures both parts, prints them as JSON and keeps them; returns 1 where a stated rate is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the images; the results are left as they are")
    parser.add_argument("--part", choices=("plan", "open"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    share = 100 if options.quick else 1
    planned, opened = 1_000_000 // share, 10_000_000 // share
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "plan": lambda: plan_images(planned),
        "open": lambda: open_images(options.folder, opened),
    }
    if options.part:
        print(json.dumps(parts[options.part]()))
        return 0
    from benchmarks.machine import facts
    from bridgejax.files import write_json

    with tempfile.TemporaryDirectory() as folder:
        fabricate(Path(folder) / "set", opened)
        command = [sys.executable, "-m", "benchmarks.planning", "--folder", str(Path(folder) / "set")]
        command += ["--quick"] if options.quick else []
        figures = {
            part: json.loads(subprocess.run([*command, "--part", part], cwd=ROOT, check=True, capture_output=True).stdout)
            for part in parts
        }
    figures = {part: {key: round(value, 2) for key, value in row.items()} for part, row in figures.items()}
    print(json.dumps(figures, indent=1))
    if not options.quick:
        write_json(
            RESULTS, {"benchmark": "planning", "command": "python -m benchmarks planning", **figures, "machine": facts()}
        )
    fast = figures["plan"]["images_per_second"] >= 20_000 and figures["open"]["seconds"] < 5
    flat = figures["plan"]["peak_mib"] - figures["plan"]["peak_mib_after_a_tenth"] < 16
    return 0 if fast and flat else 1


if __name__ == "__main__":
    sys.exit(main())
