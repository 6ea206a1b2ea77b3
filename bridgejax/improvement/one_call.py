"""`improve`: plans what fits into the budget, then calls what `bridgejax tune`, `train` and `run` call."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bridgejax import runtime
from bridgejax.config import Settings, default_config
from bridgejax.data import Task, export_task, load_task
from bridgejax.errors import UserError
from bridgejax.files import TEMPORARY_PREFIX, expanded, read_json_object, write_json
from bridgejax.improvement.budget import BASELINES, DESIGNS, HEAD, HEAD_STEPS, Design, Rates, fitting_design, seconds_of, spoken
from bridgejax.improvement.outcome import Improved
from bridgejax.progress import stage_heading
from bridgejax.prompts import check_templates, format_prompt
from bridgejax.report.phrases import duration, finding
from bridgejax.report.summary import summarise
from bridgejax.report.write import update_report
from bridgejax.studies.commands import run_study, train
from bridgejax.studies.execution import CLASSIFIER, open_workdir
from bridgejax.studies.run_results import read_results
from bridgejax.studies.study_plan import initial_classifier, run_options
from bridgejax.studies.study_sets import OWN_FOLDER
from bridgejax.studies.tuning import tune

PLAN_FILE, PHOTOS_FOLDER, CHOICE_FOLDER, STUDY_FOLDER = "plan.json", "photos", "choice", "study"
EMBEDDED_GENERATOR = "builtin:tiny_diffusion"
_MOST_VALIDATION = 10  # images per class
_TIMED_STEPS = 6
_LONG_SAMPLING = 10.0  # seconds: of a slower generator two steps alone are timed


def improve(
    photos: str | Path,
    *,
    generator: str | Path = EMBEDDED_GENERATOR,
    budget: str | float = "5m",
    workdir: str | Path | None = None,
    template: str = "a photo of a {}",
    classifier: str | Path = "builtin:efficientnet_lite0",
    image_size: int = 160,
    seed: int = 0,
) -> Improved:
    """Trains a classifier of the classes in a folder, with generated images where these help.

    It generates images of the classes, trains recipes with and without them (of the head alone, and if there is time of all
    layers), and lets validation images, which are set aside from the training part, choose one of them. That one is then
    trained again on the whole training part. The best with and the best without generated images are compared on the test
    part, which nothing is chosen by.

    Args:
      photos: a folder of class folders, or of train/ and test/ with class folders (as `folder:PATH` of a config); or
        "builtin:tux_photos". At least two images of a class to train on, and one to test on.
      generator: as `generator.weights` of a config. The embedded one knows the eleven classes of the quick start.
      budget: how long the call may take, about: "90s", "5m", "1h30m", or seconds. It decides how much is tried.
      workdir: the folder to work in; None is NAME-improved in the current folder, NAME being that of the photographs. A second
        call continues there; what fits into the budget is decided once and kept.
      template: the prompt, with {} where the class goes.
      classifier: as `classifier.weights` of a config.
      image_size: side of the images that the classifier sees, in pixels.
      seed: every other seed derives from it.

    Raises:
      UserError: the folder has too few classes or images; the generator or the classifier is not there; the budget cannot be
        read, or is too short for one run (the sentence says what would fit); or the workdir holds the work of other arguments.
    """
    began, seconds = time.monotonic(), seconds_of(budget)
    builtin, place = str(photos).startswith("builtin:"), expanded(photos)
    source = str(photos) if builtin else f"folder:{place}"
    if "://" in str(workdir):
        raise UserError(f"workdir {workdir} is a URL; give a folder of this machine.")
    name = str(photos).partition(":")[2] if builtin else place.resolve().name or PHOTOS_FOLDER
    folder = expanded(workdir) if workdir is not None else Path(f"{name}-improved")
    if not builtin and folder.resolve().is_relative_to(place.resolve()):
        raise UserError(f"workdir {folder} lies in the folder of the photographs; give a workdir outside of {place}.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    runtime.start()
    task = _load(source, seed)
    values = {"generator": generator, "template": template, "classifier": classifier, "image_size": image_size, "seed": seed}
    asked = {"photos": source, "budget": seconds, **{key: str(value) for key, value in values.items()}}
    design = _planned(folder, asked)
    settings = _settings(folder / PHOTOS_FOLDER / name, values)
    if design is None:
        rates = _measured(settings, task, began + seconds)
        left = seconds - (time.monotonic() - began)
        design = fitting_design(rates, len(task.class_names), left)
        if design is None:
            least = DESIGNS[-1].seconds(rates, len(task.class_names))
            raise UserError(
                f"budget={budget!r} is too short for one run: {DESIGNS[-1].words} take about {duration(least)} here, after "
                f"{duration(seconds - left)} to start; give budget={spoken(seconds - left + least)!r} or more."
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / PLAN_FILE, {"asked": asked, "design": dataclasses.asdict(design), "rates": dataclasses.asdict(rates)}
        )
    stage_heading(f"plan: {design.words}, in {folder}")
    export_task(source, folder / PHOTOS_FOLDER / name, seed=seed, link=True)
    return _carry_out(settings, design, folder, int(task.train.counts(len(task.class_names)).min()))


def _load(source: str, seed: int) -> Task:
    task = load_task(source, seed=seed)
    for name, images in zip(task.class_names, task.train.counts(len(task.class_names)), strict=True):
        if images < 2:
            raise UserError(
                f"class {name!r} of {source} has {images} image to train on; improve needs two, of which one helps to choose "
                "the recipe, and one more to test on: add images."
            )
    return task


def _planned(folder: Path, asked: Mapping[str, object]) -> Design | None:
    """Returns what an earlier call planned in the folder, None if there was none."""
    file = folder / PLAN_FILE
    if not file.is_file():
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UserError(f"workdir {folder} holds something else; choose a new or an empty folder.")
        return None
    try:
        plan = read_json_object(file)
        for key, value in asked.items():
            if plan["asked"].get(key) != value:
                raise UserError(
                    f"workdir {folder} holds the work of {key}={plan['asked'].get(key)!r}, not {value!r}; give the same "
                    "arguments to continue it, or another workdir."
                )
        design = plan["design"]
        return Design(**{**design, "arms": tuple(design["arms"]), "learning_rates": tuple(design["learning_rates"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not the plan that improve wrote there; delete the folder, or choose another.") from error


def _settings(photos: Path, values: Mapping[str, object]) -> Settings:
    """Returns the settings that all that is tried has in common."""
    import jax

    config = default_config()
    config.seed = values["seed"]
    config.task.source = f"folder:{photos}"
    config.prompts.template = values["template"]
    config.generator.weights = str(values["generator"])
    if values["generator"] == EMBEDDED_GENERATOR:
        config.generator.steps, config.generator.guidance_scale = 12, 3.0
    else:
        config.generator.steps, config.generator.batch_size = 25, 4
        config.generator.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config.classifier.weights = str(values["classifier"])
    config.classifier.image_size = values["image_size"]
    config.training.evaluations = 2
    config.study.baseline = BASELINES[0]
    for arm in ("vanilla_long", "mixed_50", "bridged"):
        stages = [
            {key: value for key, value in stage.items() if key not in ("length", "steps_of")} for stage in config.recipes[arm]
        ]
        alone = {"trainable": ("head",), "augment": False, "steps": 2 * HEAD_STEPS // len(stages)}
        config.recipes[f"{arm}{HEAD}"] = tuple({**stage, **alone} for stage in stages)
    return Settings.of(config)


def _measured(settings: Settings, task: Task, end: float) -> Rates:
    """Returns how fast this machine generates and trains; what it compiles for that, the work needs too.

    All layers are measured only if that leaves time for them: a step of them takes long, and so does its program.
    """
    from bridgejax.diffusion.from_config import load_generator
    from bridgejax.mesh import generation_mesh, make_mesh
    from bridgejax.training import RunInputs, train_recipe

    stage_heading("measure how fast this machine generates and trains")
    generator, options = settings.generator, run_options(settings, make_mesh(settings.mesh))
    pipeline = load_generator(settings, generation_mesh(settings.mesh))
    model = initial_classifier(settings, task.class_names)

    def sampling(steps: int) -> float:
        began, count = time.monotonic(), generator.batch_size
        prompts = [format_prompt(check_templates(settings.prompts.template)[0], task.class_names[0])] * count
        np.asarray(pipeline(prompts, seeds=range(count), steps=steps, guidance_scale=generator.guidance_scale))
        return time.monotonic() - began

    def training(arm: str, steps: int) -> tuple[float, float]:
        recipe = settings.recipe(arm)
        recipe = dataclasses.replace(recipe, stages=(dataclasses.replace(recipe.stages[0], steps=steps),))
        began = time.monotonic()
        result = train_recipe(recipe, RunInputs(model, task), options)
        return time.monotonic() - began, result.metrics["seconds"]["train"]

    sampling(2)  # compiles
    two = sampling(2)
    step = (sampling(4) - two) / 2 if two < _LONG_SAMPLING else two / 2
    batch = two + max(0.0, step) * (generator.steps - 2)
    photos, _ = training(BASELINES[0], 2)  # compiles, and makes the features of all photographs
    head_whole, head_steps = training(BASELINES[0], 2 * HEAD_STEPS)
    image = batch / generator.batch_size + photos / (len(task.train) + len(task.test))
    rates = Rates(image, photos, head_steps / (2 * HEAD_STEPS), head_whole - head_steps)
    richest = next(design for design in DESIGNS if design.heads_alone)
    if 2 * richest.seconds(rates, len(task.class_names)) > end - time.monotonic():
        return rates
    training(BASELINES[1], 2)  # compiles
    whole, steps = training(BASELINES[1], _TIMED_STEPS)
    return dataclasses.replace(rates, step=steps / _TIMED_STEPS, run=whole - steps)


def _carry_out(settings: Settings, design: Design, folder: Path, smallest: int) -> Improved:
    """Chooses a recipe, trains it and compares it; what is there already is not done again.

    Args:
      settings: what all that is tried has in common.
      design: what is tried.
      folder: the workdir.
      smallest: training images of the class that has the fewest.
    """
    replace, choice, study = dataclasses.replace, folder / CHOICE_FOLDER, folder / STUDY_FOLDER
    settings = replace(
        settings,
        arms=design.arms,
        synthetic=replace(settings.synthetic, per_class=design.per_class),
        training=replace(settings.training, base_steps=design.base_steps, learning_rate=design.learning_rates[0]),
        tuning=replace(settings.tuning, learning_rates=design.learning_rates, seeds=design.choice_seeds),
        study=replace(settings.study, seeds=design.seeds),
    )
    validation = max(1, min(_MOST_VALIDATION, smallest // 4))
    tuned = tune(replace(settings, task=replace(settings.task, validation_per_class=validation)), choice)
    reached = {arm: row["accuracy"] for arm, row in read_json_object(tuned)["chosen"].items()}
    controls = [arm for arm in design.arms if arm in BASELINES]
    # Of equal ones the first.
    control, synthetic = (
        max(arms, key=lambda arm: reached[arm]) for arms in (controls, [arm for arm in design.arms if arm not in controls])
    )
    arm = synthetic if reached[synthetic] > reached[control] else control
    settings = replace(
        settings,
        arms=(control, synthetic),
        training=replace(settings.training, tuned=str(tuned)),
        study=replace(settings.study, baseline=control),
    )
    _share_set(choice, study, settings)
    weights = train(settings, study, recipe=arm, seed=0) / CLASSIFIER
    run_study(settings, study)
    report, results = update_report(study), read_results(study)
    accuracies = {run.arm: run.test_mean_per_class_accuracy for run in results if run.seed == 0}
    return Improved(
        arm=arm,
        accuracy=accuracies[arm],
        baseline_accuracy=accuracies[control],
        validation_accuracy=reached,
        validation_images=validation * len(results[0].classes) * design.choice_seeds,
        finding=finding(summarise(results, control)),
        class_names=results[0].classes,
        image_size=settings.classifier.image_size,
        folder=weights,
        report=report,
    )


def _share_set(made_in: Path, wanted_in: Path, settings: Settings) -> None:
    """Gives a workdir the synthetic set of another: the same files, which are written once and never changed."""
    made, wanted = made_in / OWN_FOLDER, wanted_in / OWN_FOLDER
    if wanted.exists() or not made.is_dir():
        return
    with open_workdir(wanted_in, settings):
        aside = wanted_in / f"{TEMPORARY_PREFIX}{OWN_FOLDER}"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(made, aside, copy_function=_link)
        aside.rename(wanted)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copy2(source, target)
    return target
