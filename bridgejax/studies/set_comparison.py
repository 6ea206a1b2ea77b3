"""How near the synthetic sets are to the real images, seen through the config's classifier: figures by which nothing is chosen.

Asked for with `report.synthetic_set` ("train" or "test": what they are compared with) and `report.leep`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from flax import nnx
from PIL import Image

from bridgejax.config import Settings
from bridgejax.data import Batch, Examples, Task, eval_batches
from bridgejax.errors import UserError
from bridgejax.evaluation import (
    frechet_interval,
    image_features,
    kernel_distance,
    leep,
    leep_matched,
    nearest_real,
    precision_recall,
)
from bridgejax.evaluation.copies import NearestReal
from bridgejax.identity import derive_seed, digest
from bridgejax.progress import stage_heading
from bridgejax.recipes import Recipe
from bridgejax.studies.comparison_results import (
    ClosePair,
    CopyCheck,
    LeepScore,
    Neighbours,
    SetComparison,
    SetFigures,
    SetPictures,
    Variety,
    comparison_identity,
    write_comparison_files,
)
from bridgejax.studies.run_images import RunImages
from bridgejax.studies.study_plan import StudyPlan, StudyRun, initial_classifier, run_options

VERSION = 2
K = 3  # of precision and recall
QUANTILE = 0.01  # of the real images' own nearest distances: the threshold of the copy check
PAIRS = 12
NEIGHBOURS, NEIGHBOUR_CLASSES = 3, 12  # shown of a class; classes
THUMBNAIL = 96
PIXELS = 16  # side of the images that are compared pixel by pixel
REPLICATES = 200


def comparison_is_due(plan: StudyPlan, workdir: Path) -> bool:
    """Whether the config asks for figures that the workdir does not hold yet."""
    wanted = _identity(plan)
    return wanted is not None and comparison_identity(workdir) != wanted


def _identity(plan: StudyPlan) -> str | None:
    """Returns the digest of what decides the figures that the config asks for, or None if it asks for none."""
    settings = plan.settings
    if not any(each.is_of_task for each in plan.sets.values()) or not (settings.report.synthetic_set or settings.report.leep):
        return None
    shots, task = _largest_split(plan)
    first = [(arm, recipe.stages[0]) for arm, recipe in _first_stages(plan).items()]
    stages = {arm: stage.to_dict() for arm, stage in first}
    filters = [
        plan.filter(stage.synthetic_set).identity(stage.synthetic_filter) for _, stage in first if stage.synthetic_filter
    ]
    lowered = [] if settings.training.dtype == "float32" else [settings.training.dtype]
    return digest(
        [
            [VERSION, settings.report.synthetic_set, settings.report.leep, task.digest],
            [plan.classifier_digest, settings.classifier.image_size, settings.classifier.crop],
            {name: study_set.identity(task, shots, 0, plan.per_class) for name, study_set in plan.sets.items()},
            [stages, settings.training.batch_size, settings.seed, *lowered, *filters] if settings.report.leep else None,
        ]
    )


def write_comparison(plan: StudyPlan, workdir: Path) -> None:
    """Computes what the config asks for, if it is not there yet, and keeps it in the workdir."""
    wanted = _identity(plan)
    if wanted is None or comparison_identity(workdir) == wanted:
        return
    from bridgejax.data.synthetic import synthetic_captions, synthetic_examples

    settings = plan.settings
    stage_heading("compare the synthetic set with the real images")
    shots, task = _largest_split(plan)
    sets = {
        name: synthetic_examples(workdir / each.folder(shots, 0), class_names=plan.class_names, per_class=plan.per_class)
        for name, each in plan.sets.items()
        if each.is_of_task
    }
    comparison = SetComparison(settings.classifier.weights, shots)
    pictures: list[SetPictures] = []
    if settings.report.synthetic_set:
        real = task.train if settings.report.synthetic_set == "train" else task.test
        model = initial_classifier(settings, plan.class_names)
        figures, pictures = compare(model, real, sets, settings, plan.class_names)
        for number, each in enumerate(figures):
            known = synthetic_captions(workdir / plan.sets[each.name].folder(shots, 0))
            captions = {name: known[name] for name in each.shown if name in known}
            figures[number] = dataclasses.replace(each, captions=captions)
        comparison = dataclasses.replace(
            comparison, against=settings.report.synthetic_set, real_images=len(real), sets=tuple(figures)
        )
    if settings.report.leep:
        comparison = dataclasses.replace(comparison, leep=tuple(_leep_scores(plan, workdir, shots)))
    write_comparison_files(workdir, wanted, comparison, pictures)


def _largest_split(plan: StudyPlan) -> tuple[int | None, Task]:
    """Returns the study's largest shot count and its task with the first seed: all that any run of that seed trains on."""
    counts = [run.shots for run in plan.runs]
    shots = None if None in counts else max(count for count in counts if count is not None)
    return shots, plan.task(shots, 0)


def compare(
    model: nnx.Module, real: Examples, sets: Mapping[str, Examples], settings: Settings, class_names: tuple[str, ...]
) -> tuple[list[SetFigures], list[SetPictures]]:
    """Compares sets of synthetic images with the real ones; returns the figures of each, and what is shown of it.

    Args:
      model: the backbone; see `image_features`.
      real: at least 2 images.
      sets: name → at least 2 images each. From the second on, each is also compared with the first: what its Fréchet
        distance to the real images is less that of the first, with the same draws of real images.
      settings: its `classifier` and `training.eval_batch_size` say how images are shown.
      class_names: by label.

    Raises:
      UserError: a set has fewer than 2 images.
    """
    smallest = min(len(real), *(len(examples) for examples in sets.values()))
    if smallest < 2:
        raise UserError(
            f"report.synthetic_set compares sets of at least 2 images, but there is one of {smallest}; raise "
            "synthetic.per_class or task.shots, or leave it out."
        )
    real_view = _View.of(model, real, settings)
    figures: list[SetFigures] = []
    pictures: list[SetPictures] = []
    first: _View | None = None
    for name, synthetic in sets.items():
        view = _View.of(model, synthetic, settings)
        figure, near = _figures(name, view, real_view, class_names)
        if first is None:
            first = view
        else:
            less = frechet_interval(view.features, real_view.features, minus=first.features, replicates=REPLICATES)
            figure = dataclasses.replace(figure, frechet_less_first=less)
        variety, shown = _variety(view, real_view, class_names)
        figures.append(dataclasses.replace(figure, variety=variety))
        closest = near.closest(PAIRS)
        pairs = [_thumbnails(synthetic, closest, settings), _thumbnails(real, near.index[closest], settings)]
        neighbours = _thumbnails(synthetic, shown.reshape(-1), settings)
        pictures.append(SetPictures(np.stack(pairs, axis=1), neighbours.reshape(*shown.shape, *neighbours.shape[1:])))
    return figures, pictures


@dataclasses.dataclass(frozen=True)
class _View:
    """Images as they are compared: features float [n, d], and pixels shrunk to float32 [n, PIXELS² · 3] in [0, 1]."""

    examples: Examples
    features: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(cls, model: nnx.Module, examples: Examples, settings: Settings) -> _View:
        """Returns images as evaluation crops them."""
        shrunk: list[np.ndarray] = []

        def shown() -> Iterator[Batch]:
            for batch in _batches(examples, settings, settings.classifier.image_size):
                for image in batch["image"][batch["mask"] > 0]:
                    small = Image.fromarray(image).resize((PIXELS, PIXELS), Image.Resampling.BOX)
                    shrunk.append(np.asarray(small, np.float32).reshape(-1) / 255.0)
                yield batch

        return cls(examples, image_features(model, shown()), np.stack(shrunk))


def _figures(name: str, synthetic: _View, real: _View, class_names: tuple[str, ...]) -> tuple[SetFigures, NearestReal]:
    """Returns the figures of one set, and its nearest real images."""
    x, y = real.features, synthetic.features
    near = nearest_real(y, x, quantile=QUANTILE)
    near_pixels = nearest_real(synthetic.pixels, real.pixels, metric="pixels", quantile=QUANTILE)
    distances = np.sqrt(((synthetic.pixels - real.pixels[near.index]) ** 2).mean(axis=1))
    closest = tuple(
        ClosePair(
            synthetic=synthetic.examples.ids[i],
            synthetic_class=class_names[int(synthetic.examples.labels[i])],
            real=real.examples.ids[near.index[i]],
            real_class=class_names[int(real.examples.labels[near.index[i]])],
            cosine_distance=float(near.distance[i]),
            pixel_distance=float(distances[i]),
            suspected=bool(near.suspected[i]),
        )
        for i in near.closest(PAIRS)
    )
    share = precision_recall(x, y, K) if min(len(x), len(y)) > K else None
    figures = SetFigures(
        name=name,
        synthetic_images=len(y),
        feature_width=x.shape[1],
        frechet=frechet_interval(y, x, replicates=REPLICATES),
        kernel=kernel_distance(y, x),
        precision=share.precision if share else None,
        recall=share.recall if share else None,
        k=K,
        copies=CopyCheck(
            quantile=QUANTILE,
            threshold=near.threshold,
            suspected=int(near.suspected.sum()),
            pixel_threshold=near_pixels.threshold,
            pixel_suspected=int(near_pixels.suspected.sum()),
            both_suspected=int((near.suspected & near_pixels.suspected).sum()),
            closest=closest,
        ),
    )
    return figures, near


def _variety(synthetic: _View, real: _View, class_names: tuple[str, ...]) -> tuple[Variety | None, np.ndarray]:
    """Returns how alike the images of each class are, and positions int [classes, 1 + k] of images with their neighbours."""
    near, near_real, shown = [], [], []
    rows: list[Neighbours] = []
    for label, name in enumerate(class_names):
        members, distances = _distances(synthetic, label)
        near_real.append(_distances(real, label)[1].min(axis=1, initial=np.inf))
        if len(members) < 2:
            continue
        near.append(distances.min(axis=1))
        if len(members) > NEIGHBOURS and len(rows) < NEIGHBOUR_CLASSES:
            order = np.argsort(distances[0], kind="stable")[:NEIGHBOURS]
            chosen = members[[0, *order]]
            shown.append(chosen)
            ids = tuple(synthetic.examples.ids[i] for i in chosen)
            rows.append(Neighbours(name, ids, tuple(float(value) for value in distances[0, order])))
    positions = np.asarray(shown, np.int64).reshape(-1, 1 + NEIGHBOURS)
    if not near:
        return None, positions
    known = np.concatenate(near_real)
    known = known[np.isfinite(known)]
    middle = float(np.median(known)) if len(known) else None
    return Variety(float(np.median(np.concatenate(near))), middle, tuple(rows)), positions


def _distances(view: _View, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of a class, positions [n], and their cosine distances [n, n], infinite to themselves."""
    members = np.flatnonzero(view.examples.labels == label)
    features = view.features[members].astype(np.float64)
    units = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    distances = 1.0 - units @ units.T
    np.fill_diagonal(distances, np.inf)
    return members, distances


def _batches(examples: Examples, settings: Settings, image_size: int) -> Iterator[Batch]:
    crop = settings.classifier.crop
    sized = functools.partial(eval_batches, batch_size=settings.training.eval_batch_size, image_size=image_size)
    return sized(examples) if crop is None else sized(examples, crop=crop)


def _thumbnails(examples: Examples, indices: np.ndarray, settings: Settings) -> np.ndarray:
    side = min(THUMBNAIL, settings.classifier.image_size)
    if not len(indices):
        return np.zeros((0, side, side, 3), np.uint8)
    batches = _batches(examples.select(indices), settings, side)
    return np.concatenate([batch["image"][batch["mask"] > 0] for batch in batches])


def _first_stages(plan: StudyPlan) -> dict[str, Recipe]:
    """The arms that go on after a stage on synthetic images, as recipes of that stage alone."""
    return {
        arm: dataclasses.replace(recipe, stages=recipe.stages[:1])
        for arm, recipe in plan.recipes.items()
        if len(recipe.stages) > 1 and recipe.stages[0].data == "synthetic" and recipe.stages[1].restart_schedule
        if not recipe.stages[0].contrasts and plan.sets[recipe.stages[0].synthetic_set].is_of_task
    }


def _leep_scores(plan: StudyPlan, workdir: Path, shots: int | None) -> list[LeepScore]:
    """LEEP of the pretrained network and of each network after its synthetic stage, on the real training images.

    The stage is trained once more, from the first seed, as the arm's run trained it.
    """
    from bridgejax.training import RunInputs, train_recipe

    settings, task, images = plan.settings, plan.task(shots, 0), RunImages(plan, workdir)
    scores = [_leep_score("pretrained", *_pretrained(settings, len(plan.class_names)), task.train, settings)]
    recipes = _first_stages(plan)
    groups: dict[object, list[str]] = {}
    for arm, recipe in recipes.items():
        groups.setdefault(recipe.stages, []).append(arm)
    seed = derive_seed(settings.seed, "train", 0)
    for arms in groups.values():
        recipe = recipes[arms[0]]
        model = initial_classifier(settings, task.class_names, seed)
        synthetic = images.of(StudyRun(arms[0], 0, shots, plan.per_class))
        inputs = RunInputs(model, task, seed, synthetic, teachers=plan.teachers(recipe))
        result = train_recipe(recipe, inputs, dataclasses.replace(run_options(settings, None), evaluations=0))
        network = f"after the first stage of {', '.join(arms)}"
        scores.append(_leep_score(network, result.state.model, True, task.train, settings))
    return scores


def _pretrained(settings: Settings, classes: int) -> tuple[nnx.Module, bool]:
    """Returns the pretrained network and whether it has a head of its own."""
    from bridgejax.models import load_classifier
    from bridgejax.models.reset import linear_heads

    try:
        model = load_classifier(settings.classifier.weights)
    except UserError:  # weights without a head load with a new one alone
        return load_classifier(settings.classifier.weights, num_classes=classes), False
    if model.num_classes and linear_heads(model):
        return model, True
    return load_classifier(settings.classifier.weights, num_classes=classes), False


def _leep_score(network: str, model: nnx.Module, head: bool, examples: Examples, settings: Settings) -> LeepScore:
    from bridgejax.training import make_eval_step

    step = make_eval_step()
    batches = list(_batches(examples, settings, settings.classifier.image_size))
    logits = np.concatenate([np.asarray(step(model, {"image": b["image"]})["logits"])[b["mask"] > 0] for b in batches])
    shifted = np.exp(np.float64(logits) - logits.max(axis=1, keepdims=True))
    return LeepScore(
        network=network,
        images=len(examples),
        outputs=logits.shape[1] if head else None,
        leep=leep(shifted / shifted.sum(axis=1, keepdims=True), examples.labels) if head else None,
        leep_matched=leep_matched(image_features(model, batches), examples.labels),
    )
