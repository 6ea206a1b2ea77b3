"""Build a second task of real photographs: four of the classes of `tux_photos`, from the resources of KDE's GCompris.

The photographs are what GCompris shows children, most of them from Wikimedia Commons. Source: Debian's ``gcompris-qt-data``,
fetched with ``apt-get download`` into ``--work`` and unpacked with ``dpkg-deb``; the pictures lie in Qt's ``.rcc`` files.
``gcompris_review.json`` lists what was looked at and kept: photographs alone, of classes with at least ten. No setting was
chosen on any of them, and none is part of bridgejax.

    python tools/build_gcompris_task.py --output gcompris_task

writes ``gcompris_task/CLASS/NAME.jpg``, at most 128 px, and ``gcompris_task/SOURCES.json``: of each picture its author, licence
and source, as the README beside it says. A picture without a licence there is refused.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from qt_resources import ResourceError, read_resources

PACKAGE = "gcompris-qt-data"
RESOURCES = "usr/share/gcompris-qt/rcc"  # in the package
REVIEW = Path(__file__).with_name("gcompris_review.json")
SIDE = 128  # pixels, as tux_photos
QUALITY = 93


@dataclass(frozen=True)
class Licence:
    """What a README says of a file: its author, its licence, and where it was taken from."""

    copyright: str
    licence: str
    source: str


def fetch(work: Path) -> Path:
    """Downloads the package into ``work`` unless it is there; returns its archive."""
    work.mkdir(parents=True, exist_ok=True)
    if not list(work.glob(f"{PACKAGE}_*.deb")):
        subprocess.run(["apt-get", "download", PACKAGE], cwd=work, check=True)
    return sorted(work.glob(f"{PACKAGE}_*.deb"))[-1]


def licences(text: str) -> dict[str, Licence]:
    """Returns what a README says, by the names of its files.

    It is made of blocks with empty lines between them; of each, lines "Key: value", and the names behind "Files:" on that line
    and on those that follow it. Keys come in any order. A file of several blocks is that of the last.
    """
    found: dict[str, Licence] = {}
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        values: dict[str, str] = {}
        names: list[str] = []
        listing = False
        for line in block.splitlines():
            match = re.match(r"(Copyright|Licen[cs]e|Source|Comments?|Files?)\s*:(.*)", line.strip())
            if match:
                key, value = match[1].lower().replace("license", "licence"), match[2].strip()
                listing = key.startswith("file")
                if listing:
                    names += value.split()
                else:
                    values[key] = value
            elif listing:
                names += line.split()
        for name in names:
            found[name] = Licence(*(values.get(key, "") for key in ("copyright", "licence", "source")))
    return found


def shrunk(data: bytes) -> Image.Image:
    """The picture as RGB, its longer side at most ``SIDE`` pixels; what is transparent becomes white."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    canvas = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    canvas.alpha_composite(picture)
    canvas.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return canvas.convert("RGB")


def build(resources: Path, output: Path, review: dict[str, dict[str, list[str]]]) -> dict[str, int]:
    """Writes the task; returns the number of pictures of each class.

    Args:
      resources: the folder of the package's `.rcc` files.
      output: where the task is written.
      review: class → folder in a resource file, "categorization/…/fishes", whose first part names the file → the names of
        its pictures, without their suffix.

    Raises:
      SystemExit: a resource file or a picture is missing or damaged, or a picture has no licence.
    """
    files: dict[str, dict[str, bytes]] = {}
    sources: dict[str, dict[str, str]] = {}
    pictures: dict[str, Image.Image] = {}
    for label, folders in review.items():
        for folder, names in folders.items():
            activity, _, inner = folder.partition("/")
            path = resources / f"{activity}.rcc"
            if activity not in files:
                try:
                    files[activity] = read_resources(path.read_bytes())
                except (OSError, ResourceError) as error:
                    raise SystemExit(f"{path}: {error}") from error
            place = f"gcompris/src/activities/{activity}/resource/{inner}".rstrip("/")
            told = licences(files[activity].get(f"{place}/README", b"").decode())
            for name in names:
                source = f"{place}/{name}.webp"
                if source not in files[activity]:
                    raise SystemExit(f"{path} holds no {source}, which {REVIEW.name} lists; was it made for another version?")
                known = told.get(f"{name}.webp")
                if known is None or not known.licence:
                    raise SystemExit(
                        f"{place}/README in {path} gives no licence for {name}.webp; take it out of {REVIEW.name}."
                    )
                file = f"{label}/{activity}_{name}.jpg"
                pictures[file] = shrunk(files[activity][source])
                sources[file] = {"from": f"{activity}.rcc/{source}", **asdict(known)}
    for file, picture in pictures.items():  # only once all are known to be there
        (output / file).parent.mkdir(parents=True, exist_ok=True)
        picture.save(output / file, quality=QUALITY, subsampling=0)
    (output / "SOURCES.json").write_text(json.dumps(sources, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return dict(Counter(Path(file).parent.name for file in pictures))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of class folders to write; not there yet")
    parser.add_argument("--work", type=Path, default=Path("gcompris_package"), help="where the package is kept")
    options = parser.parse_args(argv)
    if options.output.exists():
        raise SystemExit(f"{options.output} exists already; remove it or give another --output")
    archive, unpacked = fetch(options.work), options.work / "unpacked"
    subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
    counts = build(unpacked / RESOURCES, options.output, json.loads(REVIEW.read_text(encoding="utf-8"))["kept"])
    print(f"{archive.name}: " + ", ".join(f"{label} {count}" for label, count in counts.items()), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
