"""A scheduler's signal to one of several processes: a sentence, the exit code to try again, and nothing lost."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from test_local import LOCAL, children, finish, start

pytestmark = pytest.mark.multiprocess
# Process 0 alone speaks: of its own signal, or of the other's end where it meets it first.
AGAIN = re.compile("run the command again|rerun the command to resume")


def ended(workdir: Path, pattern: str, which: int, *command: object, **variables: object) -> str:
    """Sends SIGTERM to one of two processes once a path is there; returns what was said of the end that is to be retried."""
    process = start(LOCAL, 2, 1, *command, "--workdir", workdir, **variables)
    limit = time.monotonic() + 300
    while not list(workdir.glob(pattern)) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()
    os.kill(children(process)[which], signal.SIGTERM)
    began = time.monotonic()
    code, _, errors = finish(process)
    assert code == os.EX_TEMPFAIL, errors
    assert time.monotonic() - began < 60
    assert "Traceback" not in errors, errors
    (said,) = [line for line in errors.splitlines() if line.startswith("bridgejax")]
    return said


@pytest.mark.parametrize("which", [pytest.param(0, marks=pytest.mark.slow), 1])
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
def test_in_training_every_process_saves_the_same_step_and_ends(config_file, tmp_path):
    settings = ("--config.training.steps=4000", "--config.training.checkpoint_seconds=0")
    said = ended(tmp_path / "work", "runs/*/*/checkpoints/*", 1, "train", "--config", config_file, *settings)
    assert "a signal to another process ended the training of" in said
    assert "its checkpoint is written, run the command again to go on." in said
