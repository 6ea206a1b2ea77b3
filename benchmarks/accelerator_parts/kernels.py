"""What a program's time goes to, by kind of kernel, as JAX's profiler sees it."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.accelerator_parts.record import Row

# The first one that a kernel's or its operation's name holds is its kind. cuDNN's convolutions are named after their direction.
KINDS = (
    ("attention", r"fmha|flash|sdpa|attention"),
    ("convolutions", r"conv|fprop|dgrad|wgrad|cudnn"),
    ("matrix products", r"gemm|matmul|nvjet|cublas|cutlass|dot"),
    ("copies and transpositions", r"copy|transpose|memcpy|memset"),
    ("sums and norms", r"reduce|norm"),
)
OTHER = "elementwise and other"


def kinds_of_work(call: Callable[[], Any]) -> Row:
    """Returns cells with the share of each kind in the device's busy time of one call, and that time in milliseconds.

    Empty where the profiler shows no operation of the device.
    """
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        files = list(Path(folder).rglob("*.xplane.pb"))
        spent = Counter[str]()
        for plane in jax.profiler.ProfileData.from_file(str(files[0])).planes if files else ():
            on_device = plane.name.startswith("/device:")
            for line in plane.lines:
                if line.name.startswith("XLA "):  # sums up the events of other lines
                    continue
                for event in line.events:
                    operation = next((str(value) for key, value in event.stats if key == "hlo_op"), None)
                    if operation is not None and (on_device or jax.default_backend() == "cpu"):
                        spent[kind_of(f"{event.name} {operation}")] += event.duration_ns
    total = sum(spent.values())
    return {"busy, ms": total / 1e6} | {f"of it {kind}": ns / total for kind, ns in spent.most_common()} if total else {}


def kind_of(name: str) -> str:
    """Returns the kind of a kernel by its name."""
    return next((kind for kind, words in KINDS if re.search(words, name, re.IGNORECASE)), OTHER)
