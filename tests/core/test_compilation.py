"""What the key of a cached trace holds, and that no other process traces again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridgejax import compilation, disk_cache
from bridgejax.compilation import CachedFunction, PrefetchedProgram


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    disk_cache.use(tmp_path)
    yield tmp_path
    disk_cache.use(None)


class CountingFunction:
    """A function of a tree of arrays and a static value that counts how often Python runs it."""

    def __init__(self) -> None:
        self.traces = 0

    def program(self, closed_over: Any = 2.0, prefetched: PrefetchedProgram | None = None) -> CachedFunction:
        def product(state: dict[str, jax.Array], x: jax.Array, *, power: int) -> jax.Array:
            self.traces += 1
            return closed_over * jnp.dot(x, state["weights"]) ** power

        return CachedFunction(product, closed_over, static_argnames=("power",), prefetched=prefetched)


STATE, X = {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)}, np.ones((1, 2), np.float32)


def test_a_later_process_does_not_trace(folder: Path) -> None:
    first, later = CountingFunction(), CountingFunction()
    want = first.program()(STATE, X, power=2)
    np.testing.assert_array_equal(later.program()(STATE, X, power=2), want)
    np.testing.assert_array_equal(want, 2 * (X @ STATE["weights"]) ** 2)
    assert (first.traces, later.traces) == (1, 0)


def test_nothing_is_written_unless_the_cache_is_on(tmp_path: Path) -> None:
    first, later = CountingFunction(), CountingFunction()
    for counted in (first, later):
        counted.program()(STATE, X, power=2)
    assert (first.traces, later.traces) == (1, 1)


def test_the_key_holds_everything_that_tracing_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = CountingFunction()
    counted.program()(STATE, X, power=2)
    program = counted.program()
    wide = np.ones((4, 2), np.float32)
    np.testing.assert_allclose(counted.program(3.0)(STATE, X, power=2), 3 * (X @ STATE["weights"]) ** 2)
    np.testing.assert_allclose(program(STATE, X, power=3), 2 * (X @ STATE["weights"]) ** 3)
    np.testing.assert_allclose(program(STATE, wide, power=2), 2 * (wide @ STATE["weights"]) ** 2)
    assert program(STATE, X.astype(jnp.bfloat16), power=2).shape == (1, 3)
    assert counted.traces == 5
    with jax.default_matmul_precision("highest"):  # a setting of this block alone
        program(STATE, X, power=2)
    assert counted.traces == 6
    monkeypatch.setattr(compilation, "_code_digest", lambda: "another version of this package")
    counted.program()(STATE, X, power=2)
    assert counted.traces == 7
    program(STATE, X, power=2)
    counted.program()(STATE, X, power=2)
    assert counted.traces == 7


def test_a_damaged_trace_is_made_again(folder: Path) -> None:
    counted = CountingFunction()
    want = counted.program()(STATE, X, power=2)
    for file in (folder / "traces").iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    np.testing.assert_array_equal(counted.program()(STATE, X, power=2), want)
    counted.program()(STATE, X, power=2)
    assert counted.traces == 2


def test_what_cannot_be_exported_runs_all_the_same(folder: Path) -> None:
    def called_back(x: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda x: np.asarray(x) + 1, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    for _ in range(2):
        np.testing.assert_array_equal(CachedFunction(called_back, None)(X), X + 1)


def test_arrays_on_a_mesh_are_traced_by_each_process(folder: Path) -> None:
    sharding = jax.NamedSharding(jax.make_mesh((1,), ("data",)), jax.P("data"))
    counted = CountingFunction()
    for _ in range(2):
        assert counted.program()(STATE, jax.device_put(X, sharding), power=1).sharding.is_equivalent_to(sharding, 2)
    assert counted.traces == 2


def test_a_prefetched_program_is_the_one_that_is_called(folder: Path) -> None:
    want = CountingFunction().program(prefetched=PrefetchedProgram("generator"))(STATE, X, power=2)
    counted = CountingFunction()
    prefetched = PrefetchedProgram("generator")
    program = counted.program(prefetched=prefetched)
    np.testing.assert_array_equal(program(STATE, X, power=2), want)
    assert prefetched.take("another trace") is None
    np.testing.assert_allclose(program(STATE, X, power=1), 2 * X @ STATE["weights"])
    assert counted.traces == 1
    # The record names another trace, which is not in the cache.
    np.testing.assert_array_equal(counted.program(prefetched=PrefetchedProgram("generator"))(STATE, X, power=2), want)


def test_a_prefetched_program_that_cannot_be_read_does_no_harm(folder: Path) -> None:
    want = CountingFunction().program(prefetched=PrefetchedProgram("generator"))(STATE, X, power=2)
    for file in (folder / "traces").iterdir():
        disk_cache.put("traces", file.name, b"of a version that nobody reads any more")
    prefetched = PrefetchedProgram("generator")
    np.testing.assert_array_equal(
        CountingFunction().program(prefetched=prefetched)(STATE, X, power=3), want * (X @ STATE["weights"])
    )


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    disk_cache.use(tmp_path / "file")
    try:
        np.testing.assert_allclose(CountingFunction().program()(STATE, X, power=1), 2 * X @ STATE["weights"])
    finally:
        disk_cache.use(None)
