"""What a program's trace depends on, and that no other process makes it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridgejax import kept, programs
from bridgejax.programs import Foreseen, Program


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    kept.keep_in(tmp_path)
    yield tmp_path
    kept.keep_in(None)


class Told:
    """A function of a tree of arrays and a static value that counts how often Python runs it."""

    def __init__(self) -> None:
        self.traces = 0

    def program(self, closed_over: Any = 2.0, foreseen: Foreseen | None = None) -> Program:
        def product(state: dict[str, jax.Array], x: jax.Array, *, power: int) -> jax.Array:
            self.traces += 1
            return closed_over * jnp.dot(x, state["weights"]) ** power

        return Program(product, closed_over, static_argnames=("power",), foreseen=foreseen)


STATE, X = {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)}, np.ones((1, 2), np.float32)


def test_a_later_process_does_not_trace(folder: Path) -> None:
    first, later = Told(), Told()
    want = first.program()(STATE, X, power=2)
    np.testing.assert_array_equal(later.program()(STATE, X, power=2), want)
    np.testing.assert_array_equal(want, 2 * (X @ STATE["weights"]) ** 2)
    assert (first.traces, later.traces) == (1, 0)


def test_nothing_is_kept_unless_asked(tmp_path: Path) -> None:
    first, later = Told(), Told()
    for told in (first, later):
        told.program()(STATE, X, power=2)
    assert (first.traces, later.traces) == (1, 1)


def test_all_that_a_trace_reads_tells_programs_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    told.program()(STATE, X, power=2)
    program = told.program()
    wide = np.ones((4, 2), np.float32)
    np.testing.assert_allclose(told.program(3.0)(STATE, X, power=2), 3 * (X @ STATE["weights"]) ** 2)
    np.testing.assert_allclose(program(STATE, X, power=3), 2 * (X @ STATE["weights"]) ** 3)
    np.testing.assert_allclose(program(STATE, wide, power=2), 2 * (wide @ STATE["weights"]) ** 2)
    assert program(STATE, X.astype(jnp.bfloat16), power=2).shape == (1, 3)
    assert told.traces == 5
    with jax.default_matmul_precision("highest"):  # a setting of this block alone
        program(STATE, X, power=2)
    assert told.traces == 6
    monkeypatch.setattr(programs, "_code_digest", lambda: "another version of this package")
    told.program()(STATE, X, power=2)
    assert told.traces == 7
    program(STATE, X, power=2)
    told.program()(STATE, X, power=2)
    assert told.traces == 7


def test_a_damaged_trace_is_made_again(folder: Path) -> None:
    told = Told()
    want = told.program()(STATE, X, power=2)
    for file in (folder / "traces").iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    np.testing.assert_array_equal(told.program()(STATE, X, power=2), want)
    told.program()(STATE, X, power=2)
    assert told.traces == 2


def test_what_cannot_be_exported_runs_all_the_same(folder: Path) -> None:
    def called_back(x: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda x: np.asarray(x) + 1, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    for _ in range(2):
        np.testing.assert_array_equal(Program(called_back, None)(X), X + 1)


def test_arrays_on_a_mesh_are_traced_by_each_process(folder: Path) -> None:
    sharding = jax.NamedSharding(jax.make_mesh((1,), ("data",)), jax.P("data"))
    told = Told()
    for _ in range(2):
        assert told.program()(STATE, jax.device_put(X, sharding), power=1).sharding.is_equivalent_to(sharding, 2)
    assert told.traces == 2


def test_a_foreseen_program_is_the_one_that_is_called(folder: Path) -> None:
    want = Told().program(foreseen=Foreseen("generator"))(STATE, X, power=2)
    told = Told()
    foreseen = Foreseen("generator")
    program = told.program(foreseen=foreseen)
    np.testing.assert_array_equal(program(STATE, X, power=2), want)
    assert foreseen.take("another trace") is None
    np.testing.assert_allclose(program(STATE, X, power=1), 2 * X @ STATE["weights"])
    assert told.traces == 1
    # Word was left of another trace, which nobody kept.
    np.testing.assert_array_equal(told.program(foreseen=Foreseen("generator"))(STATE, X, power=2), want)


def test_a_foreseen_program_that_cannot_be_read_does_no_harm(folder: Path) -> None:
    want = Told().program(foreseen=Foreseen("generator"))(STATE, X, power=2)
    for file in (folder / "traces").iterdir():
        kept.keep("traces", file.name, b"of a version that nobody reads any more")
    foreseen = Foreseen("generator")
    np.testing.assert_array_equal(Told().program(foreseen=foreseen)(STATE, X, power=3), want * (X @ STATE["weights"]))


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept.keep_in(tmp_path / "file")
    try:
        np.testing.assert_allclose(Told().program()(STATE, X, power=1), 2 * X @ STATE["weights"])
    finally:
        kept.keep_in(None)
