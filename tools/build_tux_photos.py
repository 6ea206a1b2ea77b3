"""Rebuilds bridgejax/assets/tux_photos from Debian's tuxpaint-stamps-default.

Run from the repository's root, after the EfficientNet-Lite0 asset is there (it finds the near duplicates):

    python tools/build_tux_photos.py [--source FOLDER] [--target bridgejax/assets/tux_photos]

Without `--source` the package is fetched with `apt-get download` and unpacked with `dpkg-deb -x`; the folder may be any
parent of `stamps/`. Only photographs are taken: no `cartoon`, `toys` or `plastic` folder.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PACKAGE = "tuxpaint-stamps-default"
VERSION = "2022.06.04-1"
# Class → folder below stamps/ (with all folders below it) and how many photographs it holds in this version.
CLASSES = {
    "bird": ("animals/birds", 35),
    "fish": ("animals/fish", 11),
    "flower": ("plants/flowers", 24),
    "fruit": ("food/fruit", 26),
    "insect": ("animals/insects", 9),
    "mammal": ("animals/mammals", 64),
    "musical_instrument": ("hobbies/music", 11),
    "road_sign": ("town/roadsigns", 21),
    "tool": ("household/tools", 13),
    "vegetable": ("food/vegetables", 18),
    "vehicle": ("vehicles", 19),
}
LEFT_OUT = {"cartoon", "toys", "plastic"}
LONGEST_SIDE = 128
JPEG_QUALITY = 93
FEATURE_SIZE = 160
# Near duplicates lie above 0.95; the margin covers other ways to resize. The next pair is below 0.90.
DUPLICATE_COSINE = 0.94
LICENCES = (Path("/usr/share/common-licenses/GPL-2"),)
PROVENANCE = f"""# tux_photos

- Source: Debian package `{PACKAGE}` {VERSION} (upstream: Tux Paint stamps, https://tuxpaint.org), folder
  `usr/share/tuxpaint/stamps`. Copyright 2002-2022 Bill Kendrick and the contributors named by the project.
- Licence: GPL-2 or later, as the package says (see LICENSE).
- Taken: the PNG files of {len(CLASSES)} topic folders, without the folders {", ".join(sorted(LEFT_OUT))}; the folder
  decides the class. The folders are the project's own, with their oddities: a slug and a woodlouse among the insects, a
  lobster and a shrimp among the fish, a drawn hedgehog and an echidna's silhouette among the mammals, drawn signs among the
  road signs, and two overlays (`sedan_police`) among the vehicles. None was moved or removed.
- Changes: composited on white, made smaller so that the longest side is at most {LONGEST_SIDE} px (never larger), saved as
  JPEG of quality {JPEG_QUALITY} without colour subsampling.
- Captions: the first line of the stamp's own text file.
- Groups: two photographs share a group if their EfficientNet-Lite0 features ({FEATURE_SIZE} px, on a white square; the
  second one also mirrored) have a cosine above {DUPLICATE_COSINE}: 0.95 with a margin for other ways to resize.
  A group must not span training and test.
- Rebuilt by: `python tools/build_tux_photos.py`.
"""


def fetch(folder: Path) -> Path:
    """Downloads the Debian package and unpacks it below `folder`, without installing it."""
    subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    archive = next(folder.glob(f"{PACKAGE}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / "unpacked")], check=True)
    return folder / "unpacked"


def stamps_folder(source: Path) -> Path:
    """Returns the `stamps` folder at or below `source`; exits with a sentence where there is none."""
    if source.name == "stamps" and source.is_dir():
        return source
    found = [path for path in sorted(source.rglob("stamps")) if path.is_dir() and (path / "animals").is_dir()]
    if not found:
        sys.exit(f"{source} holds no stamps folder; give the unpacked package {PACKAGE} as --source.")
    return found[0]


def photographs(stamps: Path, folder: str) -> list[Path]:
    """Returns the photographs of a topic folder, in order."""
    root = stamps / folder
    return [path for path in sorted(root.rglob("*.png")) if not LEFT_OUT & set(path.relative_to(root).parts)]


def on_white(path: Path) -> Image.Image:
    """Reads a stamp as RGB: composited on white, longest side at most LONGEST_SIDE."""
    with Image.open(path) as opened:
        stamp = opened.convert("RGBA")
    canvas = Image.new("RGBA", stamp.size, (255, 255, 255, 255))
    canvas.alpha_composite(stamp)
    image = canvas.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return image


def caption(path: Path, fallback: str) -> str:
    """Returns the English caption: the first line of the text file beside a stamp, without its full stop."""
    text = path.with_suffix(".txt")
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines() if text.is_file() else []
    return lines[0].strip().rstrip(".") if lines and lines[0].strip() else fallback


def features(images: list[Image.Image]) -> np.ndarray:
    """Returns unit-length EfficientNet-Lite0 features [n, 1280] of images centred on a white square."""
    import jax
    from flax import nnx

    from bridgejax.models import load_classifier

    model = load_classifier("builtin:efficientnet_lite0")
    mean, std = (np.asarray(values, np.float32) for values in (model.preprocessing.mean, model.preprocessing.std))
    run = nnx.jit(lambda module, batch: module.features(batch))
    rows = []
    for image in images:
        square = ImageOps.pad(image, (FEATURE_SIZE, FEATURE_SIZE), Image.Resampling.BICUBIC, color="white")
        pixels = (np.asarray(square, np.float32) / 255 - mean) / std
        rows.append(np.asarray(jax.block_until_ready(run(model, pixels[None])))[0])
    stacked = np.stack(rows)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def group_near_duplicates(images: list[Image.Image]) -> tuple[list[int], list[tuple[int, int, float]]]:
    """Numbers the groups of images whose features are closer than DUPLICATE_COSINE, mirrored or not (transitively)."""
    straight = features(images)
    mirrored = features([ImageOps.mirror(image) for image in images])
    cosine = np.maximum(straight @ straight.T, straight @ mirrored.T)
    cosine = np.maximum(cosine, cosine.T)
    parent = list(range(len(images)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    pairs = []
    for i, j in np.argwhere(np.triu(cosine > DUPLICATE_COSINE, 1)):
        pairs.append((int(i), int(j), float(cosine[i, j])))
        first, second = sorted((root(int(i)), root(int(j))))
        parent[second] = first
    roots = [root(i) for i in range(len(images))]
    number = {value: index for index, value in enumerate(dict.fromkeys(roots))}
    return [number[value] for value in roots], pairs


def licence() -> str:
    """Returns the text of the GPL version 2 that Debian installs."""
    for path in LICENCES:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    sys.exit(f"none of {', '.join(map(str, LICENCES))} is there; run this on Debian or put the text of the GPL-2 there.")


def build(source: Path, target: Path) -> None:
    """Writes the asset at `target`, in place of what was there."""
    stamps = stamps_folder(source)
    records, images, blobs = [], [], []
    for name, (folder, count) in CLASSES.items():
        paths = photographs(stamps, folder)
        if len(paths) != count:
            sys.exit(f"{stamps / folder} holds {len(paths)} photographs, expected {count}; use {PACKAGE} {VERSION}.")
        for path in paths:
            image = on_white(path)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
            stem = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
            records.append({"file": f"{name}/{stem}.jpg", "class": name, "caption": caption(path, stem.replace("_", " "))})
            blobs.append(buffer.getvalue())
            images.append(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    if len({record["file"] for record in records}) != len(records):
        sys.exit("two stamps would get the same file name; change the naming rule.")
    groups, pairs = group_near_duplicates(images)
    text = licence()
    if target.exists():
        shutil.rmtree(target)
    for record, blob in zip(records, blobs, strict=True):
        file = target / record["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(blob)
    rows = [{**record, "group": group} for record, group in zip(records, groups, strict=True)]
    body = ",\n  ".join(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows)
    classes = json.dumps(list(CLASSES))
    (target / "index.json").write_text(f'{{"classes": {classes},\n "images": [\n  {body}\n ]}}\n', encoding="utf-8")
    (target / "LICENSE").write_text(text, encoding="utf-8")
    (target / "PROVENANCE.md").write_text(PROVENANCE, encoding="utf-8")
    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    sums = [f"{hashlib.sha256((target / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (target / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    for first, second, cosine in pairs:
        print(f"{cosine:.3f}  {records[first]['file']}  {records[second]['file']}")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {len(rows)} photographs, {len(set(groups))} groups, {len(pairs)} pairs, {size / 2**20:.2f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder of the unpacked package (default: apt-get download)")
    parser.add_argument("--target", type=Path, default=Path("bridgejax/assets/tux_photos"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        build(arguments.source or fetch(Path(temporary)), arguments.target)


if __name__ == "__main__":
    main()
