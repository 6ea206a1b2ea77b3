"""What is no number, no table or out of range gets one sentence; what is exact enough is taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridgejax.errors import UserError
from bridgejax.evaluation import (
    accuracy,
    classification_metrics,
    confusion_matrix,
    frechet_distance,
    kernel_distance,
    leep,
    leep_matched,
    mean_per_class_accuracy,
    per_class_accuracy,
    per_class_gain,
    precision_recall,
    reliability,
)

CLOUD = np.random.default_rng(0).normal(size=(8, 3))
ROWS = np.full((2, 2), 0.5)
RAGGED = [[0.5, 0.5], [1.0]]
TEXT = [["0.5", "0.5"], ["a", "b"]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: leep(RAGGED, [0, 1]), "probabilities cannot be read as real numbers .rows differ in length"),
        (lambda: leep(TEXT, [0, 1]), "probabilities cannot be read as real numbers .the type is <U3"),
        (lambda: leep(ROWS, [0, None]), "labels cannot be read as real numbers .the type is object"),
        (lambda: leep(ROWS * np.nan, [0, 1]), "probabilities: there is NaN"),
        (lambda: leep_matched(RAGGED, [0, 1]), "features cannot be read"),
        (lambda: leep_matched(CLOUD, ["a"] * 8), "labels cannot be read"),
        (lambda: leep_matched(CLOUD, [0] * 8, "2"), "pseudo_classes is '2'; give a whole number of at least 1"),
        (lambda: frechet_distance(RAGGED, CLOUD), "a cannot be read as real numbers"),
        (lambda: frechet_distance(CLOUD, TEXT), "b cannot be read as real numbers"),
        (lambda: frechet_distance(CLOUD + 1j, CLOUD), "a cannot be read as real numbers .the type is complex128"),
        (lambda: frechet_distance(1e200 * CLOUD, CLOUD), r"a and b reach .*e\+200"),
        (lambda: kernel_distance(1e13 * CLOUD, CLOUD), r"a and b reach .*e\+13.* divide both"),
        (lambda: precision_recall(1e25 * CLOUD, CLOUD), r"real and synthetic reach .*e\+25"),
        *((lambda k=k: precision_recall(CLOUD, CLOUD, k), f"k is {k!r}; give a whole number") for k in (2.5, "3", None)),
        *((lambda n=n: reliability(ROWS, [0, 1], n), f"bins is {n!r}; give a whole number") for n in (1.5, None, 0)),
        (lambda: reliability(ROWS, [0, 2]), r"labels run from 0 to 2; give whole numbers in \[0, 2\), as there are 2 classes"),
        (lambda: classification_metrics([0.5, 1.0], ROWS), "labels run from 0.5 to 1.0; give whole numbers"),
        (lambda: classification_metrics(None, ROWS), "labels cannot be read"),
        (lambda: classification_metrics([0, 1], None), "logits cannot be read"),
        *((lambda x=x: classification_metrics([0], [[0.0, x]]), "logits have no softmax") for x in (np.nan, np.inf)),
        (lambda: confusion_matrix([0, 1], [0.9, 1.9], 2), "predictions run from 0.9 to 1.9; give whole numbers"),
        (lambda: confusion_matrix([0, np.nan], [0, 1], 2), "labels run from nan to nan; give whole numbers"),
        (lambda: confusion_matrix([0, 1], [0, 1], 2.5), "classes is 2.5"),
        (lambda: accuracy([1, 2]), r"confusion \[2\] is not square"),
        (lambda: per_class_gain([1, 0], [0, 0], ["a", "b"]), "labels cannot be read"),
        (lambda: per_class_gain([1, 0], [0, 0], [0.5, 1.5]), "labels run from 0.5 to 1.5; give whole numbers"),
        (lambda: per_class_gain([1, 0], RAGGED, [0, 1]), "baseline cannot be read"),
    ],
)
def test_a_wrong_input_gets_one_sentence(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_lists_and_whole_floats_are_taken():
    confusion = [[2, 0], [1, 1]]
    assert accuracy(confusion) == mean_per_class_accuracy(confusion) == 0.75
    assert per_class_accuracy(confusion).tolist() == [1.0, 0.5]
    assert confusion_matrix([0.0, 0, 1, 1], [False, False, False, True], 2).tolist() == confusion
    logits = [[0.0, 1.0], [-np.inf, 2.0]]
    assert classification_metrics([0.0, 1.0], logits) == classification_metrics([0, 1], logits)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_softmax_outputs_are_probabilities_and_logits_are_not(dtype):
    logits = 2 * np.random.default_rng(0).normal(size=(200, 10))
    labels = np.arange(200) % 7
    exact, half = (jax.nn.softmax(jnp.asarray(logits, kind), axis=-1) for kind in ("float32", dtype))
    # Each log of a mean moves by no more than the relative error of what it is made of: a few roundings.
    assert leep(half, labels) == pytest.approx(leep(exact, labels), abs=4 * float(jnp.finfo(dtype).eps))
    assert leep(jnp.asarray([[1 - jnp.finfo(dtype).eps, 0]] * 2, dtype), [0, 0]) == 0
    assert reliability(half, labels).counts.sum() == 200
    for wrong in (jnp.abs(jnp.asarray(logits, dtype)), jnp.asarray(logits, dtype), 1.05 * half):
        with pytest.raises(UserError, match="softmax outputs, not logits"):
            leep(wrong, labels)
