"""What an application of the lab is: its endpoints (the truth), its needs, how it serves and visits."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from infra.lab.host import Host
from schemas.errors import SettingsError

TCP, UDP = 6, 17

_PROGRAM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/lib/dovecot")


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens: the index of its address (see ``plan.server_address``), port, IANA protocol."""

    server: int
    port: int
    protocol: int


@dataclass(frozen=True)
class App:
    """One application with a real protocol stack on both sides.

    ``serve`` starts its servers and returns when they are about to listen; ``visit`` is one use of them by
    one client, with behaviour drawn from ``host.random``. Each client pauses for about ``pause_s`` seconds
    between two visits.
    """

    name: str
    label: str
    endpoints: tuple[Endpoint, ...]
    serve: Callable[[Host], Awaitable[None]]
    visit: Callable[[Host], Awaitable[None]]
    pause_s: float
    on_demand: bool = False
    """The endpoints are opened by visits: none of them listens after ``serve``."""
    once: bool = False
    """Each client visits once; the visit itself goes on for as long as it should."""
    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()
    """Packages to install with apt-get when a program is missing."""
    pypi: tuple[str, ...] = ()
    """Packages to install with pip when a module is missing."""

    def missing(self) -> list[str]:
        """Return the programs and Python modules that this machine lacks."""
        programs = [p for p in self.programs if find_program(p) is None]
        return programs + [m for m in self.modules if importlib.util.find_spec(m) is None]

    def remedy(self) -> str:
        """Return the command lines that install what the application needs."""
        apt = f"apt-get install -y --no-install-recommends {' '.join(self.debian)}" if self.debian else ""
        pip = f"pip install {' '.join(self.pypi)}" if self.pypi else ""
        return " && ".join(part for part in (apt, pip) if part)


def find_program(name: str) -> str | None:
    """Return the full path of a program; looks where Debian keeps servers even when PATH does not."""
    if found := shutil.which(name):
        return found
    folders = [*_PROGRAM_FOLDERS, *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]
    return next((f"{folder}/{name}" for folder in folders if Path(folder, name).is_file()), None)


def program(name: str) -> str:
    """Return the full path of a program that ``App.programs`` promised; raises FileNotFoundError."""
    found = find_program(name)
    if found is None:
        raise FileNotFoundError(f"program {name} is not installed")
    return found


def load_apps(names: list[str] | None = None) -> list[App]:
    """Return the applications by name, or all of ``infra.lab.apps`` in alphabetical order.

    A name with a dot is a module of another folder of the lab, as ``ladder.app``.

    Raises:
        SettingsError: a name that no application has.
    """
    import infra.lab.apps as package

    known = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    for name in names or ():
        if name not in known and "." not in name:
            raise SettingsError(f"unknown application {name!r}: the lab has {', '.join(known)}")
    return [_load(name if "." in name else f"apps.{name}") for name in names or known]


def _load(name: str) -> App:
    app: App = importlib.import_module(f"infra.lab.{name}").APP
    return app
