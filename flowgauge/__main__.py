"""``flowgauge`` on the command line, also as ``python -m flowgauge``."""

from __future__ import annotations

import os
import sys

from flowgauge.outcome import INTERRUPTED, run


def main() -> None:
    """Run the command line and end the process with its exit code."""

    def work() -> int | None:
        from flowgauge.cli import invoke  # inside, so that Ctrl-C while importing ends quietly too
        from schemas.kernel_cache import use_kernel_cache

        use_kernel_cache()
        return invoke(sys.argv[1:])

    code = run(work)
    if code == INTERRUPTED:
        # Python kills itself with SIGINT at its end if a Ctrl-C once passed through an exec(), caught or not; we
        # have ended in order, and the code shall say so.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
