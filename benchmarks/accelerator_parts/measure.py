"""Times, memory that runs out, and what JAX says of its compilations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")
_COMPILE = "/jax/core/compile/backend_compile_duration"


def seconds_of(call: Callable[[], Any]) -> float:
    """Returns the seconds of one call, until its arrays are ready."""
    import jax

    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def per_call(call: Callable[[], Any], *, at_least: float = 0.2, most: int = 50, rounds: int = 3) -> float:
    """Returns the seconds of one of many calls that are begun without waiting, in the quickest of some rounds.

    Args:
      call: begins work and returns its arrays; it has run before.
      at_least: seconds that a round should take.
      most: calls in a round.
      rounds: how many.
    """
    import jax

    count = max(1, min(most, round(at_least / max(seconds_of(call), 1e-6))))
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        found.append((time.perf_counter() - began) / count)
    return min(found)


def out_of_memory(error: BaseException) -> bool:
    """Tells whether an error of JAX, XLA or PyTorch says that device memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "resource_exhausted" in text or "out of memory" in text


def halving(batch: int, attempt: Callable[[int], Result]) -> tuple[int, Result]:
    """Returns the first of batch, batch / 2, … whose attempt does not run out of memory, and what it gave.

    Args:
      batch: images, at least 1.
      attempt: measures a batch; whatever it allocated must be free once it has raised.

    Raises:
      Exception: whatever the attempt raises for another reason, or for a single image.
    """
    while True:
        try:
            return batch, attempt(batch)
        except Exception as error:
            if batch <= 1 or not out_of_memory(error):
                raise
        batch //= 2


@contextmanager
def compilations() -> Iterator[dict[str, float]]:
    """Counts into the given dict: the seconds that XLA compiled within, as "compile, s"."""
    import jax

    told = {"compile, s": 0.0}
    counting = True

    def listen(event: str, seconds: float, **_: Any) -> None:
        if counting and event == _COMPILE:
            told["compile, s"] += seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield told
    finally:
        counting = False


def peak_memory() -> dict[str, float]:
    """Returns the row's cell for the most device memory this process has held, where the device tells."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return {"peak memory, GiB": stats["peak_bytes_in_use"] / 2**30} if "peak_bytes_in_use" in stats else {}
