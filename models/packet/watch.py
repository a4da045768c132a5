"""Watches a training run of Keras: stops it when asked to, and when the loss is no number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras


class Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback that asks ``stop`` after every batch and tells ``progress`` each finished epoch."""

    def __init__(self, stop: Callable[[], bool], progress: Callable[[int], None]) -> None:
        super().__init__()
        self.stopped = False
        self.diverged = False
        self._stop = stop
        self._progress = progress

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End the training once it was asked to stop."""
        if self._stop():
            self.stopped = self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """End it at a loss that is no number."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.diverged = self.model.stop_training = True
        self._progress(epoch + 1)
