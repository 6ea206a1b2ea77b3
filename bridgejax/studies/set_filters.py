"""Which images of a study's synthetic sets are kept: rules on numbers that are computed once and lie beside the images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from bridgejax.config import Settings
from bridgejax.data import Examples, Task
from bridgejax.errors import UserError
from bridgejax.identity import derive_seed
from bridgejax.recipes import FilterRule, filter_rules

if TYPE_CHECKING:
    from bridgejax.models.classifier import Classifier
    from bridgejax.synthesis.columns import Values
    from bridgejax.synthesis.scores import Scorer

VERSION = 1
# What the rules go by: the name of the column, in words.
PROBABILITY, MARGIN, COSINE = "probability of its class", "margin to real images", "cosine to an earlier image"
_OWN_COLUMNS = {"real": MARGIN, "real_top": MARGIN, "distinct": COSINE}


@dataclasses.dataclass(frozen=True)
class Selection:
    """What rules keep of a synthetic set."""

    kept: npt.NDArray[np.bool_]  # bool [n], in set order
    labels: npt.NDArray[np.int32]  # int32 [n]
    values: Values  # float32 [n], what the first rule goes by
    meaning: str  # what `values` are, in words
    fault: str | None  # which class has no image left, and why, in one sentence; None if all have

    @property
    def best_first(self) -> npt.NDArray[np.int64]:
        """The positions of the images, int64 [n], best by the first rule first."""
        return np.argsort(self.values if self.meaning == COSINE else -self.values, kind="stable")

    def checked(self) -> npt.NDArray[np.int64]:
        """Returns the positions of the images that are kept.

        Raises:
          UserError: a class has none.
        """
        if self.fault is not None:
            raise UserError(self.fault)
        return np.flatnonzero(self.kept)


@dataclasses.dataclass(frozen=True)
class SetFilter:
    """What judges the synthetic images of a study.

    Scores are those of `filter.classifier`; features, cosines between them and margins are those of the run's own pretrained
    classifier, of images as evaluation shows them.
    """

    settings: Settings  # the config
    class_names: tuple[str, ...]  # of the set
    backbone: str  # the digest of the pretrained classifier
    mesh: Mesh  # devices of this process
    is_of_task: bool = True  # whether the set's classes are the task's

    def check(self, rules: Sequence[str]) -> None:
        """Checks that what rules go by can be had, as far as that goes without images.

        Raises:
          UserError: the classifier that scores cannot be read, or has other classes; or there are no real images of the set's.
        """
        parsed = filter_rules("filter", rules)
        if any(rule.needs_scores for rule in parsed):
            self._scorer()
        if not self.is_of_task and (compared := [rule.text for rule in parsed if rule.needs_shots]):
            raise UserError(
                f"the filter rule {compared[0]!r} compares with real images, but the synthetic set has other classes than "
                f"the task ({', '.join(self.class_names[:3])}, …); leave the rule out."
            )

    def identity(self, rules: Sequence[str]) -> list[object]:
        """Returns what decides which images of a set are kept, besides the images and the real ones."""
        parsed = filter_rules("filter", rules)
        parts: list[object] = [VERSION, [rule.text for rule in parsed], self._seed]
        if any(rule.needs_scores for rule in parsed):
            parts += [self._scorer().made_by, self.settings.filter.image_size]
        return [*parts, self._view] if any(not rule.needs_scores for rule in parsed) else parts

    def select(self, directory: Path, rules: Sequence[str], task: Task, per_class: int) -> Selection:
        """Applies rules one after another to the first `per_class` images of each class of a finished set.

        Args:
          directory: the set's folder.
          rules: as of a stage's `synthetic_filter`; at least one.
          task: with the real images that the rule `real` compares with.
          per_class: how many images of each class there are to choose from.

        Raises:
          UserError: the images cannot be judged; there are no real ones, for instance.
        """
        labels = np.tile(np.arange(len(self.class_names), dtype=np.int32), per_class)  # sets are in the order (index, class)
        kept, fault, shown = np.ones(len(labels), bool), None, None
        for rule in filter_rules("filter", rules):
            meaning = _OWN_COLUMNS.get(rule.name, PROBABILITY)
            values = self._column(meaning, directory, task)[: len(labels)]
            shown = shown or (values, meaning)
            chosen, left = np.flatnonzero(kept), np.zeros_like(kept)
            left[chosen[self._passes(rule, values[chosen], labels[chosen])]] = True
            fault = fault or self._fault(rule, kept, left, labels, values, meaning)
            kept = left
        if shown is None:
            raise UserError("there is no filter rule; give at least one, for instance 'above_chance'.")
        return Selection(kept, labels, *shown, fault)

    def _passes(self, rule: FilterRule, values: Values, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        from bridgejax.synthesis import select

        if rule.name == "real":
            return values >= np.float32(rule.number or 0.0)
        if rule.name == "distinct":
            return values < np.float32(rule.number or 1.0)
        counts = None if rule.number is None or rule.name == "percentile" else int(rule.number)
        percentile = rule.number if rule.name == "percentile" else None
        classes = len(self.class_names)
        return select(
            values, labels, rule.name.removeprefix("real_"), counts, percentile=percentile, classes=classes, seed=self._seed
        )

    def _fault(
        self,
        rule: FilterRule,
        before: npt.NDArray[np.bool_],
        after: npt.NDArray[np.bool_],
        labels: npt.NDArray[np.int32],
        values: Values,
        meaning: str,
    ) -> str | None:
        for label, name in enumerate(self.class_names):
            mine = before & (labels == label)
            if not (after & mine).any() and mine.any():
                needed = f"more than {1 / len(self.class_names):.4g} (chance)"
                advice = "use 'quota:N', which fills up with the best, or another filter.classifier"
                if rule.name == "real":
                    needed, advice = (
                        f"at least {rule.number:g}",
                        "use 'real_top:N', which leaves N of each class, or a lower margin",
                    )
                return (
                    f"the filter rule {rule.text!r} leaves no image of class {name!r}: the best {meaning} of its "
                    f"{mine.sum():,} images is {values[mine].max():.4g}, but it takes {needed}; {advice}."
                )
        return None

    # -- what the rules go by

    @property
    def _seed(self) -> int:
        own = self.settings.filter.seed
        return derive_seed(self.settings.seed, "filter") if own is None else own

    @property
    def _view(self) -> dict[str, object]:
        """What decides features."""
        classifier = self.settings.classifier
        return {"version": VERSION, "classifier": self.backbone, "image_size": classifier.image_size, "crop": classifier.crop}

    def _scorer(self) -> Scorer:
        from bridgejax.synthesis.scores import load_scorer

        if self.settings.filter.classifier is None:
            raise UserError("filter.classifier is None, but a filter rule goes by scores; set it.")
        return load_scorer(self.settings.filter.classifier, self.class_names, self._templates)

    @property
    def _templates(self) -> tuple[str, ...] | None:
        template = self.settings.filter.template
        return (template,) if isinstance(template, str) else template

    def _column(self, meaning: str, directory: Path, task: Task) -> Values:
        from bridgejax.synthesis import nearest_earlier, real_margins, score_set
        from bridgejax.synthesis.columns import kept_column

        judge = self.settings.filter
        if meaning == PROBABILITY:
            return score_set(
                directory,
                judge.classifier or "",
                templates=self._templates,
                batch_size=judge.batch_size,
                image_size=judge.image_size,
                mesh=self.mesh,
            )
        if meaning == COSINE:

            def cosines(examples: Examples) -> Values:
                return nearest_earlier(self._features(examples), examples.labels)

            return kept_column(directory, "earlier", self._view, cosines, alone=False)
        if not len(task.train):
            raise UserError(
                f"the filter rules 'real' and 'real_top' compare with real training images, but task {task.name!r} has none; "
                "give it shots, or leave the rule out."
            )

        def margins(examples: Examples) -> Values:
            real = self._features(task.train)
            return real_margins(self._features(examples), examples.labels, real, task.train.labels, self.class_names)

        return kept_column(directory, "real", {**self._view, "real": task.digest}, margins)

    def _features(self, examples: Examples) -> npt.NDArray[np.float32]:
        from bridgejax.evaluation import image_features
        from bridgejax.synthesis.scores import shown

        classifier, size = self.settings.classifier, self.settings.training.eval_batch_size
        model = _load_backbone(classifier.weights, len(self.class_names))
        batches = shown(model, batch_size=size, image_size=classifier.image_size, crop=classifier.crop, mesh=self.mesh)
        return image_features(model, batches(examples), self.mesh)


@functools.lru_cache(maxsize=1)
def _load_backbone(weights: str, classes: int) -> Classifier:
    from bridgejax.models import load_classifier

    return load_classifier(weights, num_classes=classes)
