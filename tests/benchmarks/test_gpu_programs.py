"""Programs compiled for a GPU on a machine without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gpu_programs


def test_a_missing_compiler_is_named_with_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_programs.main(["--reduced", "--compiler", str(tmp_path)])
    message = capsys.readouterr().err
    assert (
        f"{tmp_path} does not hold XLA's GPU compiler; pip install --no-deps --target .gpu_compiler jax-cuda13-pjrt" in message
    )


def test_the_compilers_own_complaint_is_the_reason() -> None:
    log = "warning\nF1127 tiling.cc:703] Check failed: size == 16 (64 vs. 16)\n*** Stack trace: ***\n    @ 0x7f main\n"
    assert gpu_programs._reason(log) == "F1127 tiling.cc:703] Check failed: size == 16 (64 vs. 16)"
    assert gpu_programs._reason("Traceback\nValueError: no\n") == "ValueError: no"


@pytest.mark.slow
@pytest.mark.skipif(not gpu_programs.COMPILER.is_dir(), reason="XLA's GPU compiler is not installed")
@pytest.mark.parametrize("name", gpu_programs.PROGRAMS)
def test_a_gpu_takes_every_program(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a GPU: a compiler that aborts would end a user's process without a word of ours."""
    assert gpu_programs.main([name, "--reduced"]) == 0
    assert f"{name}: compiled in" in capfd.readouterr().out
