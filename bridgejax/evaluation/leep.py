"""LEEP: how well a source model's outputs already predict the target classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bridgejax.evaluation.calibration import check_probabilities


def leep(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Returns the log expected empirical prediction (Nguyen et al. 2020, arXiv 2002.12462), in nats, at most 0.

    With θ(x)_z the source model's probability of its class z:
      P(y, z) = 1/n Σ_i θ(x_i)_z [y_i = y],  P(y | z) = P(y, z) / Σ_y P(y, z),
      LEEP = 1/n Σ_i log Σ_z P(y_i | z) θ(x_i)_z.
    A source class that never gets any probability adds nothing. Rows that miss a sum of 1 by rounding are divided by it.

    Args:
      probabilities: float [n, z], softmax outputs of the source model; rows sum to 1.
      labels: int [n], the target classes, from 0.

    Raises:
      UserError: shapes that do not fit, rows that are not distributions, or labels that are not whole numbers from 0.
    """
    theta, y = check_probabilities(probabilities, labels)
    theta = theta / theta.sum(axis=1, keepdims=True)
    _, position = np.unique(y, return_inverse=True)  # only classes that occur; gaps in the numbering cost nothing
    joint = np.zeros((position.max() + 1, theta.shape[1]))
    np.add.at(joint, position, theta)
    joint /= len(theta)
    marginal = joint.sum(axis=0)
    conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    expected = np.einsum("iz,iz->i", conditional[position], theta)
    return float(np.log(expected).mean())
