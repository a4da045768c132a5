"""A thread that has the disk keep what was written, so that a slow disk holds nobody up."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Syncer:
    """Calls ``sync`` every so often.

    Args:
        sync: raises OSError where it fails.
        interval_s: seconds between two calls; 0: never, its owner does it.
        on_failure: told why a call failed.
    """

    def __init__(
        self, sync: Callable[[], None], interval_s: float, on_failure: Callable[[str], None]
    ) -> None:
        self._sync, self._interval_s, self._on_failure = sync, interval_s, on_failure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool-sync", daemon=True)
        if interval_s:
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._sync()
            except OSError as error:
                self._on_failure(error.strerror or str(error))

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
