"""Compiling whole programs: compiler options, and traces and programs that later processes find in the disk cache."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeAlias

import jax
from jax import export

from bridgejax import disk_cache
from bridgejax.identity import digest, folder_digest

Arguments = ParamSpec("Arguments")
FlatProgram: TypeAlias = Callable[..., jax.Array]  # of the leaves of the arguments

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# Eigen's convolutions and matrix products are quicker than YNNPACK's, whose graphs are built one by one when a program first
# runs and looked for one by one when it comes out of the cache. YNNPACK's reductions are two to ten times quicker than XLA's
# loops, which counts where statistics of whole batches are taken, as in training.
_YNN = "xla_cpu_experimental_ynn_fusion_type"
_CPU_OPTIONS = {False: {_YNN: ""}, True: {_YNN: "LIBRARY_FUSION_TYPE_REDUCE"}}
# cuDNN's attention: a trace is found again under the same versions alone, so that it may change between them does no harm.
_EXPORTED = (export.DisabledSafetyCheck.custom_call("__cudnn$fmhaSoftmax"),)


@functools.cache
def compiler_options(reduces: bool = False) -> dict[str, str]:
    """Returns the options of programs that no other program contains, for `jax.jit`; none where the compiler has no such.

    Args:
      reduces: the program takes sums over whole batches, as training does.
    """
    if jax.default_backend() != "cpu":
        return {}
    options = _CPU_OPTIONS[reduces]
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except (RuntimeError, ValueError):  # an experimental option may go as it came
        return {}
    return options


class PrefetchedProgram:
    """The first program that the last process called under a name, fetched on a thread while this one loads weights."""

    def __init__(self, name: str):
        """Starts fetching, if the disk cache records a program under this name."""
        self._program: Future[FlatProgram] | None = None
        if not disk_cache.is_on():
            return
        self._name = digest([name, _surroundings()])
        self._last = disk_cache.get("first_programs", self._name)
        if self._last is None or (trace := disk_cache.get("traces", self._last.decode())) is None:
            return
        with contextlib.suppress(Exception):  # an error recurs, and is reported, where the program is called
            # Python works on one thread at a time; what follows it is XLA's and needs none.
            lowered = _lowered(trace)
            pool = ThreadPoolExecutor(1)
            self._program = pool.submit(lowered.compile)
            pool.shutdown(wait=False)

    def take(self, trace: str) -> FlatProgram | None:
        """Returns the program of a trace if it is the one prefetched; if not, records the trace for the next process."""
        if self._last != trace.encode():
            disk_cache.put("first_programs", self._name, trace.encode())
        elif self._program is not None and self._program.exception() is None:
            return self._program.result()
        return None


class CachedFunction(Generic[Arguments]):
    """A jitted function whose trace is in the disk cache: a later process neither traces nor lowers it.

    A trace is stored as StableHLO by `jax.export`, which JAX's compilation cache then maps to the compiled program. Its key is
    everything that tracing reads: the arguments' shapes, types and tree, what the function closes over, all settings of JAX,
    the devices' kind and number, and the code of this package. Only traces for arguments on the default device are stored; on
    a mesh every process traces.
    """

    def __init__(
        self,
        function: Callable[Arguments, jax.Array],
        closed_over: object,
        static_argnames: Sequence[str] = (),
        prefetched: PrefetchedProgram | None = None,
    ):
        """Wraps a function.

        Args:
          function: pure, of arrays in trees by position, and of static values by name; returns one array.
          closed_over: what it closes over; its `repr`, addresses aside, must tell it from another.
          static_argnames: the static values, hashable and told apart by their `repr`.
          prefetched: the program that may be on its way already.
        """
        self._function, self._closed_over, self._prefetched = function, closed_over, prefetched
        self._jitted = jax.jit(function, static_argnames=static_argnames, compiler_options=compiler_options())
        self._programs: dict[tuple[object, ...], FlatProgram | None] = {}

    def __call__(self, *arguments: Arguments.args, **static: Arguments.kwargs) -> jax.Array:
        """Calls the function."""
        if disk_cache.is_on():
            leaves, tree = jax.tree.flatten(arguments)
            places = {leaf.sharding for leaf in leaves if isinstance(leaf, jax.Array)}
            if places <= {jax.sharding.SingleDeviceSharding(jax.devices()[0])}:
                key = (tree, tuple(map(jax.typeof, leaves)), tuple(sorted(static.items())), _settings())
                if key not in self._programs:
                    self._programs[key] = self._find(key, leaves, dict(static))
                if (program := self._programs[key]) is not None:
                    return program(*leaves)
        return self._jitted(*arguments, **static)

    def _find(self, key: tuple[Any, ...], leaves: Sequence[jax.Array], static: dict[str, object]) -> FlatProgram | None:
        """Returns the program of flat arguments, or None if its trace cannot be stored."""
        tree = key[0]
        about = {
            "surroundings": _surroundings(),
            "function": self._function.__qualname__,
            "closed over": _ADDRESS.sub("", repr(self._closed_over)),
            "call": [_ADDRESS.sub("", repr(part)) for part in key],
        }
        name = digest(about)
        prefetched, self._prefetched = self._prefetched, None  # only a process's first program is recorded
        if prefetched is not None and (program := prefetched.take(name)) is not None:
            return program

        @functools.wraps(self._function)
        def flat(*leaves: jax.Array) -> jax.Array:
            return self._function(*jax.tree.unflatten(tree, leaves), **static)  # type: ignore[arg-type]

        try:
            make = export.export(jax.jit(flat), disabled_checks=_EXPORTED)
            trace = disk_cache.get_or_make("traces", name, lambda: bytes(make(*leaves).serialize()))
        except (ValueError, NotImplementedError):  # of another kernel that JAX does not export
            return None
        return _lowered(trace).compile()


def _lowered(trace: bytes) -> jax.stages.Lowered:
    """Returns a program of flat arguments that is yet to compile, or to come from JAX's compilation cache."""
    traced = export.deserialize(bytearray(trace))
    kinds = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type) for aval in traced.in_avals]

    def program(*leaves: jax.Array) -> jax.Array:
        return traced.call(*leaves)

    program.__name__ = traced.fun_name
    return jax.jit(program, compiler_options=compiler_options()).lower(*kinds)


def _surroundings() -> dict[str, object]:
    """Returns what stays the same within a process and decides how it traces."""
    return {
        "code": _code_digest(),
        "versions": disk_cache.versions(("jax", "jaxlib", "flax")),
        "devices": [jax.default_backend(), jax.devices()[0].device_kind, jax.device_count()],
    }


def _settings() -> tuple[tuple[str, object], ...]:
    """Returns JAX's settings as they hold here, those of a surrounding `with` included."""
    return tuple((name, getattr(jax.config, name, value)) for name, value in jax.config.values.items())


@functools.cache
def _code_digest() -> str:
    root = Path(__file__).resolve().parent
    return folder_digest(root, [file.relative_to(root).as_posix() for file in root.rglob("*.py")])
