"""Build an image task of ten of the classes of `tux_photos`, and no picture of it: Microsoft's Fluent 3D emoji.

Settings that would otherwise be chosen on the photographs are chosen on it (`configs/tuning.py`). The generator has seen
none of these pictures, though Google's drawings of the same emoji. Source: npm ``@lobehub/fluent-emoji-3d`` (art by Microsoft,
MIT); the classes are Unicode's subgroups (too few fishes are among them), read from npm ``emoji-datasource-google``; both are
fetched with ``npm pack`` into ``--work``.

    python tools/build_emoji_task.py --output emoji_task

writes ``emoji_task/CLASS/NAME.png``, at most 128 px, on white.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
from pathlib import Path

from PIL import Image

PACKAGES = {"art": ("@lobehub/fluent-emoji-3d", "1.1.0"), "names": ("emoji-datasource-google", "16.0.0")}
SIDE = 128  # pixels, as tux_photos
CLASS_OF_SUBGROUP = {
    "animal-bird": "bird",
    "animal-mammal": "mammal",
    "animal-bug": "insect",
    "plant-flower": "flower",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "tool": "tool",
    "transport-sign": "road sign",
    "warning": "road sign",
    "musical-instrument": "musical instrument",
    "transport-ground": "vehicle",
    "transport-water": "vehicle",
    "transport-air": "vehicle",
}
# Of these subgroups, but not of these classes.
NOT_MEANT = {
    *("feather", "nest_with_eggs", "egg", "hatching_chick", "wing"),
    *("paw_prints", "feet", "spider_web", "microbe", "snail", "worm"),
    *("bouquet", "white_flower", "tomato"),
    *("link", "chains", "alembic", "magnet", "white_cane", "probing_cane", "bow_and_arrow", "dagger_knife", "crossed_swords"),
    *("bomb", "gun", "shield", "boomerang", "ladder", "gear", "scales"),
    *("busstop", "motorway", "railway_track", "oil_drum", "fuelpump", "wheel", "rotating_light", "traffic_light"),
    *("vertical_traffic_light", "construction", "octagonal_sign", "anchor", "ring_buoy", "seat", "airplane_departure"),
    *("airplane_arriving", "parachute", "manual_wheelchair", "skateboard", "roller_skate"),
    *("children_crossing_sign", "atm", "put_litter_in_its_place", "potable_water", "customs", "baggage_claim"),
    *("left_luggage", "passport_control", "compression", "satellite", "station", "suspension_railway", "rosette"),
}


def fetch(package: str, version: str, work: Path) -> Path:
    """Downloads a package of npm into ``work`` unless it is there; returns its archive."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not path.is_file():
        subprocess.run(["npm", "pack", f"{package}@{version}"], cwd=work, check=True)
    return path


def class_of(record: dict[str, object]) -> str | None:
    """The class of one record of ``emoji.json``, or None."""
    name, subgroup = str(record["short_name"]), str(record["subcategory"])
    if name in NOT_MEANT:
        return None
    return CLASS_OF_SUBGROUP.get(subgroup)


def on_white(data: bytes) -> Image.Image:
    """The picture as RGB on white, its longer side at most ``SIDE`` pixels."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    canvas = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    canvas.alpha_composite(picture)
    canvas.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return canvas.convert("RGB")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of class folders to write; not there yet")
    parser.add_argument("--work", type=Path, default=Path("emoji_packages"), help="where the packages are kept")
    options = parser.parse_args(argv)
    if options.output.exists():
        raise SystemExit(f"{options.output} exists already; remove it or give another --output")
    with tarfile.open(fetch(*PACKAGES["names"], options.work)) as archive:
        member = archive.extractfile("package/emoji.json")
        if member is None:
            raise SystemExit("the package of names holds no emoji.json")
        records = json.load(member)
    counts: dict[str, int] = {}
    with tarfile.open(fetch(*PACKAGES["art"], options.work)) as archive:
        members = set(archive.getnames())
        for record in records:
            label, code = class_of(record), str(record["unified"]).lower()
            found = [
                f"package/assets/{c}.webp" for c in (code, code.replace("-fe0f", "")) if f"package/assets/{c}.webp" in members
            ]
            if label is None or not found:
                continue
            file = archive.extractfile(found[0])
            if file is None:
                continue
            folder = options.output / label
            folder.mkdir(parents=True, exist_ok=True)
            on_white(file.read()).save(folder / f"{record['short_name']}.png")
            counts[label] = counts.get(label, 0) + 1
    for label, count in sorted(counts.items()):
        print(f"{label}: {count}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
