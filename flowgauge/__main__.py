"""``flowgauge`` on the command line, also as ``python -m flowgauge``."""

from __future__ import annotations

import sys

from flowgauge.outcome import run


def main() -> None:
    """Run the command line and end the process with its exit code."""

    def work() -> int | None:
        from flowgauge.cli import invoke  # inside, so that Ctrl-C while importing ends quietly too
        from schemas.kernel_cache import use_kernel_cache

        use_kernel_cache()
        return invoke(sys.argv[1:])

    sys.exit(run(work))


if __name__ == "__main__":
    main()
