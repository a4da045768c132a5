"""Signals that what the model meets has changed: ADWIN on its errors, KSWIN on some of its inputs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN

from models.online.classifier import Prediction
from models.online.config import OnlineSettings
from models.online.kswin import KSWIN, least_distance, warm_up

CONFIDENCE = "confidence"
_ALPHA = 1e-4
"""KSWIN tests at every sample, so at River's 0.005 it would cry wolf every few hundred samples."""
_SIGNALS = 100
"""Most signals kept until they are told."""


def prepare_tests() -> None:
    """Work out what the first test of the inputs needs: some tenths of a second, and SciPy."""
    warm_up()
    least_distance(KSWIN(alpha=_ALPHA).stat_size, _ALPHA)


class DriftWatch:
    """Detectors by representation.

    - Each scored prediction is right or wrong: ADWIN (Bifet, Gavaldà 2007), at 0.2 µs a label.
    - One row in ``drift_sample_rows`` gives the first ``drift_features`` features of its representation and
      the confidence to KSWIN (Raab, Heusinger, Schleif 2020), too much work for every row.

    A signal is counted in ``counts``: ``drift_error_rose_<representation>``, ``drift_error_fell_<representation>``,
    ``drift_input_<representation>_<feature>``, and its line waits in ``signals``.
    """

    def __init__(self, settings: OnlineSettings, counts: Counter[str]) -> None:
        self.counts = counts
        self.signals: deque[str] = deque(maxlen=_SIGNALS)
        self._sample_rows = settings.drift_sample_rows
        self._features = settings.drift_features
        self._seed = settings.seed
        self._errors = {name: ADWIN() for name in settings.representations}
        self._inputs: dict[str, dict[str, KSWIN]] = {}
        self._until_sample = dict.fromkeys(settings.representations, 0)

    def on_score(self, representation: str, wrong: bool) -> None:
        """Take note of whether a prediction was wrong."""
        detector = self._errors[representation]
        before = detector.estimation
        detector.update(float(wrong))
        if detector.drift_detected:
            moved = "rose" if detector.estimation > before else "fell"
            self._signal(
                f"drift_error_{moved}_{representation}",
                f"wrong answers on {representation} {moved} from {before:.1%} to {detector.estimation:.1%}",
            )

    def on_rows(
        self,
        representation: str,
        names: tuple[str, ...],
        features: NDArray[np.float32],
        answers: Sequence[Prediction],
    ) -> None:
        """Take note of a few rows of features, (rows, names), and of the answers to them."""
        at = self._until_sample[representation]
        while at < len(features):
            for name, value in zip(
                names[: self._features], features[at, : self._features].tolist(), strict=True
            ):
                self._input(representation, name, value if np.isfinite(value) else 0.0)
            self._input(representation, CONFIDENCE, answers[at][1])
            at += self._sample_rows
        self._until_sample[representation] = at - len(features)

    def _input(self, representation: str, name: str, value: float) -> None:
        detectors = self._inputs.setdefault(representation, {})
        detector = detectors.get(name)
        if detector is None:
            if len(detectors) > self._features:
                return  # other features than those it began with: another flows agent's
            detector = detectors[name] = KSWIN(alpha=_ALPHA, seed=self._seed)
        detector.update(value)
        if detector.drift_detected:
            self._signal(
                f"drift_input_{representation}_{name}",
                f"the distribution of {name} in {representation} changed",
            )

    def _signal(self, counter: str, line: str) -> None:
        self.counts[counter] += 1
        self.signals.append(line)
