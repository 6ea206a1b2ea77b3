"""Which labelled pictures the generator learns, and the features that its probe uses."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from PIL import Image


def features(pictures: Sequence[np.ndarray], size: int = 160) -> np.ndarray:
    """EfficientNet-Lite0 features, float32 [n, 1280] of unit length, of square pictures uint8 [s, s, 3]."""
    from bridgejax.models import load_classifier

    model = load_classifier("builtin:efficientnet_lite0")
    model.eval()
    mean, deviation = (np.asarray(v, np.float32) for v in (model.preprocessing.mean, model.preprocessing.std))
    graph, state = nnx.split(model)
    features_of = jax.jit(lambda s, x: nnx.merge(graph, s).features(x))
    arrays = [np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255 for p in pictures]
    batch = (np.stack(arrays) - mean) / deviation
    padded = np.concatenate([batch, np.zeros((-len(batch) % 16, *batch.shape[1:]), np.float32)])
    out = [np.asarray(features_of(state, padded[i : i + 16])) for i in range(0, len(padded), 16)]
    rows = np.concatenate(out)[: len(batch)]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def typical_pictures(images: Sequence[np.ndarray], labels: Sequence[str], per_class: int) -> np.ndarray:
    """Indices int [k] of at most ``per_class`` pictures of each class, those most surely recognised as their class.

    Sureness is the probability of the class by a logistic regression on `features` that was fitted to the other nine tenths of
    the clip art. A small model learns few clear pictures better than many odd ones.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    found, names = features(images), np.asarray(labels)
    classes, codes = np.unique(names, return_inverse=True)
    estimate = LogisticRegression(C=30.0, max_iter=2000, class_weight="balanced")
    sureness = cross_val_predict(estimate, found, codes, cv=10, method="predict_proba")[np.arange(len(codes)), codes]
    chosen = []
    for code in range(len(classes)):
        members = np.flatnonzero(codes == code)
        chosen.append(members[np.argsort(-sureness[members], kind="stable")[:per_class]])
    return np.sort(np.concatenate(chosen))
