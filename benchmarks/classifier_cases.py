"""The command line that `train_step` and `inference` share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import comparison
from benchmarks.classifiers import PEERS, case
from benchmarks.harness import Case
from benchmarks.networks import NETWORKS, QUICK, SIZES


def main(work: str, description: str | None, arguments: Sequence[str]) -> int:
    """Measures, prints and keeps; `work` is the benchmark's name."""
    parser = comparison.parser(description)
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), help="these networks (all; with --quick two)")
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, help="these sizes in pixels (all; with --quick 64)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="these peers (both; with --quick eager)")
    options = parser.parse_args(arguments)
    names = options.only or (QUICK if options.quick else NETWORKS)
    sizes = options.sizes or (SIZES[:1] if options.quick else SIZES)
    peers = options.peers if options.peers is not None else PEERS[:1] if options.quick else PEERS

    def cases() -> Iterator[Case]:
        for name in names:
            for size in sizes:
                with tempfile.TemporaryDirectory(prefix="bridgejax-benchmark-") as folder:
                    yield case(work, name, size, peers, Path(folder))

    return comparison.run(work, arguments, options, cases())
