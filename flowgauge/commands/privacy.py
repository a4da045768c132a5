"""``flowgauge privacy``: keys, and what a probe makes of addresses and names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowgauge import options

if TYPE_CHECKING:
    from producers.privacy.config import PrivacySettings
    from producers.privacy.keys import Key

app = typer.Typer(
    no_args_is_help=True, help="Keys to hide addresses and names with, and what becomes of these."
)


@app.command("key")
def key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that is not there yet.")],
) -> int:
    """Make a key: a new file that only you may read.

    Gateways whose flows are to be joined need the same key. Prints its fingerprint, never the key.
    """
    from producers.privacy.keys import write_key

    made = write_key(file)
    typer.echo(f"{file}: a new key, fingerprint {made.fingerprint}")
    return 0


@app.command("map")
def map_(
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXT…", help="Addresses, prefixes, names or domains.")
    ],
    back: Annotated[
        bool, typer.Option("--back", help="From an anonymised address or prefix to the true one.")
    ] = False,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Show what a probe with these settings makes of addresses, prefixes and names; with --back, what it made them of.

    For prefixes and domains of services in the settings of flows workers, which see only what probes let out. Names
    are hashed here whatever privacy.names says; hashes do not lead back.
    """
    from flowgauge.settings import load
    from producers.privacy.config import PrivacySettings
    from producers.privacy.keys import find_key

    chosen = load(config, {}, settings or ()).get("privacy", PrivacySettings)
    found = _mapped(texts, back, chosen, find_key(chosen))
    if as_json:
        typer.echo(json.dumps(found))
    else:
        for text, mapped in found.items():
            typer.echo(f"{text} {mapped}")
    return 0


def _mapped(texts: list[str], back: bool, settings: PrivacySettings, key: Key) -> dict[str, str]:
    from producers.names.text import host_name
    from producers.privacy.cryptopan import CryptoPan
    from producers.privacy.names import NameHasher
    from producers.privacy.texts import anonymised, original
    from schemas.errors import SettingsError

    pan, hasher = CryptoPan(key, settings.only, settings.keep), NameHasher(key)
    found = {}
    for text in texts:
        try:
            found[text] = (original if back else anonymised)(pan, text)
        except ValueError as error:
            name = host_name(text.encode())
            if name is None:
                raise SettingsError(f"{text!r} is no address, prefix or name: {error}") from None
            if back:
                raise SettingsError(f"{text!r}: no way leads back from the hash of a name") from None
            found[text] = hasher.hashed(name)
    return found
