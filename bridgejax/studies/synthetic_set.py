"""How near the synthetic set is to the real images, seen through the config's classifier: a report, by which nothing is chosen.

Asked for with `report.synthetic_set` ("train" or "test": what it is compared with) and `report.leep`. The first process of a
run measures once and leaves `synthetic_set.json` (the figures) and `synthetic_pairs.npz` (the closest pairs) in the workdir.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bridgejax.errors import UserError
from bridgejax.identity import derive_seed, digest, write_atomic, write_json
from bridgejax.progress import stage_heading

SET_FILE, PAIRS_FILE = "synthetic_set.json", "synthetic_pairs.npz"
VERSION = 1
K = 3  # of precision and recall
QUANTILE = 0.01  # of the real images' own nearest distances: the threshold of the copy check
PAIRS = 12
THUMBNAIL = 96
PIXELS = 16  # side of the images that are compared pixel by pixel
REPLICATES = 200


def is_due(study: Any, workdir: Path) -> bool:
    """Whether the config asks for figures that the workdir does not hold yet."""
    wanted = _wanted(study)
    return wanted is not None and _stored(workdir).get("identity") != wanted


def _wanted(study: Any) -> str | None:
    """Returns the identity of the figures that the config asks for, or None if it asks for none."""
    config = study.config
    if not study.sets or not (config.report.synthetic_set or config.report.leep):
        return None
    shots, task = _task(study)
    stages = {arm: dataclasses.asdict(recipe.stages[0]) for arm, recipe in _first_stages(study).items()}
    lowered = [] if config.training.dtype == "float32" else [config.training.dtype]
    return digest(
        [
            [VERSION, config.report.synthetic_set, config.report.leep, task.digest],
            [study.classifier_digest, config.classifier.image_size, config.classifier.crop],
            {name: one.identity(task, shots, 0, study.per_class) for name, one in study.sets.items()},
            [stages, config.training.batch_size, config.seed, *lowered] if config.report.leep else None,
        ]
    )


def _stored(workdir: Path) -> dict[str, Any]:
    try:
        value = json.loads((workdir / SET_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_synthetic_set(study: Any, workdir: Path) -> None:
    """Measures what the config asks for, if it is not there yet, and keeps it in the workdir."""
    if not is_due(study, workdir):
        return
    from bridgejax.data import synthetic_examples
    from bridgejax.models import load_classifier

    config = study.config
    stage_heading("compare the synthetic set with the real images")
    shots, task = _task(study)
    sets = {
        name: synthetic_examples(workdir / one.folder(shots, 0), class_names=study.class_names, per_class=study.per_class)
        for name, one in study.sets.items()
    }
    found: dict[str, Any] = {"identity": _wanted(study), "classifier": config.classifier.weights, "shots": shots}
    if config.report.synthetic_set:
        real = task.train if config.report.synthetic_set == "train" else task.test
        model = load_classifier(config.classifier.weights, num_classes=len(study.class_names))
        figures, pairs = compare(model, real, sets, config, study.class_names)
        found |= {"against": config.report.synthetic_set, "real_images": len(real), "sets": figures}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{f"pairs{number}": one for number, one in enumerate(pairs)})  # type: ignore[arg-type]
        write_atomic(workdir / PAIRS_FILE, buffer.getvalue())
    if config.report.leep:
        found["leep"] = _leep_rows(study, task, sets)
    write_json(workdir / SET_FILE, found)


def _task(study: Any) -> tuple[int | None, Any]:
    """Returns the study's largest shot count and its task with the first seed: all that any run of that seed trains on."""
    counts = {run.shots for run in study.runs}
    shots = None if None in counts else max(counts)
    return shots, study.task(shots, 0)


def compare(
    model: Any, real: Any, sets: Mapping[str, Any], config: Any, class_names: tuple[str, ...]
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Compares sets of synthetic images with the real ones.

    Args:
      model: the backbone; see `image_features`.
      real: `bridgejax.data.Examples`, at least 2 images.
      sets: name → Examples, at least 2 images each. From the second on, each is also compared with the first: what its Fréchet
        distance to the real images is less that of the first, with the same draws of real images.
      config: its `classifier` and `training.eval_batch_size` say how images are shown.
      class_names: by label.

    Returns:
      Of each set the figures as plain data, and the closest pairs, uint8 [pairs, 2 (synthetic, real), side, side, 3].
    """
    from bridgejax.evaluation import frechet_interval

    smallest = min(len(real), *(len(one) for one in sets.values()))
    if smallest < 2:
        raise UserError(
            f"report.synthetic_set compares sets of at least 2 images, but there is one of {smallest}; raise "
            "synthetic.per_class or task.shots, or leave it out."
        )
    seen = _look(model, real, config)
    figures, pairs, first = [], [], None
    for name, synthetic in sets.items():
        looks = _look(model, synthetic, config)
        figure, near = _figures(seen, looks, real, synthetic, class_names)
        if first is None:
            first = looks[0]
        else:
            less = frechet_interval(looks[0], seen[0], minus=first, replicates=REPLICATES)
            figure["frechet_less_first"] = dataclasses.asdict(less)
        figures.append({"name": name, **figure})
        closest = near.closest(PAIRS)
        pictures = [_thumbnails(synthetic, closest, config), _thumbnails(real, near.index[closest], config)]
        pairs.append(np.stack(pictures, axis=1))
    return figures, pairs


def _figures(
    seen: tuple[np.ndarray, np.ndarray],
    looks: tuple[np.ndarray, np.ndarray],
    real: Any,
    synthetic: Any,
    class_names: tuple[str, ...],
) -> tuple[dict[str, Any], Any]:
    """Returns the figures of one set, and its nearest real images."""
    from bridgejax.evaluation import frechet_interval, kernel_distance, nearest_real, precision_recall

    (x, x_pixels), (y, y_pixels) = seen, looks
    near = nearest_real(y, x, quantile=QUANTILE)
    near_pixels = nearest_real(y_pixels, x_pixels, metric="pixels", quantile=QUANTILE)
    distances = np.sqrt(((y_pixels - x_pixels[near.index]) ** 2).mean(axis=1))
    rows = [
        {
            "synthetic": synthetic.ids[i],
            "class": class_names[int(synthetic.labels[i])],
            "real": real.ids[near.index[i]],
            "real_class": class_names[int(real.labels[near.index[i]])],
            "cosine_distance": float(near.distance[i]),
            "pixel_distance": float(distances[i]),
            "suspected": bool(near.suspected[i]),
        }
        for i in near.closest(PAIRS)
    ]
    share = precision_recall(x, y, K) if min(len(x), len(y)) > K else None
    figures = {
        "synthetic_images": len(y),
        "feature_width": x.shape[1],
        "frechet": dataclasses.asdict(frechet_interval(y, x, replicates=REPLICATES)),
        "kernel": dataclasses.asdict(kernel_distance(y, x)),
        "precision": share.precision if share else None,
        "recall": share.recall if share else None,
        "k": K,
        "copies": {
            "quantile": QUANTILE,
            "threshold": near.threshold,
            "suspected": int(near.suspected.sum()),
            "pixel_threshold": near_pixels.threshold,
            "pixel_suspected": int(near_pixels.suspected.sum()),
            "both_suspected": int((near.suspected & near_pixels.suspected).sum()),
            "closest": rows,
        },
    }
    return figures, near


def _batches(examples: Any, config: Any, image_size: int) -> Any:
    from bridgejax.data import eval_batches

    crop = {} if config.classifier.crop is None else {"crop": config.classifier.crop}
    return eval_batches(examples, batch_size=config.training.eval_batch_size, image_size=image_size, **crop)


def _look(model: Any, examples: Any, config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features [n, d] and the shrunk pixels [n, PIXELS² · 3] in [0, 1], as evaluation crops the images."""
    from PIL import Image

    from bridgejax.evaluation import image_features

    shrunk: list[np.ndarray] = []

    def shown() -> Any:
        for batch in _batches(examples, config, config.classifier.image_size):
            for image in batch["image"][batch["mask"] > 0]:
                small = Image.fromarray(image).resize((PIXELS, PIXELS), Image.Resampling.BOX)
                shrunk.append(np.asarray(small, np.float32).reshape(-1) / 255.0)
            yield batch

    return image_features(model, shown()), np.stack(shrunk)


def _thumbnails(examples: Any, indices: np.ndarray, config: Any) -> np.ndarray:
    batches = _batches(examples.select(indices), config, min(THUMBNAIL, config.classifier.image_size))
    return np.concatenate([batch["image"][batch["mask"] > 0] for batch in batches])


def _first_stages(study: Any) -> dict[str, Any]:
    """The arms that go on after a stage on synthetic images, as recipes of that stage alone."""
    return {
        arm: dataclasses.replace(recipe, stages=recipe.stages[:1])
        for arm, recipe in study.recipes.items()
        if len(recipe.stages) > 1 and recipe.stages[0].data == "synthetic" and recipe.stages[1].restart_schedule
    }


def _leep_rows(study: Any, task: Any, sets: Mapping[str, Any]) -> list[dict[str, Any]]:
    """LEEP of the pretrained network and of each network after its synthetic stage, on the real training images.

    The stage is trained once more, from the first seed, as the arm's run trained it.
    """
    from bridgejax.models import load_classifier
    from bridgejax.training.loop import train_recipe

    config = study.config
    networks: list[tuple[str, Any, bool]] = [("pretrained", *_pretrained(config, len(study.class_names)))]
    groups: dict[Any, list[str]] = {}
    recipes = _first_stages(study)
    for arm, recipe in recipes.items():
        groups.setdefault(recipe.stages, []).append(arm)
    seed = derive_seed(config.seed, "train", 0)
    for arms in groups.values():
        result = train_recipe(
            recipes[arms[0]],
            load_classifier(config.classifier.weights, num_classes=len(task.class_names), seed=seed),
            task=task,
            synthetic=sets,
            batch_size=config.training.batch_size,
            eval_batch_size=config.training.eval_batch_size,
            image_size=config.classifier.image_size,
            crop=config.classifier.crop,
            seed=seed,
            evaluations=0,
            dtype=config.training.dtype,
            remat=config.training.remat,
        )
        networks.append((f"after the first stage of {', '.join(arms)}", result.state.model, True))
    return [{"network": name, **_leep(model, head, task.train, config)} for name, model, head in networks]


def _pretrained(config: Any, classes: int) -> tuple[Any, bool]:
    """Returns the pretrained network and whether it has a head of its own."""
    from bridgejax.models import load_classifier
    from bridgejax.models.initial import linear_heads

    try:
        model = load_classifier(config.classifier.weights)
    except UserError:  # weights without a head load with a new one alone
        return load_classifier(config.classifier.weights, num_classes=classes), False
    if linear_heads(model):
        return model, True
    return load_classifier(config.classifier.weights, num_classes=classes), False


def _leep(model: Any, head: bool, examples: Any, config: Any) -> dict[str, Any]:
    from bridgejax.evaluation import image_features, leep, leep_matched
    from bridgejax.training import make_eval_step

    step = make_eval_step()
    batches = list(_batches(examples, config, config.classifier.image_size))
    logits = np.concatenate([np.asarray(step(model, {"image": b["image"]})["logits"])[b["mask"] > 0] for b in batches])
    shifted = np.exp(np.float64(logits) - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    return {
        "images": len(examples),
        "outputs": logits.shape[1] if head else None,
        "leep": leep(probabilities, examples.labels) if head else None,
        "leep_matched": leep_matched(image_features(model, batches), examples.labels),
    }


def read_synthetic_set(workdir: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[np.ndarray]]:
    """Returns the figures of a workdir (None if there are none or the config does not ask for them), and each set's pairs.

    Raises:
      UserError: a file is damaged.
    """
    asked = config.get("report") or {}
    file, pairs_file = workdir / SET_FILE, workdir / PAIRS_FILE
    if not (asked.get("synthetic_set") or asked.get("leep")) or not file.is_file():
        return None, []
    found = _stored(workdir)
    if not found:
        raise UserError(f"{file} is not readable JSON; delete it and run the study again.")
    pairs = []
    try:
        if pairs_file.is_file():
            with np.load(pairs_file, allow_pickle=False) as stored:
                pairs = [stored[f"pairs{number}"] for number in range(len(found.get("sets") or ()))]
        if any(one.dtype != np.uint8 or one.ndim != 5 for one in pairs):
            raise ValueError("not pictures")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{pairs_file} is damaged; delete it and {SET_FILE} and run the study again.") from error
    return {key: value for key, value in found.items() if key != "identity"}, pairs
