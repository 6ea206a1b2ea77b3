"""Ten million images on 64 H100 and on a v5e-256: device hours, storage, files, network, failures. Computed, not run.

    python -m benchmarks pod            # writes the tables of docs/scale/pod.md

Rates are measured (docs/results/accelerator.json), published, or follow from operations, and each says which.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accelerator_parts.generators import image_products
from benchmarks.result_tables import table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scale" / "pod.md"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
IMAGES, SHARD_SIZE = 10_000_000, 2048
PEAK_V5E = 197.0  # TFLOP/s in bfloat16: Google's page of v5e
SDXL_V5E_SECONDS, SDXL_V5E_IMAGES, SDXL_V5E_CHIPS, SDXL_V5E_STEPS = 2.33, 4, 4, 20  # Hugging Face, on v5e-4
LOSSES = 419 / (54 * 16384)  # unexpected interruptions for each H100 and day: Llama 3's report
RESTART_MINUTES = 15.0  # assumed: until machines are there again and the weights are loaded


@dataclass(frozen=True)
class Model:
    """A generator: its name in the benchmarks, pixels on a side, steps with guidance, and weights in bytes."""

    name: str
    shown: str
    side: int
    steps: int
    weight_bytes: float

    @property
    def tflop(self) -> float:
        """Operations for an image."""
        return image_products(self.name, self.steps).flops / 1e12

    @property
    def bytes(self) -> int:
        """The most that an image takes on disk: a PNG is hardly larger than the pixels."""
        return 3 * self.side**2


@dataclass(frozen=True)
class Machine:
    """Devices, and how many of them stop when one fails: its host's, or all of a slice, which is one program."""

    name: str
    devices: int
    stop: int
    hosts: int


@dataclass(frozen=True)
class Job:
    """A model on a machine, at so many images a second from each device."""

    model: Model
    machine: Machine
    rate: float
    source: str

    @property
    def hours(self) -> float:
        """Hours without failures."""
        return IMAGES / (self.rate * self.machine.devices) / 3600

    @property
    def failures(self) -> float:
        """Expected failures in that time."""
        return LOSSES * self.machine.devices * self.hours / 24

    @property
    def lost_hours(self) -> float:
        """Device hours that one failure costs: half a shard of each device that stops, and the time to start them again."""
        return self.machine.stop * (SHARD_SIZE / self.rate / 3600 / 2 + RESTART_MINUTES / 60)


SD15 = Model("sd15", "SD 1.5, 512 px, 50 steps", 512, 50, 2 * 1066.2e6)
SDXL = Model("sdxl", "SDXL, 1024 px, 30 steps", 1024, 30, 2 * 3.5e9)
H100, V5E = Machine("64 H100", 64, 8, 8), Machine("v5e-256", 256, 256, 32)


def jobs() -> list[Job]:
    """Returns the four jobs, with the rate of each and where it is from."""
    measured = {
        row["case"]: row
        for row in json.loads((ROOT / "docs" / "results" / "accelerator.json").read_text())["parts"]["sd15"]["rows"]
        if "images/s" in row
    }
    ((_, h100),) = list(measured.items())[:1]
    share, speed = h100["of the matrix rate"], h100["TFLOP/s"]
    sdxl_rate = SDXL_V5E_IMAGES / SDXL_V5E_SECONDS / SDXL_V5E_CHIPS * SDXL_V5E_STEPS / SDXL.steps
    return [
        Job(SD15, H100, h100["images/s"], "measured, one H100, batch 16"),
        Job(
            SD15,
            V5E,
            share * PEAK_V5E / SD15.tflop,
            f"from operations: {share:.0%} of {PEAK_V5E:g} TFLOP/s, the share on H100",
        ),
        Job(SDXL, H100, speed / SDXL.tflop, f"from operations: {speed:.0f} TFLOP/s, as measured for SD 1.5"),
        Job(SDXL, V5E, sdxl_rate, f"published: 4 images of {SDXL_V5E_STEPS} steps in {SDXL_V5E_SECONDS} s on 4 chips"),
    ]


def section() -> str:
    """Returns the tables."""
    found = jobs()
    shards = math.ceil(IMAGES / SHARD_SIZE)
    rates = [[job.model.shown, job.machine.name, f"{job.rate:.2f}", f"{job.model.tflop:.0f}", job.source] for job in found]
    times = [
        [
            *(job.model.shown, job.machine.name, f"{job.hours:.1f}", f"{job.hours * job.machine.devices:,.0f}"),
            *(f"{SHARD_SIZE / job.rate / 60:.0f}", f"{job.failures:.2f}", f"{job.lost_hours:.0f}"),
            f"{job.failures * job.lost_hours / (job.hours * job.machine.devices):.2%}",
        ]
        for job in found
    ]
    sizes = [
        [
            *(job.model.shown, job.machine.name, f"{IMAGES * job.model.bytes / 1e12:.1f}", f"{shards:,}"),
            f"{SHARD_SIZE * job.model.bytes / 1e9:.1f}",
            f"{IMAGES * job.model.bytes / job.hours / 3600 / 1e6:.0f}",
            f"{job.machine.hosts * job.model.weight_bytes / 1e9:.0f}",
        ]
        for job in found
    ]
    return "\n".join(
        [
            *table(["model", "devices", "images/s of a device", "TFLOP an image", "where the rate is from"], rates, left=2),
            "",
            *table(
                ["model", "devices", "hours", "device hours", "minutes a shard", "failures", "device hours a failure", "lost"],
                times,
                left=2,
            ),
            "",
            *table(
                ["model", "devices", "TB at most", "shard files", "GB a shard", "MB/s written, all", "GB of weights read"],
                sizes,
                left=2,
            ),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the tables into the page, or with --quick prints them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pod", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="print the tables and leave the page as it is")
    text = section()
    print(text)
    if not parser.parse_args(arguments).quick:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
