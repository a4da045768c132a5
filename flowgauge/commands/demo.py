"""``flowgauge demo``: the whole system, on labelled traffic, in under a minute."""

from __future__ import annotations

from typing import Annotated

import typer

from flowgauge import options


def command(
    seconds: Annotated[
        float, typer.Option(min=1, max=600, help="How long the replay of the traffic takes, in s.")
    ] = 12.0,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Replay labelled traffic through the whole system and show what comes out.

    Nothing but Python is needed: the broker is embedded, for trying out. A flows worker and a model worker run
    as processes of their own. At the end every count is held against the next one's; exit code 1 means that
    something got lost.
    """
    from flowgauge.demo.run import Demo
    from flowgauge.framing import start_framing
    from flowgauge.settings import load

    effective = load(config, assignments=settings or ())
    start_framing(effective)
    arguments = ["--config", str(config)] if config else []
    arguments += [part for assignment in settings or () for part in ("--set", assignment)]
    return Demo(effective, arguments, seconds, as_json).run()
