"""The pictures that the tiny CLIP learns from: clip art and emoji with a class, a noun, and groups beyond the eleven classes.

The labelled pictures are those of ``build_clipart.py``, read again from their packages at ``SIDE`` pixels. Others get their
group from the folder of openclipart or the subgroup of Unicode (``tiny_clip_groups.json``) and their noun from their name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from build_clipart import deduplicate, fingerprint, is_drawing_of_lines, load_square
from clipart_captions import COMMON_TEXTS
from PIL import Image

HERE = Path(__file__).resolve().parent
SIDE = 128  # pixels, as the emoji task
MOST = 80  # pictures of a group beyond the classes
EMOJI_SIDE = 64  # pixels of the package's pictures


class Pictures(NamedTuple):
    """n pictures. ``images`` uint8 [n, SIDE, SIDE, 3] on white; ``groups``, ``nouns`` and ``sources`` str [n]."""

    images: np.ndarray
    groups: np.ndarray
    nouns: np.ndarray
    sources: np.ndarray


def plain_name(name: str) -> str:
    """A name of Unicode's as one would say it: lower case, without brackets, marks, and words for the drawing itself."""
    words = re.sub(r"\(.*?\)|[^a-z ]", " ", name.lower().replace("-", " ")).split()
    return " ".join(word for word in words if word not in ("face", "symbol", "with", "sign", "button")) or "symbol"


def known_words(records: list[dict[str, object]], groups: dict[str, str]) -> set[str]:
    """Words that a file name may lend to a caption: those of Unicode's names and of the groups, at least four letters long.

    Openclipart's file names hold their authors' names too, which say nothing; colours and sizes name no thing.
    """
    texts = [str(record["name"]) for record in records if record["subcategory"] != "country-flag"] + list(groups.values())
    common = set(" ".join(COMMON_TEXTS).split())
    return {word for text in texts for word in re.findall(r"[a-z]{4,}", text.lower())} - common


def gather(data: dict[str, np.ndarray], openclipart: Path, emoji: Path) -> Pictures:
    """The labelled pictures of ``build_clipart.py`` in their order, then those of the groups, sorted by source."""
    rules = json.loads((HERE / "tiny_clip_groups.json").read_text(encoding="utf-8"))
    records = json.loads((emoji / "emoji.json").read_text(encoding="utf-8"))
    words = known_words(records, rules["openclipart"])
    files = {f"emoji/{r['short_name']}": emoji / f"img/google/{EMOJI_SIDE}" / r["image"] for r in records}
    labelled = [str(source) for source in data["sources"]]
    found: list[tuple[str, str, str]] = []
    for record in records:
        group = rules["emoji"].get(record["subcategory"])
        if group and record.get("has_img_google"):
            found.append((f"emoji/{record['short_name']}", group, plain_name(record["name"])))
    for path in sorted(openclipart.rglob("*.png")):
        folder, stem = path.parent.relative_to(openclipart).as_posix(), path.stem.lower()
        group = rules["openclipart"].get(folder)
        if group:
            source = f"openclipart/{path.relative_to(openclipart).as_posix()}"
            noun = next((word for word in re.findall(r"[a-z]+", stem) if word in words), group)
            found.append((source, group, noun))
            files[source] = path
    known = set(labelled)
    found = [row for row in found if row[0] not in known]
    for source in labelled:
        if source.startswith("openclipart/"):
            files[source] = openclipart / source.removeprefix("openclipart/")
    rows = [(s, str(c), str(n)) for s, c, n in zip(labelled, data["classes"], data["nouns"], strict=True)] + sorted(found)
    with ProcessPoolExecutor(2) as workers:
        images = list(workers.map(partial(load_square, size=SIDE), [files[source] for source, _, _ in rows], chunksize=32))
    kept: list[int] = []
    counts: Counter[str] = Counter()
    for index, ((_, group, _), image) in enumerate(zip(rows, images, strict=True)):
        if index < len(labelled) or (image is not None and not is_drawing_of_lines(image) and counts[group] < MOST):
            kept.append(index)
            counts[group] += index >= len(labelled)
    prints = np.stack([fingerprint(images[i]) for i in kept])
    same = {kept[i] for i in deduplicate(prints)} | set(range(len(labelled)))
    kept = [i for i in kept if i in same]
    columns = [np.array([rows[i][part] for i in kept]) for part in (1, 2, 0)]
    return Pictures(np.stack([images[i] for i in kept]), *columns)


def view(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """One view of a picture at the side ``size``: mirrored or not, smaller and moved, on white or another ground.

    Detail is that of a picture of 64 to 128 px: it is reduced to such a size first.
    """
    picture = Image.fromarray(image[:, ::-1] if rng.random() < 0.5 else image)
    picture = picture.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    detail = int(rng.integers(64, SIDE + 1))
    share = float(rng.uniform(0.6, 1.15))  # the side of the picture over that of the view; above 1 its edges are cut
    stretch = float(np.exp(rng.uniform(-0.15, 0.15)))
    width, height = (max(8, round(detail * share * s)) for s in (stretch, 1 / stretch))
    canvas = Image.new("RGB", (detail, detail), (255, 255, 255))
    room = detail - width, detail - height
    corner = tuple(round(float(rng.uniform(0.25, 0.75)) * r) for r in room)
    canvas.paste(picture.resize((width, height), Image.Resampling.LANCZOS), corner)
    pixels = np.asarray(canvas, np.float32)
    if rng.random() < 0.3:  # white becomes a colour gradient
        ends = rng.uniform(40, 255, (2, 3))
        ramp = np.linspace(0, 1, detail)[:, None, None]
        ground = ends[0] * (1 - ramp) + ends[1] * ramp
        if rng.random() < 0.5:
            ground = ground.transpose(1, 0, 2)
        white = np.clip((pixels.min(-1, keepdims=True) - 225) / 30, 0, 1)
        pixels = pixels * (1 - white) + np.broadcast_to(ground, pixels.shape) * white
    pixels = np.clip((pixels - 127.5) * rng.uniform(0.7, 1.1) + 127.5 + rng.uniform(-25, 25), 0, 255)
    return np.asarray(Image.fromarray(pixels.astype(np.uint8)).resize((size, size), Image.Resampling.BILINEAR))
