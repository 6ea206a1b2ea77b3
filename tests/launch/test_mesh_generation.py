"""The same images without a mesh, on eight devices, and with the parameters split."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bridgejax.doctor import undivided

ROOT = Path(__file__).resolve().parents[2]
NUMBER = r"([\d.]+)"
STATE = [
    "",
    " MiB of ",
    r" MiB state per device \(parameters ",
    " MiB, optimiser ",
    r" MiB\); batch 32, 16 images per device, ",
    " MiB",
]

# float32 sums in another order: three steps of a network of unit outputs stay within a few dozen rounding steps of 6e-8.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def printed(tiny_generator):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    program = Path(__file__).with_name("mesh_program.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tiny_generator)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_images_are_the_same_on_every_mesh(printed):
    assert printed["spread"] > 0.05
    assert len(printed["meshes"]) == 3
    assert max(mesh["difference"] for mesh in printed["meshes"]) < TOLERANCE
    assert max(mesh["hidden_difference"] for mesh in printed["meshes"]) < TOLERANCE


def test_a_model_axis_splits_the_parameters(printed):
    data8, model2, model4 = (mesh["bytes"] for mesh in printed["meshes"])
    assert data8 == printed["whole"]
    assert model2 < 0.56 * printed["whole"]
    assert model4 < 0.36 * printed["whole"]
    assert [mesh["computed_bytes"] for mesh in printed["meshes"]] == [data8, model2, model4]
    assert printed["own_rules"] == printed["whole"]  # a rule that splits nothing, before the built-in ones


def test_doctor_shows_what_each_device_holds(printed, tiny_generator, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from bridgejax.config import default_config\n"
        "def get_config(arg=None):\n"
        "    config = default_config()\n"
        f"    config.generator.weights = {str(tiny_generator)!r}\n"
        "    config.mesh = (('data', 2), ('model', 4))\n"
        "    return config\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-m", "bridgejax", "doctor", "--config", str(config), "--config.generator.batch_size=12"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "mesh    data=2, model=4" in done.stdout
    expected = (
        f"{printed['meshes'][2]['bytes'] / 2**20:.1f} MiB of {printed['whole'] / 2**20:.1f} MiB parameters (float32) per device"
    )
    assert expected in done.stdout
    assert "batch 12, 6 images per device" in done.stdout
    # The built-in classifier's state of SGD with momentum, split over "model" by the same rules.
    held, whole, parameters, slots, images = map(float, re.search(r"classifier +" + NUMBER.join(STATE), done.stdout).groups())
    assert held == pytest.approx(parameters + slots, abs=0.11)
    assert held < 0.5 * whole
    assert images == pytest.approx(16 * 3 * 96**2 / 2**20, abs=0.05)


def test_sizes_of_an_fsdp_axis_that_divide_are_named():
    shapes = {"fc1.kernel": (64, 128), "patch.kernel": (48, 64), "odd.kernel": (50, 50), "head.bias": (7,)}
    assert undivided(shapes, 2) is None
    assert undivided(shapes, 3) == (
        "=3 divides no dimension of fc1.kernel [64, 128] and 1 others, which stay whole; 2 would divide all"
    )
