"""One command for one accelerator: is it right, how fast is it, and how fast is PyTorch beside it.

    python -m benchmarks accelerator [--smoke] [--budget SECONDS] [--output DIR] [--only PART …] [--fresh]

Installs nothing and needs neither TensorFlow nor diffusers. Each part runs in a process of its own, so that device memory is
free again after it and neither a crash nor a slow compilation takes the others along; see docs/accelerator.md.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with the arguments after its name; returns the exit code."""
    from benchmarks.accelerator_parts import command

    return command.main(arguments)
