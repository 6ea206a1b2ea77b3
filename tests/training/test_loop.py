"""Runs of recipes: stages, history, resuming, divergence, and refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from training_fixtures import PlainNet, Streams, TinyNet, examples, task

from bridgejax import runtime
from bridgejax.errors import TryAgain, UserError
from bridgejax.mesh import make_mesh
from bridgejax.recipes import recipe_from_config
from bridgejax.training import RunInputs, RunOptions, TrainState, evaluate, evaluator, make_optimizer, train_recipe
from bridgejax.training.stages import stage_plans

PROGRAM = Path(__file__).with_name("resume_program.py")


def tiny(**options):
    return nnx.jit(lambda: TinyNet(nnx.Rngs(0), **options))()


def run(stages, *, model=None, seed=0, directory=None, streams=None, synthetic=None, teachers=None, **options):
    inputs = RunInputs(model or tiny(), task(), seed, synthetic, directory, teachers or {})
    settings = RunOptions(**{"batch_size": 6, "eval_batch_size": 4, "image_size": 8, **options})
    return train_recipe(recipe_from_config("mine", stages), inputs, settings, streams=streams or Streams())


def test_a_run_learns_and_tells_its_history():
    streams = Streams()
    stages = [{"data": "synthetic", "steps": 60, "learning_rate": 0.1}, {"data": "mixed", "steps": 30, "synthetic_share": 0.25}]
    model = tiny()
    before = np.asarray(model.head.kernel[...])
    result = run(stages, model=model, streams=streams, synthetic=examples(30, 5, "s"), evaluations=3)
    assert [call["sources"] for call in streams.calls] == [1, 2]
    assert [call["weights"] for call in streams.calls] == [None, [0.75, 0.25]]
    assert result.metrics["train_steps"] == 90
    assert result.metrics["test_accuracy"] >= 0.8
    assert len(result.metrics["correct"]) == 10
    assert np.sum(result.metrics["confusion"]) == 10
    assert [(e["stage"], e["step"]) for e in result.history if "test_accuracy" in e] == [(0, 30), (0, 60), (1, 90)]
    losses = [e for e in result.history if "loss" in e]
    assert losses[-1]["step"] == 90
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert json.loads(json.dumps([result.history, result.metrics]))
    np.testing.assert_array_equal(model.head.kernel[...], before)  # the model that came in is untouched
    found = evaluate(result.state.model, streams.eval_batches(task().test, batch_size=5, image_size=8))
    assert found["accuracy"] == result.metrics["test_accuracy"]


def test_test_images_too_many_to_hold_are_made_anew_for_each_look(monkeypatch):
    class Counted(Streams):
        looks = 0

        def eval_batches(self, found, **settings):
            self.looks += 1
            return super().eval_batches(found, **settings)

    stages = [{"data": "real", "steps": 6, "learning_rate": 0.1}]
    held, anew = Counted(), Counted()
    expected = run(stages, streams=held, evaluations=3)
    monkeypatch.setattr(evaluator, "HELD_BYTES", 10 * 8 * 8 * 3 - 1)
    found = run(stages, streams=anew, evaluations=3)
    assert (held.looks, anew.looks) == (1, 3)
    assert found.history == expected.history
    assert found.metrics["correct"] == expected.metrics["correct"]


def test_any_number_of_batches_is_judged_in_order():
    many = examples(90, 3, "many")
    model = tiny()
    found, expected = (evaluate(model, Streams().eval_batches(many, batch_size=b, image_size=8)) for b in (1, 90))
    assert found["correct"] == expected["correct"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=16 * float(np.finfo(np.float32).eps))


def test_stage_switch_choices():
    streams = Streams()
    first = {"data": "real", "steps": 5, "learning_rate": 0.05}
    frozen = {
        "data": "real",
        "steps": 1,
        "learning_rate": 0.0,
        "weight_decay": 0.0,
        "schedule": "constant",
        "batch_norm": "frozen",
    }
    kept = run([first, frozen], streams=streams).state
    plain = run([first], streams=streams).state
    for name in ("head.kernel", "conv.kernel"):
        np.testing.assert_array_equal(kept.params[name], plain.params[name])
    np.testing.assert_array_equal(kept.other["bn.mean"], plain.other["bn.mean"])
    initial = run([first, {**frozen, "batch_statistics": "initial"}], streams=streams).state
    np.testing.assert_array_equal(initial.other["bn.mean"], np.zeros(6))
    again = run([first, {**frozen, "reset": "head"}], streams=streams).state
    assert np.abs(again.params["head.kernel"] - plain.params["head.kernel"]).max() > 0.01
    np.testing.assert_array_equal(again.params["conv.kernel"], plain.params["conv.kernel"])
    head = run([{**first, "trainable": ["head"]}], streams=streams).state
    np.testing.assert_array_equal(head.other["conv.kernel"], tiny().conv.kernel[...])
    # One stage of 8 is two stages of 4 whose optimiser and schedule go on.
    go_on = {"restart_optimizer": False, "restart_schedule": False}
    halves = run([{**first, "steps": 4}, {**first, "steps": 4, **go_on}], streams=_OneStream()).state
    whole = run([{**first, "steps": 8}], streams=_OneStream()).state
    np.testing.assert_allclose(halves.params["conv.kernel"], whole.params["conv.kernel"], rtol=1e-5, atol=1e-7)


class _OneStream(Streams):
    """Gives the same batch at each step of each stage."""

    def train_batches(self, sources, **options):
        options.update(seed=0, start_step=0)
        batch = next(super().train_batches(sources, **options))
        while True:
            yield batch


def test_schedules_span_stages_that_go_on():
    stages = [
        {"steps": 10, "warmup_steps": 2},
        {"steps": 30, "restart_schedule": False},
        {"steps": 5, "schedule": "constant"},
    ]
    plans = stage_plans(recipe_from_config("mine", stages, {"learning_rate": 1.0}))
    rates = [[float(plan.schedule.rate(np.int32(k))) for k in range(plan.stage.steps)] for plan in plans]
    assert rates[0][:3] == pytest.approx([0.5, 1.0, 1.0])
    expected = [0.5 * (1 + np.cos(np.pi * (k - 2) / 38)) for k in range(2, 40)]
    assert rates[0][2:] + rates[1] == pytest.approx(expected, abs=1e-6)
    assert rates[2] == [1.0] * 5


@pytest.mark.parametrize("mesh", [None, "all"])
def test_arms_lengths_and_seeds_share_one_program(mesh, caplog):
    where = None if mesh is None else make_mesh([("data", 1)], devices=jax.devices()[:1])
    run([{"steps": 3, "learning_rate": 0.1}], batch_size=7, mesh=where)
    before = TinyNet.traces
    with jax.log_compiles(), caplog.at_level("WARNING"):
        run(
            [{"steps": 4, "mixup_alpha": 0.3, "warmup_steps": 1}, {"steps": 2, "reset": "head"}],
            batch_size=7,
            seed=5,
            mesh=where,
        )
        run([{"steps": 6, "schedule": "constant", "weight_decay": 0.0, "label_smoothing": 0.1}], batch_size=7, mesh=where)
    assert TinyNet.traces == before
    assert "compilation of jit(draw)" in caplog.text  # Mixup's draw is a program of its own
    assert "compilation of jit(train_step)" not in caplog.text


def start(folder: Path, name: str, kill_at: int, *words: str) -> tuple[int, dict]:
    """Runs the program in its own process; returns its exit code and what it told."""
    output = folder / f"{name}.json"
    command = [sys.executable, str(PROGRAM), str(folder / name), str(output), str(kill_at), *words]
    code = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=False).returncode
    return code, json.loads(output.read_text()) if code == 0 else {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    code, told = start(tmp_path_factory.mktemp("whole"), "run", 0)
    assert code == 0
    assert told.pop("drawn") == 25
    return told


# One kill in the first stage; three that hit the second stage, one of them while little is new; and one at the last batch.
@pytest.mark.parametrize("kills", [[13], [17, 3, 9], [25]])
def test_killed_at_any_moment_it_ends_with_the_same_numbers(tmp_path, whole, kills):
    for kill in kills:
        assert start(tmp_path, "run", kill)[0] == -signal.SIGKILL
    code, resumed = start(tmp_path, "run", 0)
    assert code == 0
    assert resumed.pop("drawn") < 25  # it went on and did not start afresh
    assert resumed == whole
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["24", "25"]
    if kills == [25]:
        code, again = start(tmp_path, "run", 0)
        assert (code, again.pop("drawn"), again) == (0, 0, whole)


def test_a_checkpoint_that_was_killed_while_it_committed_does_not_count(tmp_path, whole):
    assert start(tmp_path, "run", 12, "commit")[0] == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert "12" not in left
    assert any(name.startswith("12.orbax-checkpoint-tmp") for name in left)
    code, resumed = start(tmp_path, "run", 0)
    assert code == 0
    assert resumed.pop("drawn") == 25 - 8  # from the checkpoint before
    assert resumed == whole
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["24", "25"]


def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    class Poison(Streams):
        def train_batches(self, *args, **options):
            for step, batch in enumerate(super().train_batches(*args, **options)):
                yield {**batch, "image": np.full(batch["image"].shape, np.nan, np.float32)} if step == 6 else batch

    stages = [{"data": "real", "steps": 12, "learning_rate": 0.01, "schedule": "constant"}]
    told = r"loss is nan at step 7 of 12, stage 1 \(real\) of 'mine', learning rate 0.01 \(the checkpoint of step 4 is kept\)"
    with pytest.raises(UserError, match=told):
        run(stages, directory=tmp_path / "run", streams=Poison(), checkpoint_every=4)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["4"]
    result = run(stages, directory=tmp_path / "run", checkpoint_every=4)
    assert result.metrics == {**run(stages).metrics, "seconds": result.metrics["seconds"]}


def test_ctrl_c_leaves_a_directory_to_go_on_with(tmp_path):
    def stop(step: int) -> None:
        if step == 11:  # two batches are ahead of the one in use
            raise KeyboardInterrupt

    stages = [{"data": "real", "steps": 12}]
    with pytest.raises(KeyboardInterrupt):
        run(stages, directory=tmp_path / "run", streams=Streams(stop), checkpoint_every=4)
    streams = Streams()
    result = run(stages, directory=tmp_path / "run", streams=streams, checkpoint_every=4)
    assert streams.calls[0]["start_step"] == 8
    assert result.history == run(stages).history


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_schedulers_signal_saves_the_step_and_the_run_goes_on_from_it(tmp_path, number):
    def ask(step: int) -> None:
        if step == 8:  # two batches are ahead of the one in use
            os.kill(os.getpid(), number)

    stages, before = [{"data": "real", "steps": 12}], signal.getsignal(number)
    told = rf"{number.name} ended the training of 'mine' at step [5-9] of 12; its checkpoint is written"
    with pytest.raises(TryAgain, match=told):
        run(stages, directory=tmp_path / "run", streams=Streams(ask))
    assert signal.getsignal(number) == before
    streams = Streams()
    result = run(stages, directory=tmp_path / "run", streams=streams)
    assert 5 <= streams.calls[0]["start_step"] <= 9
    assert result.history == run(stages).history


def test_a_signal_after_the_last_step_is_not_forgotten():
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with runtime.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            assert runtime.end_asked() == "SIGTERM"
            assert came == []
        assert came == [signal.SIGTERM]
        assert runtime.end_asked() is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_truncated_last_checkpoint_is_not_taken_for_the_latest(tmp_path, capsys):
    stages, folder = [{"data": "real", "steps": 12}], tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(stages, directory=folder, streams=Streams(_interrupt_at(11)), checkpoint_every=4)
    assert sorted(path.name for path in folder.iterdir()) == ["4", "8"]
    largest = max(
        (path for path in (folder / "8" / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    os.truncate(largest, largest.stat().st_size // 2)
    (folder / "11.orbax-checkpoint-tmp" / "state").mkdir(parents=True)  # of a save that was killed before its commit
    streams = Streams()
    result = run(stages, directory=folder, streams=streams, checkpoint_every=4)
    assert streams.calls[0]["start_step"] == 4
    assert "the checkpoint of step 8 is damaged and is removed; training goes on from step 4" in capsys.readouterr().err
    assert result.history == run(stages).history
    assert sorted(path.name for path in folder.iterdir()) == ["12", "8"]


def _interrupt_at(number: int):
    def stop(step: int) -> None:
        if step == number:
            raise KeyboardInterrupt

    return stop


def test_another_runs_directory_and_damage_are_told(tmp_path):
    stages = [{"data": "real", "steps": 3}]
    run(stages, directory=tmp_path / "run")
    with pytest.raises(UserError, match="other settings or data"):
        run(stages, directory=tmp_path / "run", seed=1)
    for file in (tmp_path / "run" / "3" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        run(stages, directory=tmp_path / "run")


def test_without_a_final_checkpoint_nothing_is_left(tmp_path):
    run([{"data": "real", "steps": 3}], directory=tmp_path / "run", keep_final=False)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("stages", "options", "told"),
    [
        ([{"data": "synthetic"}], {}, "generate a set first"),
        ([{"loss": "soft_target"}], {}, "needs a teacher"),
        ([{"reset": "head"}], {"model": PlainNet(nnx.Rngs(0))}, "no nnx.Linear named `head`"),
        ([{"steps": 2}], {"batch_size": 0}, "batch_size is 0"),
        ([{"steps": 2}], {"batch_size": 10, "accumulate": 4}, r"batch_size is 10; .* 4 parts \(training.accumulate\): 8 or 12"),
        ([{"steps": 2, "batch_size": 9}], {"accumulate": 2}, "the batch_size of stage 1 of recipe 'mine' is 9; .*: 8 or 10"),
        ([{"steps": 2}], {"eval_every": 0}, "eval_every is 0"),
        ([{"steps": 2}], {"model": tiny(classes=2)}, "holds 2, but the model has 2 classes"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(stages, options, told):
    with pytest.raises(UserError, match=told):
        run(stages, **options)


def test_a_teacher_gives_soft_targets():
    options = {"loss": "soft_target", "teacher": "uniform", "soft_weight": 1.0}
    stages = [{"data": "real", "steps": 2, "learning_rate": 0.0, **options}]
    result = run(stages, teachers={"uniform": lambda batch: np.zeros((len(batch["label"]), 3), np.float32)})
    # Against a uniform teacher no loss is below log 3.
    assert result.history[0]["loss"] >= np.log(3) - 1e-6


def test_states_of_another_optimiser_do_not_mix(tmp_path):
    assert make_optimizer("sgd", learning_rate=0.1) == make_optimizer("sgd", learning_rate=0.2)
    assert make_optimizer("sgd", learning_rate=0.1) != make_optimizer("adamw", learning_rate=0.1)
    assert (
        TrainState.create(tiny(), make_optimizer("sgd", 0.1)).structure
        == TrainState.create(tiny(), make_optimizer("sgd", 0.1)).structure
    )
