"""What the documentation says about the command, held against the command."""

from __future__ import annotations

import re
from pathlib import Path

from typer.main import get_command

from flowgauge.cli import app
from flowgauge.outcome import EXIT_CODES

ROOT = Path(__file__).resolve().parents[2]


def test_the_exit_codes_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    told = {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)}
    assert told == EXIT_CODES


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([a-z-]+(?: serve(?=`))?)[^`]*`", text, re.MULTILINE))
    assert told - {"packet-models serve", "cascade serve"} == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_commands_and_flags_in_the_documentation_exist() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    for page in pages:
        for command, rest in re.findall(r"\bflowgauge ([a-z][a-z-]*)((?: +[^`\n|>;&#]+)?)", _code(page)):
            assert command in commands, f"{page.name}: flowgauge {command}"
            first = (rest.split() or [""])[0]
            parts = getattr(commands[command], "commands", {})
            chosen = parts.get(first) or commands.get(f"{command} {first}", commands[command])
            known = {name for option in chosen.params for name in [*option.opts, *option.secondary_opts]}
            for flag in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest):
                nested = command == "broker"  # its own parser knows its flags
                assert nested or flag in known | {"--help"}, f"{page.name}: flowgauge {command} {flag}"


def _code(page: Path) -> str:
    """Return the code of a Markdown page, inline and in blocks, with continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return "\n".join([*blocks, *inline])
