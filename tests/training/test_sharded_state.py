"""The state of training split over a mesh: the same losses, a part of the bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("sharded_program.py")


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    output = tmp_path_factory.mktemp("sharded") / "printed.json"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(output)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text())


def test_fifty_steps_have_the_same_losses_on_every_mesh(printed):
    expected = np.array(printed["plain"])
    assert len(expected) == 50
    assert expected[-1] < 0.8 * expected[0]
    assert len(printed["losses"]) == 7
    for name, losses in printed["losses"].items():
        np.testing.assert_allclose(losses, expected, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(printed["logits"][name], printed["logits"]["plain"], rtol=1e-3, atol=1e-4, err_msg=name)


def test_an_fsdp_axis_divides_what_a_device_holds(printed):
    held = printed["bytes"]
    assert held["data 2"] == held["plain"]
    assert held["data 2, fsdp 2"] < 0.53 * held["plain"]
    assert held["fsdp 8"] < 0.17 * held["plain"]
    assert held["data 2, fsdp 2, model 2"] < 0.35 * held["plain"]


def test_parts_of_a_batch_add_up_to_it(printed):
    np.testing.assert_allclose(printed["in parts"], printed["whole"], rtol=1e-5)
