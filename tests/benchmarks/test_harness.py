"""Timing in turns, in processes that may fail."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

import pytest

from benchmarks import flops, networks
from benchmarks.comparison import _empty_cache, _shown
from benchmarks.harness import Case, MissingPackage, OutOfMemory, Side, Worker, WorkerFailed, interleaved, measure
from benchmarks.paired import Spread, ratio
from benchmarks.peers import INSTALL, import_timm
from benchmarks.processors import Clock

HERE = "tests.benchmarks.workers"


def case(ours: str, *peers: Side, batch: int = 8, tolerance: float = 1e-3) -> Case:
    return Case("key", "a call", batch, Side("ours", f"{HERE}:{ours}"), peers, tolerance, flops=lambda batch: 10.0 * batch)


def test_ratios_are_taken_pair_by_pair() -> None:
    # The machine was four times slower in the second turn: the ratio of medians would be 1, or 2 by chance.
    assert ratio([1.0, 8.0, 2.0], [2.0, 8.0, 1.0]) == Spread(1.0, 0.5, 2.0)
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)
    assert Spread(1.0456, 0.9, 12.0).shown() == "1.05 (0.9 to 12)"
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [1.0, 2.0])


def test_two_sides_take_turns() -> None:
    found = measure(case("steady", Side("theirs", f"{HERE}:steady", {"value": 1.0005})), repeats=3)
    ours, theirs = found["sides"]
    assert (ours["name"], theirs["name"]) == ("ours", "theirs")
    assert len(ours["turns"]) == len(theirs["turns"]) == 3
    assert "ratio" not in ours
    assert theirs["ratio"]["low"] <= theirs["ratio"]["median"] <= theirs["ratio"]["high"]
    assert ours["seconds"]["median"] >= 0.001
    assert ours["peak_bytes"] > 2**20
    assert found["flops"] == 80.0
    assert found["notes"] == []


def test_the_process_that_compiles_is_timed_apart(tmp_path: Path) -> None:
    file = tmp_path / "compiled"
    side = Side("ours", f"{HERE}:compiles_once", {"file": str(file)}, caches=True)
    (ours,) = measure(Case("key", "a call", 1, side, [], 1e-3), repeats=1)["sides"]
    assert ours["first_seconds"] >= 0.05
    assert ours["first_process_seconds"] >= 0.02
    assert ours["seconds"]["median"] < 0.02
    assert file.is_file()


def test_a_comparison_starts_with_an_empty_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    monkeypatch.setenv("BRIDGEJAX_CACHE_DIR", "elsewhere")
    with _empty_cache():
        assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
        assert list(Path(os.environ["BRIDGEJAX_CACHE_DIR"]).iterdir()) == []
    assert (os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ["BRIDGEJAX_CACHE_DIR"]) == ("somewhere", "elsewhere")


def test_the_order_is_in_turns_and_the_first_turn_does_not_count() -> None:
    order: list[tuple[str, int]] = []

    class Recorded:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, calls: int) -> dict[str, object]:
            order.append((self.name, calls))
            return {"seconds": [0.1] * calls, "others": 0.2, "peak_bytes": 7}

    timed = interleaved({name: Recorded(name) for name in "ab"}, 2, rest=0.0)  # type: ignore[arg-type]
    assert order == [("a", 1), ("b", 1), ("a", 5), ("b", 5), ("a", 5), ("b", 5)]
    assert vars(timed["a"]) == {"seconds": [0.1, 0.1], "calls": 5, "others": 0.2, "peak_bytes": 7}


def test_what_other_programs_take_is_the_machine_less_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert Clock(10.0, 3.0, 105.0).others_since(Clock(9.0, 2.5, 103.5)) == pytest.approx(0.5)
    assert Clock(10.0, 3.0, None).others_since(Clock(9.0, 2.5, None)) is None


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("wrong", WorkerFailed, "ValueError: the weights do not fit"),
        ("killed", OutOfMemory, "signal 9"),
        ("leaves", WorkerFailed, "exit code 3 .the last word."),
        ("without_timm", MissingPackage, "timm is not installed: pip install --no-deps timm"),
        ("absent", WorkerFailed, "absent"),
    ],
)
def test_a_worker_that_fails_says_why(name: str, kind: type[Exception], told: str) -> None:
    with Worker(f"{HERE}:{name}") as worker, pytest.raises(kind, match=told):
        worker.prepare()


def test_a_worker_that_fails_later_says_so() -> None:
    with Worker(f"{HERE}:fails_later") as worker:
        worker.prepare()
        with pytest.raises(WorkerFailed, match="StopIteration"):
            worker.run(1)


def test_a_missing_peer_leaves_our_own_side_and_what_to_install() -> None:
    found = measure(case("steady", Side("timm, eager", f"{HERE}:without_timm")), repeats=1)
    assert [side["name"] for side in found["sides"]] == ["ours"]
    assert found["notes"] == [f"timm, eager was not measured: timm is not installed: {INSTALL['timm']}"]


def test_the_batch_that_fits_is_found_by_halving() -> None:
    found = measure(case("small", batch=16), repeats=1)
    assert found["batch"] == 4
    assert [note.split(" (")[0] for note in found["notes"]] == [
        "a batch of 16 does not fit into this machine's memory",
        "a batch of 8 does not fit into this machine's memory",
        "a batch of 4 fits",
    ]
    with pytest.raises(OutOfMemory, match="not even a batch of 1"):
        measure(case("killed", batch=1), repeats=1)


def test_sides_that_compute_something_else_are_not_compared() -> None:
    with pytest.raises(WorkerFailed, match="do not compute the same"):
        measure(case("steady", Side("theirs", f"{HERE}:steady", {"value": 1.1})), repeats=1)


def test_the_command_beside_a_figure_is_without_the_folder_it_went_to() -> None:
    assert _shown(["--quick", "--output", "somewhere", "--only", "a b"]) == " --quick --only 'a b'"
    assert _shown(["--output=somewhere"]) == ""


@pytest.mark.parity
@pytest.mark.parametrize("name", list(networks.NETWORKS))
def test_operations_are_those_of_the_original(name: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    network, size = networks.NETWORKS[name], 64
    if importlib.util.find_spec(network.peer) is None:
        pytest.skip(f"{network.peer} is not installed")
    if network.peer == "timm":
        given = {} if network.convolutional else {"img_size": size}
        model = import_timm().create_model(network.architecture, **given)
    else:
        model = importlib.import_module(network.peer).EfficientNet.from_name("efficientnet-lite0", image_size=size)
    model.eval()

    def counted(backward: bool) -> int:
        # Fused attention the counter would miss.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            loss = model(torch.zeros(1, 3, size, size)).sum()
            if backward:
                loss.backward()
        return counter.get_total_flops()

    assert flops.forward(name, size) == counted(backward=False)
    if name != "efficientnet_lite0":  # the counter takes the backward pass of a depthwise convolution for a dense one's
        assert flops.training(name, size) == counted(backward=True)


def test_every_peer_can_be_told_how_to_install() -> None:
    assert set(INSTALL) >= {network.peer for network in networks.NETWORKS.values()} | {"torch", "diffusers"}
