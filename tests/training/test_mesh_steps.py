"""One step on one device and on eight: the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_eight_devices_train_as_one_does():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    program = Path(__file__).with_name("mesh_program.py")
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout)
    # Sums in another order, in float32, through four steps.
    assert printed["metrics"] < 1e-5
    assert len(printed["parameters"]) > 4
    assert {name: value for name, value in printed["parameters"].items() if value > 1e-4} == {}
    assert printed["logits"] < 1e-4
    assert "a batch of 12 does not split over 8 devices" in printed["refused"]
