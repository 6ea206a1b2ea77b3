"""Processes that do not see one folder say so before any of them works."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from bridgejax import runtime
from bridgejax.errors import UserError
from bridgejax.workdir import check_shared
runtime.start()
try:
    check_shared(Path("work"))
    text = "shared"
except UserError as error:
    text = str(error)
Path(sys.argv[1]).write_text(text)
"""


@pytest.mark.parametrize("shared", [True, False])
def test_a_workdir_that_is_not_shared_is_one_sentence(tmp_path, shared):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for number in range(2):
        place = tmp_path / ("one" if shared else str(number))
        place.joinpath("work").mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "JAX_PLATFORMS": "cpu",
            "BRIDGEJAX_COORDINATOR": f"127.0.0.1:{port}",
            "BRIDGEJAX_PROCESSES": "2",
            "BRIDGEJAX_PROCESS_ID": str(number),
        }
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / f"{number}.txt")]
        processes.append(subprocess.Popen(command, cwd=place, env=environment))
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    for number in range(2):
        told = (tmp_path / f"{number}.txt").read_text()
        if shared:
            assert told == "shared"
        else:
            assert f"--workdir work is not one folder for all 2 processes (process {number} does not see" in told
    assert not list(tmp_path.rglob(".tmp-*"))
