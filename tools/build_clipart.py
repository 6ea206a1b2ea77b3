"""Build the clip-art training set of the tiny text-to-image model from two public packages.

Sources: Debian ``openclipart-png`` (public domain) and npm ``emoji-datasource-google`` (art Apache-2.0).
``--openclipart`` and ``--emoji`` accept unpacked folders; without them the packages are fetched with
``apt-get download`` + ``dpkg-deb -x`` and ``npm pack`` into ``--work``.

A picture gets a class and a noun when a word of its file name, or its folder, is in ``clipart_words.json``; pictures that
were looked at and found wrong are in ``clipart_review.json`` (``drop``), as are corrected names (``name``). All other colour
pictures become an unlabelled pool that only the autoencoder sees.

The output is one ``.npz``: ``images`` uint8 [n, 64, 64, 3] (composited on white, cropped to content), ``classes`` and
``nouns`` str [n], ``sources`` str [n], ``class_names`` str [11], ``pool`` uint8 [m, 64, 64, 3].

    python tools/build_clipart.py --output clipart.npz --sheets sheets/
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
MAX_PIXELS = 30_000_000  # a handful of posters above this would take most of the time
EMOJI_VERSION = "16.0.0"
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Picture:
    """One labelled picture: ``image`` uint8 [64, 64, 3], its class, its noun and where it came from."""

    image: np.ndarray
    label: str
    noun: str
    source: str


def fetch_openclipart(work: Path) -> Path:
    """Download and unpack Debian's ``openclipart-png`` below ``work``; returns the folder of topic folders."""
    work.mkdir(parents=True, exist_ok=True)
    if not list(work.glob("openclipart-png_*.deb")):
        subprocess.run(["apt-get", "download", "openclipart-png"], cwd=work, check=True)
    package = next(work.glob("openclipart-png_*.deb"))
    target = work / "openclipart"
    if not target.is_dir():
        subprocess.run(["dpkg-deb", "-x", str(package), str(target)], check=True)
    return target / "usr/share/openclipart/png"


def fetch_emoji(work: Path) -> Path:
    """Download and unpack npm's ``emoji-datasource-google`` below ``work``; returns the package folder."""
    work.mkdir(parents=True, exist_ok=True)
    name = f"emoji-datasource-google-{EMOJI_VERSION}.tgz"
    if not (work / name).is_file():
        subprocess.run(["npm", "pack", f"emoji-datasource-google@{EMOJI_VERSION}"], cwd=work, check=True)
    target = work / "emoji"
    if not target.is_dir():
        with tarfile.open(work / name) as archive:
            wanted = [m for m in archive.getmembers() if "/img/google/64/" in m.name or m.name.endswith("emoji.json")]
            archive.extractall(target, members=wanted, filter="data")
    return target / "package"


def load_square(path: Path, margin: float = 0.04, size: int = SIZE) -> np.ndarray | None:
    """Read a picture as uint8 [size, size, 3] on white, cropped to its content and padded to a square; None if unreadable.

    The alpha channel is premultiplied before the reduction so that transparent pixels do not bleed into the edges.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as opened,
        ):
            if opened.width * opened.height > MAX_PIXELS:
                return None
            opened.load()
            picture = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if max(picture.size) > 1024:
        picture.thumbnail((1024, 1024), Image.Resampling.BOX)
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    flat = np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    # Content is whatever differs from white; a thin tolerance ignores compression noise and faint shadows.
    content = flat.min(axis=2) < 244
    if content.mean() < 0.005:
        return None
    rows, columns = np.flatnonzero(content.any(1)), np.flatnonzero(content.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    height, width = bottom - top, right - left
    if min(height, width) < 12 or max(height, width) > 8 * min(height, width):
        return None
    side = round(max(height, width) * (1 + 2 * margin))
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    canvas.paste(Image.fromarray(flat[top:bottom, left:right]), ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas.resize((size, size), Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC))


def colourfulness(image: np.ndarray) -> tuple[float, float]:
    """(share of clearly coloured pixels among the content, share of content) of a uint8 picture."""
    pixels = image.reshape(-1, 3).astype(np.int32)
    content = pixels.min(1) < 235
    coloured = (pixels.max(1) - pixels.min(1) > 30) & content
    return float(coloured.sum() / max(content.sum(), 1)), float(content.mean())


def is_drawing_of_lines(image: np.ndarray) -> bool:
    """True for silhouettes and line art: hardly any colour, or black on white without shades between."""
    colour, content = colourfulness(image)
    grey = image.mean(axis=2)
    dark, light = (grey < 60).mean(), (grey > 215).mean()
    middle = 1 - dark - light
    if colour >= 0.10:
        return content < 0.06
    return middle < 0.22 or content < 0.10


def fingerprint(image: np.ndarray) -> np.ndarray:
    """A small colour thumbnail, float32 [192], for finding the same picture under two names."""
    small = Image.fromarray(image).resize((8, 8), Image.Resampling.BOX)
    return np.asarray(small, np.float32).reshape(-1)


def deduplicate(prints: np.ndarray, threshold: float = 4.0) -> np.ndarray:
    """Indices of the first of each group whose thumbnails differ by less than ``threshold`` grey levels (RMS)."""
    kept: list[int] = []
    for index, row in enumerate(prints):
        if not kept or np.sqrt(((prints[kept] - row) ** 2).mean(1)).min() >= threshold:
            kept.append(index)
    return np.asarray(kept, int)


def words_of(stem: str) -> list[str]:
    """Lower-case words of a file name: split at everything but letters and the digits that follow them."""
    return re.findall(r"[a-z]+\d*", stem.lower())


def label_openclipart(relative: str, words: dict) -> tuple[str, str] | None:
    """(class, noun) of an openclipart file by its folder and the words of its name, or None."""
    folder, _, stem = relative.rpartition("/")
    tokens = words_of(stem.removesuffix(".png"))
    bare = [re.sub(r"\d+$", "", token) for token in tokens]
    for name, rule in words.items():
        inside = any(folder == f or folder.startswith(f + "/") for f in rule["folders"])
        near = folder in rule["word_folders"]
        if not (inside or near):
            continue
        for noun, keys in rule["words"].items():
            if any(token in keys for token in tokens + bare):
                return name, noun
    for name, rule in words.items():
        if any(folder == f or folder.startswith(f + "/") for f in rule["folders"]):
            return name, name
    return None


def label_emoji(entry: dict, words: dict) -> tuple[str, str] | None:
    """(class, noun) of one record of ``emoji.json``, or None."""
    for name, rule in words.items():
        if entry["short_name"] in rule["emoji"]:
            noun = re.sub(r"\s+(face|symbol)$", "", entry["name"].lower())
            return name, noun
    return None


def build(openclipart: Path, emoji: Path, words: dict, review: dict) -> tuple[list[Picture], np.ndarray, dict]:
    """Returns the labelled pictures (class by class), the unlabelled pool uint8 [m, 64, 64, 3] and counts."""
    drop, names = set(review["drop"]), review["name"]
    pictures: list[Picture] = []
    pool: list[np.ndarray] = []
    plain = 0
    records = json.loads((emoji / "emoji.json").read_text(encoding="utf-8"))
    entries: list[tuple[str, Path, tuple[str, str] | None]] = []
    for record in records:
        if record.get("has_img_google"):
            source = f"emoji/{record['short_name']}"
            entries.append((source, emoji / "img/google/64" / record["image"], label_emoji(record, words)))
    for path in sorted(openclipart.rglob("*.png")):
        relative = path.relative_to(openclipart).as_posix()
        entries.append((f"openclipart/{relative}", path, label_openclipart(relative, words)))
    with ProcessPoolExecutor() as workers:
        images = list(workers.map(load_square, [path for _, path, _ in entries], chunksize=64))
    for (source, _, label), image in zip(entries, images, strict=True):
        if source in names:
            label = tuple(names[source])
        if image is None:
            continue
        if is_drawing_of_lines(image) and source not in names:
            plain += 1
            continue
        if label is not None and source not in drop:
            pictures.append(Picture(image, label[0], label[1], source))
        else:
            pool.append(image)
    kept = deduplicate(np.stack([fingerprint(p.image) for p in pictures]))
    labelled = sorted((pictures[i] for i in kept), key=lambda p: (list(words).index(p.label), p.source))
    everything = [p.image for p in pictures] + pool
    spread = deduplicate(np.stack([fingerprint(image) for image in everything]), 3.0)
    counts = {"labelled": len(labelled), "pool": len(spread), "plain": plain, "duplicates": len(pictures) - len(kept)}
    return labelled, np.stack([everything[i] for i in spread]), counts


def contact_sheet(pictures: list[Picture], first: int, columns: int = 14, cell: int = 96) -> Image.Image:
    """A sheet of numbered pictures with their nouns, for looking at."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * (cell + 22)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        x, y = index % columns * cell, index // columns * (cell + 22)
        sheet.paste(Image.fromarray(picture.image).resize((cell - 4, cell - 4)), (x, y))
        draw.text((x, y + cell - 4), f"{first + index} {picture.noun[:11]}", fill=(200, 0, 0))
        draw.text((x, y + cell + 6), picture.source.rsplit("/", 1)[-1][:15], fill=(0, 0, 0))
    return sheet


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--openclipart", type=Path, help="folder .../usr/share/openclipart/png, already unpacked")
    parser.add_argument("--emoji", type=Path, help="folder of the unpacked npm package")
    parser.add_argument("--work", type=Path, default=Path("clipart_work"), help="where packages are downloaded and unpacked")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets, one or more per class")
    arguments = parser.parse_args(argv)
    words = json.loads((HERE / "clipart_words.json").read_text(encoding="utf-8"))
    review = json.loads((HERE / "clipart_review.json").read_text(encoding="utf-8"))
    openclipart = arguments.openclipart or fetch_openclipart(arguments.work)
    emoji = arguments.emoji or fetch_emoji(arguments.work)
    for folder, what in ((openclipart, "openclipart pictures"), (emoji / "img/google/64", "emoji pictures")):
        if not folder.is_dir():
            print(f"{folder}: no such folder of {what}; leave the option out to download it", file=sys.stderr)
            return 2
    labelled, pool, counts = build(openclipart, emoji, words, review)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = arguments.output.with_name(arguments.output.stem + ".part.npz")
    np.savez_compressed(
        temporary,
        images=np.stack([p.image for p in labelled]),
        classes=np.array([p.label for p in labelled]),
        nouns=np.array([p.noun for p in labelled]),
        sources=np.array([p.source for p in labelled]),
        class_names=np.array(list(words)),
        pool=pool,
    )
    temporary.replace(arguments.output)
    print(json.dumps(counts))
    for name in words:
        members = [p for p in labelled if p.label == name]
        print(f"{name:20} {len(members):4} pictures, {len({p.noun for p in members}):3} nouns")
        if arguments.sheets:
            arguments.sheets.mkdir(parents=True, exist_ok=True)
            for start in range(0, len(members), 140):
                sheet = contact_sheet(members[start : start + 140], start)
                sheet.save(arguments.sheets / f"{name.replace(' ', '_')}_{start // 140}.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
