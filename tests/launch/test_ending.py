"""A scheduler's signal to one of several processes: a sentence, the exit code to try again, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_local import LOCAL, children, finish, start

pytestmark = pytest.mark.multiprocess
# Process 0 alone speaks: of its own signal, or of the other's end where it meets it first.
AGAIN = re.compile("run the command again|rerun the command to resume")


def ended(workdir: Path, pattern: str, which: int | None, *command: object, **variables: object) -> str:
    """Sends SIGTERM to one of two processes once a path is there; returns what was said of the end that is to be retried.

    Args:
      workdir: of the command.
      pattern: of the path, in the workdir.
      which: the process; None sends it to the launcher.
      command: what the processes run.
      variables: of their environment.
    """
    process = start(LOCAL, 2, 1, *command, "--workdir", workdir, **variables)
    until(process, lambda: bool(list(workdir.glob(pattern))))
    return asked_to_end(process, which)


def until(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 300
    while not condition() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


def asked_to_end(process: subprocess.Popen, which: int | None) -> str:
    os.kill(process.pid if which is None else children(process)[which], signal.SIGTERM)
    began = time.monotonic()
    code, _, errors = finish(process)
    assert code == os.EX_TEMPFAIL, errors
    assert time.monotonic() - began < 60
    assert "Traceback" not in errors, errors
    (said,) = [line for line in errors.splitlines() if line.startswith("bridgejax")]
    return said


def test_a_signal_while_a_process_waits_for_another_to_join(config_file, tmp_path):
    python = tmp_path / "python"
    alone = '[ "$1" != -c ] && [ "$BRIDGEJAX_PROCESS_ID" = 1 ] && exec sleep 300'
    python.write_text(f'#!/bin/sh\n{alone}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    process = start(LOCAL, 2, 1, "generate", "--config", config_file, "--workdir", tmp_path / "work", PYTHON=python)

    def waits() -> bool:
        for first in children(process):
            with contextlib.suppress(OSError, AttributeError):
                environment = Path(f"/proc/{first}/environ").read_bytes()
                port = int(re.search(rb"BRIDGEJAX_COORDINATOR=127.0.0.1:(\d+)", environment)[1])
                socket.create_connection(("127.0.0.1", port)).close()
                return True
        return False

    until(process, waits)
    time.sleep(1.0)  # from listening to waiting
    assert AGAIN.search(asked_to_end(process, 0))


@pytest.mark.parametrize("which", [None, *(pytest.param(number, marks=pytest.mark.slow) for number in (0, 1))])
def test_a_signal_while_images_are_generated(config_file, tmp_path, which):
    command = ("generate", "--config", config_file, "--config.generator.steps=900")
    assert AGAIN.search(ended(tmp_path / "work", "synthetic/identity.json", which, *command))


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_signal_while_a_classifier_is_evaluated(tmp_path, which):
    python, program = tmp_path / "python", Path(__file__).with_name("evaluation_program.py")
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nshift\nexec {sys.executable} {program} "$@"\n')
    python.chmod(0o755)
    assert AGAIN.search(ended(tmp_path / "work", "evaluated", which, "evaluate", PYTHON=python))


@pytest.mark.slow
@pytest.mark.parametrize("which", [None, 1])
def test_in_training_every_process_saves_the_same_step_and_ends(config_file, tmp_path, which):
    settings = ("--config.training.steps=4000", "--config.training.checkpoint_seconds=0")
    said = ended(tmp_path / "work", "runs/*/*/checkpoints/*", which, "train", "--config", config_file, *settings)
    assert f"{'SIGTERM' if which is None else 'a signal to another process'} ended the training of" in said
    assert "its checkpoint is written, run the command again to go on." in said
