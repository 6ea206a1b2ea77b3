"""A study from a config: synthetic set, every arm with every seed, report. Each result is keyed by what decides it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bridgejax import workdir as workdirs
from bridgejax.config import to_plain
from bridgejax.errors import UserError, nearest
from bridgejax.identity import TEMPORARY_PREFIX, derive_seed, digest, write_atomic, write_json
from bridgejax.progress import stage_heading
from bridgejax.runtime import is_first
from bridgejax.studies import synthetic_set
from bridgejax.studies.generator import load_generator
from bridgejax.studies.sets import StudySet, load_sets

RUNS_FOLDER = "runs"
RESULT_FILE = "result.json"
RESULTS_FILE = "results.jsonl"
SECONDS_FILE = "seconds.json"
EXAMPLES_FILE = "examples.npz"
CLASSIFIER = "classifier"
EXAMPLES_PER_CLASS = 4
EXAMPLE_SIZE = 96


@dataclasses.dataclass(frozen=True)
class Run:
    """An arm (recipe, shots, synthetic volume) with one seed: a line of the results."""

    arm: str
    seed: int
    shots: int | None
    per_class: int

    @property
    def folder(self) -> str:
        """The run's folder below `runs/`."""
        shots = "all" if self.shots is None else self.shots
        return f"{self.arm}/shots-{shots}_per_class-{self.per_class}_seed-{self.seed}"


class Study:
    """Everything that a config names, loaded once and checked before anything is written.

    Raises:
      UserError: a class, a recipe, a folder or a weight that the config names is not as it should be.
    """

    judged = "test"  # the part that accuracies are of

    def __init__(self, config: Any, load_generators: bool = True) -> None:
        from bridgejax.mesh import generation_mesh, make_mesh
        from bridgejax.models.registry import classifier_digest
        from bridgejax.studies.tuned import check_tuned, study_recipes

        self.config = config
        self.plain = to_plain(config)
        self.mesh = make_mesh(config.mesh)
        # Each process generates its own shards on its own devices; training is one program over all of them.
        self.generation_mesh = generation_mesh(config.mesh)
        self.recipes = study_recipes(self.plain)
        self.classifier_digest = classifier_digest(config.classifier.weights)
        self._tasks: dict[tuple[int | None, int], Any] = {}
        shots = tuple(config.study.shots) or (config.task.shots,)
        volumes = tuple(config.study.per_class) or (config.synthetic.per_class,)
        self.per_class = max(volumes)
        self.runs = [
            Run(arm, seed, shot, volume)
            for shot in shots
            for volume in volumes
            for arm in config.arms
            for seed in range(config.study.seeds)
        ]
        for shot in shots:
            self.task(shot, 0)  # a wrong folder or too many shots shows now, not after generation
        check_tuned(self)
        self._check_recipes(shots)
        names = dict.fromkeys(name for recipe in self.recipes.values() for name in recipe.synthetic_sets)
        self.sets = load_sets(config, names, self.class_names, self.generation_mesh, load_generators)

    def _check_recipes(self, shots: tuple[int | None, ...]) -> None:
        """Checks that the task and the classifier have what the recipes ask for; the synthetic images are yet to be made."""
        from bridgejax.models import load_classifier
        from bridgejax.training import stages
        from bridgejax.training.state import Structure, select_parameters

        for recipe in self.recipes.values():
            for shot in shots:
                stages.check_sources(recipe, self.task(shot, 0), dict.fromkeys(recipe.synthetic_sets, (0,)), None)
        # Any classifier has a head; whoever asks for more has it loaded.
        plain = {("none", ("all",)), ("head", ("all",)), ("none", ("head",)), ("head", ("head",))}
        asking = [recipe for recipe in self.recipes.values() if any((s.reset, s.trainable) not in plain for s in recipe.stages)]
        if not asking:
            return
        model = load_classifier(self.config.classifier.weights, num_classes=len(self.class_names))
        parameters = Structure.of(model)[2]
        for recipe in asking:
            stages.check_model(recipe, model)
            for stage in recipe.stages:
                select_parameters(parameters, stage.trainable)

    def task(self, shots: int | None, seed: int) -> Any:
        """Returns the task with the real images that this seed draws."""
        from bridgejax.data import load_task

        if (shots, seed) not in self._tasks:
            task = self.config.task
            self._tasks[shots, seed] = load_task(
                task.source,
                shots=shots,
                seed=derive_seed(self.config.seed, "split", seed),
                class_names=tuple(task.class_names) or None,
                validation_per_class=task.validation_per_class,
                data_dir=task.data_dir,
            )
        return self._tasks[shots, seed]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in their order."""
        return next(iter(self._tasks.values())).class_names

    def trained(self, run: Run) -> Run:
        """Returns the run that is trained for this one: without synthetic images (`per_class` 0) one serves every volume."""
        return run if self.recipes[run.arm].needs_synthetic else dataclasses.replace(run, per_class=0)

    def trainings(self) -> list[Run]:
        """Returns the runs that are trained, each once."""
        return list(dict.fromkeys(map(self.trained, self.runs)))

    def identity(self, run: Run) -> str:
        """Returns the digest of everything that decides a run's result."""
        config = self.config
        recipe = self.recipes[run.arm]
        parts = {
            "recipe": dataclasses.asdict(recipe),
            "task": self.task(run.shots, run.seed).digest,
            "classifier": [self.classifier_digest, config.classifier.image_size, config.classifier.crop],
            "training": [config.training.batch_size, config.training.eval_batch_size, config.training.evaluations],
            "seed": [config.seed, run.seed],
        }
        if config.training.dtype != "float32":
            parts["dtype"] = config.training.dtype
        if recipe.needs_synthetic:
            task = self.task(run.shots, run.seed)
            parts["synthetic"] = {
                name: self.sets[name].identity(task, run.shots, run.seed, run.per_class) for name in recipe.synthetic_sets
            }
        return digest(parts)


def run(config: Any, workdir: Path, *, report: bool = True) -> Path:
    """Generates, trains every arm with every seed, and reports; continues what an earlier call began.

    Args:
      config: a checked config (`bridgejax.config.load_config`).
      workdir: the folder to work in.
      report: write the report too; `bridgejax report` makes it of what is left otherwise.

    Returns:
      The path of report.html, or of results.jsonl.
    """
    from bridgejax.studies.report import is_current, write_report

    check_workdir(workdir, config)
    study = Study(config)
    with opened(workdir, study.plain):
        generate_for(study, workdir, study.runs)
        trainings = study.trainings()
        pending = [one for one in trainings if load_result(study, workdir, one) is None]
        if pending:
            stage_heading(
                f"train: {len(pending)} of {len(trainings)} runs ({len(config.arms)} arms, {config.study.seeds} seeds)"
            )
            train_pending(study, workdir, pending)
        if is_first():
            changed = _write_results(study, workdir)
            if changed or not (workdir / EXAMPLES_FILE).is_file() or synthetic_set.is_due(study, workdir):
                _write_examples(study, workdir)
                synthetic_set.write_synthetic_set(study, workdir)
            if report and not is_current(workdir):
                stage_heading("report")
                write_report(workdir)
    return workdir / ("report.html" if report else RESULTS_FILE)


def generate(config: Any, workdir: Path) -> Path:
    """Makes the synthetic sets of the config's arms, or what is missing or damaged of them; returns the first one's folder."""
    check_workdir(workdir, config)
    study = Study(config)
    if not study.sets:
        raise UserError("none of the config's arms uses synthetic images; name one that does in arms, for instance 'bridged'.")
    with opened(workdir, study.plain):
        generate_for(study, workdir, study.runs)
    first = study.runs[0]
    return workdir / next(iter(study.sets.values())).folder(first.shots, first.seed)


def train(config: Any, workdir: Path, recipe: str | None = None, seed: int = 0) -> Path:
    """Trains one recipe with one seed (generating first if it needs images) and keeps its trained classifier.

    Returns:
      The folder of the run: `result.json` and `classifier/`, which `load_classifier` reads.
    """
    from bridgejax.models import save_classifier

    name = recipe or config.arms[0]
    if name not in config.recipes:
        raise UserError(
            f"--recipe {name!r} is no recipe of the config{nearest(name, config.recipes)} ({', '.join(config.recipes)})."
        )
    if seed < 0:
        raise UserError(f"--seed is {seed}; it should be a whole number of at least 0.")
    with config.unlocked():
        config.arms = (name,)
        config.study.seeds = max(config.study.seeds, seed + 1)
    check_workdir(workdir, config)
    study = Study(config)
    one = next(candidate for candidate in study.trainings() if candidate.seed == seed)
    folder = workdir / RUNS_FOLDER / one.folder
    with opened(workdir, study.plain):
        generate_for(study, workdir, [one])
        if load_result(study, workdir, one) is None or not (folder / CLASSIFIER).is_dir():
            stage_heading(f"train: {name}, seed {seed}")
            for _, result in _train(study, workdir, [one]):
                if is_first():
                    aside = folder / f"{TEMPORARY_PREFIX}{CLASSIFIER}"
                    shutil.rmtree(aside, ignore_errors=True)
                    save_classifier(result.state.model, aside)
                    aside.rename(folder / CLASSIFIER)  # whole or absent
        if is_first():
            _add_results(study, workdir, [each for each in study.runs if study.trained(each) == one])
    return folder


def check_workdir(workdir: Path, config: Any) -> None:
    """Checks the workdir in the first process; the others find it half-made."""
    if is_first():
        workdirs.check_workdir(workdir, to_plain(config))


@contextlib.contextmanager
def opened(workdir: Path, plain: Mapping[str, Any]) -> Iterator[None]:
    """Opens the workdir: the first process locks it for all and leaves it last, when the others have ended their work."""
    from bridgejax.mesh import barrier

    with workdirs.open_workdir(workdir, plain) if is_first() else contextlib.nullcontext():
        if is_first():
            for leftover in (workdir / RUNS_FOLDER).glob(f"*/*/{TEMPORARY_PREFIX}*"):  # of a command that was killed
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        barrier("bridgejax: workdir open")
        yield
        barrier("bridgejax: workdir done")


def generate_for(study: Study, workdir: Path, runs: list[Run]) -> None:
    """Makes what is missing or damaged of the synthetic sets that the runs train with, learning their words before."""
    for one in study.sets.values():
        users = [run for run in runs if one.name in study.recipes[run.arm].synthetic_sets]
        if not one.learns:
            if users:
                _generate_set(study, workdir / one.folder(None, 0), one, one.pipeline, workdir)
            continue
        draws = dict.fromkeys((run.shots, run.seed) for run in users)
        # What is wrong with one shows before any is learned.
        inverters = [one.inverter(workdir, study.task(*draw), *draw) for draw in draws]
        for draw, inverter in zip(draws, inverters, strict=True):
            began, known = time.monotonic(), inverter.finished()
            inverter.learn()
            if is_first() and not known:
                _add_seconds(workdir, "invert", time.monotonic() - began)
            pipeline = load_generator(one.config, study.generation_mesh, inverter.files)
            _generate_set(study, workdir / one.folder(*draw), one, pipeline, workdir)


def _generate_set(study: Study, directory: Path, one: StudySet, pipeline: Any, workdir: Path) -> None:
    """Makes what is missing or damaged of one synthetic set; a finished one is only verified."""
    from bridgejax.synthesis import generate_set

    total = study.per_class * len(study.class_names)
    options = one.options()
    named = f" of set {one.name!r}" if one.name else ""
    stage_heading(f"generate: {total} images of {len(study.class_names)} classes{named}, {options['steps']} steps each")
    shards = _shards(directory)
    began = time.monotonic()
    if is_first():
        directory.parent.mkdir(parents=True, exist_ok=True)
    generate_set(
        directory,
        pipeline=pipeline,
        mesh=study.generation_mesh,
        per_class=study.per_class,
        **options,
        **one.storage(),
    )
    if is_first() and _shards(directory) != shards:
        _add_seconds(workdir, "generate", time.monotonic() - began)


def _shards(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("*record*")}


def train_pending(study: Study, workdir: Path, pending: list[Run]) -> None:
    began = time.monotonic()
    try:
        for number, (one, result) in enumerate(_train(study, workdir, pending), start=1):
            shots = "all" if one.shots is None else one.shots
            accuracy = result.metrics["test_mean_per_class_accuracy"]
            stage_heading(f"  {number}/{len(pending)} {one.arm}, {shots} shots, seed {one.seed}: {accuracy:.3f} mean per class")
    finally:
        if is_first():
            _add_seconds(workdir, "train", time.monotonic() - began)


def _train(study: Study, workdir: Path, runs: list[Run]) -> Iterator[tuple[Run, Any]]:
    """Trains the runs, recording each result when it is whole."""
    from bridgejax.data import synthetic_examples
    from bridgejax.studies.seeds import groups, train_group

    loaded: dict[tuple[Path, int], Any] = {}

    def images_of(one: Run) -> dict[str, Any]:
        images = {}
        for name in study.recipes[one.arm].synthetic_sets:
            made = (workdir / study.sets[name].folder(one.shots, one.seed), one.per_class)
            if made not in loaded:
                loaded[made] = synthetic_examples(made[0], class_names=study.class_names, per_class=one.per_class)
            images[name] = loaded[made]
        return images

    for group in groups(study, runs):
        folders = [workdir / RUNS_FOLDER / one.folder for one in group]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        results = train_group(study, group, folders, [images_of(one) for one in group])
        for one, folder, result in zip(group, folders, results, strict=True):
            task = study.task(one.shots, one.seed)
            record = {"identity": study.identity(one), "result": _record(study, one, task, result)}
            if is_first():
                shutil.rmtree(folder / CLASSIFIER, ignore_errors=True)  # of another recipe, that the folder held before
                write_json(folder / RESULT_FILE, record)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            yield one, result


def _record(study: Study, one: Run, task: Any, result: Any) -> dict[str, Any]:
    found = {
        "arm": one.arm,
        "seed": one.seed,
        "shots": one.shots,
        "per_class": one.per_class,
        "task": task.name,
        "classes": list(task.class_names),
        "real_images": len(task.train),
        "test_images": len(task.test),
        "test_ids": list(task.test.ids),
        "test_labels": [int(label) for label in task.test.labels],
        **result.metrics,
        "history": result.history,
    }
    if study.judged == "test":
        return found
    # What was judged on other images does not go by the name of the test part.
    found["history"] = [_renamed(entry, study.judged) for entry in found["history"]]
    return _renamed(found, study.judged)


def _renamed(entry: Mapping[str, Any], judged: str) -> dict[str, Any]:
    return {key.replace("test_", f"{judged}_", 1) if key.startswith("test_") else key: value for key, value in entry.items()}


def load_result(study: Study, workdir: Path, one: Run) -> dict[str, Any] | None:
    """Returns a run's result if it is there and was made by the same identity, else None."""
    result = load_record(study, workdir, one).get("result")
    return None if result is None else {**result, "volume": one.per_class}


def load_record(study: Study, workdir: Path, one: Run) -> dict[str, Any]:
    """Returns what is kept of the training that serves a run, empty unless it was made by the same identity."""
    file = workdir / RUNS_FOLDER / study.trained(one).folder / RESULT_FILE
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and record.get("identity") == study.identity(one) else {}


def _write_results(study: Study, workdir: Path) -> bool:
    """Writes a line for every run; returns whether that changed anything."""
    results = [load_result(study, workdir, one) for one in study.runs]
    text = "".join(json.dumps(result, sort_keys=True) + "\n" for result in results)
    file = workdir / RESULTS_FILE
    if file.is_file() and file.read_text() == text:
        return False
    write_atomic(file, text)
    return True


def _add_results(study: Study, workdir: Path, runs: list[Run]) -> None:
    """Writes the lines of some runs, in the place of what the workdir knew of them; other lines stay."""
    keys = ("arm", "seed", "shots", "volume")
    found = [load_result(study, workdir, one) for one in runs]
    added = {tuple(result.get(key) for key in keys): result for result in found if result is not None}
    file, lines = workdir / RESULTS_FILE, {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        with contextlib.suppress(ValueError, AttributeError):  # a damaged line is left out
            known = json.loads(line)
            lines[tuple(known.get(key) for key in keys)] = known
    text = "".join(json.dumps(result, sort_keys=True) + "\n" for result in {**lines, **added}.values())
    write_atomic(file, text)


def _write_examples(study: Study, workdir: Path) -> None:
    """Keeps a few real and synthetic images per class for the report's contact sheet."""
    import io

    from bridgejax.data import synthetic_examples

    first = study.runs[0]
    task = study.task(first.shots, first.seed)
    sheets: dict[str, np.ndarray] = {"real": _sheet(task.train, len(task.class_names))}
    if study.sets:
        shown = study.sets.get("") or next(iter(study.sets.values()))
        folder = workdir / shown.folder(first.shots, first.seed)
        count = min(EXAMPLES_PER_CLASS, study.per_class)
        examples = synthetic_examples(folder, class_names=study.class_names, per_class=count)
        sheets["synthetic"] = _sheet(examples, len(task.class_names))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, class_names=np.asarray(task.class_names), **sheets)  # type: ignore[arg-type]
    write_atomic(workdir / EXAMPLES_FILE, buffer.getvalue())


def _sheet(examples: Any, classes: int) -> np.ndarray:
    """Returns uint8 [classes, k, size, size, 3]: images fitted into white squares; white where a class has fewer than k."""
    from PIL import Image, ImageOps

    from bridgejax.data.images import decode_rgb

    sheet = np.full((classes, EXAMPLES_PER_CLASS, EXAMPLE_SIZE, EXAMPLE_SIZE, 3), 255, np.uint8)
    for label in range(classes):
        for column, index in enumerate(np.flatnonzero(examples.labels == label)[:EXAMPLES_PER_CLASS]):
            image = Image.fromarray(decode_rgb(examples.images[index]))
            sheet[label, column] = np.asarray(ImageOps.pad(image, (EXAMPLE_SIZE, EXAMPLE_SIZE), color="white"))
    return sheet


def _add_seconds(workdir: Path, name: str, seconds: float) -> None:
    """Adds to the workdir's account of time, over every call that worked on it."""
    file = workdir / SECONDS_FILE
    account: dict[str, float] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # a damaged account begins anew
        account = dict(json.loads(file.read_text()))
    write_json(file, {**account, name: round(account.get(name, 0.0) + seconds, 3)})
