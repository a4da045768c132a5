"""Gaussian naive Bayes with a floor under the variances."""

from __future__ import annotations

import math
from collections.abc import Mapping

from river import naive_bayes


class SmoothedGaussianNB(naive_bayes.GaussianNB):  # type: ignore[misc]
    """River's Gaussian naive Bayes, but a feature that is constant in a class speaks for the class.

    River gives such a feature the probability of a miss even where it matches, which ruins features such as
    protocol or the absent packets of short flows: at the eighth packet of the
    demo capture's flows 8 % of answers were right, with the floor 60 %.

    Args:
        floor: added to every variance, in squared units of the features.
    """

    def __init__(self, floor: float = 0.01) -> None:
        super().__init__()
        self.floor = floor

    def joint_log_likelihood(self, x: Mapping[str, float]) -> dict[int, float]:
        """Return the logarithm of P(class, row) by class, less a constant."""
        total = sum(self.class_counts.values())
        out = {}
        for c, n in self.class_counts.items():
            gaussians = self.gaussians[c]
            log_likelihood = math.log(n / total)
            for name, value in x.items():
                variable = gaussians[name]._var
                variance = variable.get() + self.floor
                away = value - variable.mean.get()
                log_likelihood -= 0.5 * (math.log(variance) + away * away / variance)
            out[c] = log_likelihood
        return out
