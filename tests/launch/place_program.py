"""Joins the processes of its environment, with settings NAME=VALUE as arguments; prints its place among them."""

from __future__ import annotations

import sys

from bridgejax import runtime
from bridgejax.errors import UserError


def main() -> int:
    settings = dict(argument.split("=") for argument in sys.argv[1:])
    try:
        runtime.start(settings=settings)
    except UserError as error:
        return runtime.leave_failed(2, f"bridgejax: {error}")
    import jax

    print(f"{jax.process_index()} of {jax.process_count()}, first {runtime.is_first()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
