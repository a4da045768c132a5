"""The pages of the reference, made from the code whenever the documentation is built (a hook of MkDocs).

Nothing of them is kept as a file, so none can be out of date.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic_core import PydanticUndefined
from typer.main import get_command

from flowgauge.cli import app
from flowgauge.outcome import EXIT_CODES
from flowgauge.settings import PREFIX, section_classes
from flowgauge.settings_values import nested_settings, toml_value
from infra.broker.__main__ import _parser as broker_parser
from producers.metrics import MeterCollector
from producers.telemetry import StageMeter
from schemas.codec import NAMES, fingerprint_of, schema
from schemas.settings import Settings
from schemas.topics import TOPICS
from streams.feature import Feature, available_features, load_feature

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE_DEPTH = 8
COLUMNS_TOLD = 64
"""Columns of a feature that its table shows; some have hundreds alike."""
Rows = Iterable[Sequence[object]]


def table(head: Sequence[str], rows: Rows) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    """Return one cell's text; a bar inside code can only be written as HTML."""
    text = " ".join(str(value).split())
    text = re.sub(r"`([^`]*\|[^`]*)`", lambda code: f"<code>{escape(code[1])}</code>", text)
    return text.replace("|", "&#124;")


def settings() -> str:
    """Return every key of every section with its default, meaning and environment variable."""
    out = [
        "# Settings\n",
        "Every key of the settings file, by section. `--set section.key=value` and the environment variable set the "
        "same keys; [the command line](../command-line.md) tells which wins. `flowgauge check` prints what is in "
        "effect.\n",
    ]
    for section, kind in section_classes().items():
        out += [f"## [{section}]\n", f"{_first_line(kind)}\n", *_keys(section, kind)]
    return "\n".join(out)


def _keys(section: str, kind: type[Settings], inside_list: bool = False) -> Iterator[str]:
    below: list[tuple[str, type[Settings]]] = []
    rows = []
    for key, field in kind.model_fields.items():
        nested = nested_settings(field.annotation)
        if nested is not None:
            below.append((key, nested))
        variable = "" if inside_list else f"<br>`{PREFIX}{section.upper().replace('.', '__')}__{key.upper()}`"
        rows.append([f"`{key}`{variable}", _default(field, nested), _allowed(field), field.description or ""])
    yield table(["key", "default", "allowed", "meaning"], rows)
    for key, nested in below:
        yield f"### [[{section}.{key}]]\n"
        yield f"{_first_line(nested)}\n"
        yield from _keys(f"{section}.{key}", nested, inside_list=True)


def _default(field: Any, nested: type[Settings] | None) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "must be given"
    if value is None:
        return "not set"
    if nested is not None:
        return ", ".join(f"`{item.name}`" for item in value) if value else "none"
    return f"`{toml_value(list(value) if isinstance(value, tuple) else value)}`"


def _allowed(field: Any) -> str:
    """Return what the field's declaration allows beyond its type."""
    choices = re.findall(r"'([^']+)'", str(field.annotation)) if "Literal" in str(field.annotation) else []
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    words = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{words[n]} {v:,}" for m in field.metadata for n in words if (v := getattr(m, n, None)) is not None
    ]
    return ", ".join(limits) or _type(field.annotation)


def _type(annotation: Any) -> str:
    plain = {str: "text", bool: "`true`, `false`", int: "a whole number", float: "a number"}
    if annotation in plain:
        return plain[annotation]
    text = str(annotation)
    return "a list" if text.startswith(("tuple", "list")) else "a table" if text.startswith("dict") else ""


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def topics() -> str:
    """Return the topics with what is in them and how they are kept."""
    rows = [
        [
            f"`{topic.name}`",
            f"[{topic.schema}](schemas.md#{topic.schema.lower()})",
            "`bus.partitions`, by flow" if topic.by_flow else "1",
            ", ".join(f"`{key}={value}`" for key, value in topic.config.items()) or "the broker's",
            topic.doc,
        ]
        for topic in TOPICS
    ]
    return (
        "# Topics\n\n"
        "Names come with `bus.topic_prefix` in front. A configured representation has a topic `features.<name>` of its "
        "own, made like `features.window`. `flowgauge topics` compares the broker with this table, and `--create` "
        "makes what is missing.\n\n"
        + table(["topic", "a message is", "partitions", "settings", "holds"], rows)
        + "\nThe partition of a flow is `(top 16 bits of its flow id × partitions) >> 16`, on all topics split by "
        "flow: so whoever knows a flow id knows where its records are. The key of a prediction or a label is the "
        "flow id.\n"
    )


def schemas() -> str:
    """Return every message's fields and columns."""
    out = [
        "# Schemas\n",
        "Messages are Avro: the marker `C3 01`, the CRC-64 fingerprint of the schema (8 bytes), the body; or, with a "
        "[schema registry](../how-to/registry.md), a zero byte and the schema's id (4 bytes) before the body. The "
        "files are in `schemas/avro/`.\n\nA *column* is a `bytes` field that holds one little-endian value per row, so "
        "`np.frombuffer(record[name], dtype)` reads it. Those of a feature batch are packed into as few bits as their "
        "values need: `schemas.features.decode_feature_batch` gives them as they are described here.\n",
    ]
    for name in NAMES:
        raw = schema(name)
        on = ", ".join(f"`{t.name}`" for t in TOPICS if t.schema == name)
        out += [f"## {name}\n", f"{raw['doc']} On {on}. Fingerprint `{fingerprint_of(raw).hex()}`.\n"]
        plain = [[f"`{f['name']}`", _avro(f["type"]), f["doc"]] for f in raw["fields"] if "dtype" not in f]
        out.append(table(["field", "type", "meaning"], plain))
        columns = [
            [
                f"`{f['name']}`",
                f"`{f['dtype'].lstrip('|')}`" + (f" × {f['width']}" if "width" in f else "")
                + (f" × `{f['width_field']}`" if "width_field" in f else ""),
                f.get("unit", "1"), f"`{f['rows']}`", f["doc"],
            ]
            for f in raw["fields"] if "dtype" in f
        ]  # fmt: skip
        if columns:
            out.append(table(["column", "dtype", "unit", "rows", "meaning"], columns))
    return "\n".join(out)


def _avro(kind: Any) -> str:
    if isinstance(kind, list):
        return " or ".join(_avro(part) for part in kind)
    if isinstance(kind, dict):
        return f"{kind['type']} of {_avro(kind.get('items') or kind.get('values'))}"
    return str(kind)


def features() -> str:
    """Return every feature with what it computes, its state and its columns."""
    out = [
        "# Features\n",
        "What a representation may list in `features`. Nothing else is computed: the kernel holds just these. State "
        f"and columns that depend on the representation's depth are shown for {EXAMPLE_DEPTH} packets. What "
        "ends in `_fwd` goes from the sender of the flow's first packet, `_rev` to it. Columns are float32.\n",
    ]
    for name in available_features():
        feature = load_feature(name)
        module = inspect.getdoc(import_module(f"streams.features.{name}")) or ""
        size = feature.dtype(EXAMPLE_DEPTH).itemsize if feature.state(EXAMPLE_DEPTH) else 0
        columns = _shown_columns(feature)
        out += [
            f"## {name}\n", f"{feature.doc}\n", f"{module}\n", *_definition(feature),
            f"Level: {feature.level}. State: {size} bytes a flow.{_needs(feature)}\n",
            table(["column", "unit", "meaning"], columns),
            '??? note "How the code computes it"\n\n'
            f"    ```python\n{indent(_formulas(name), '    ')}\n    ```\n",
        ]  # fmt: skip
    return "\n".join(out)


def _definition(feature: Feature) -> Iterator[str]:
    if feature.formula:
        yield f"**How it is computed.** {escape(feature.formula)}\n"
    if feature.reference:
        yield f"**Reference.** {feature.reference}\n"


def _needs(feature: Feature) -> str:
    """Return what probes send only for the feature."""
    needs = feature.needs(EXAMPLE_DEPTH)
    text = " Needs the packet columns `tcp`: 8 bytes a packet on the bus." if needs.tcp else ""
    if needs.head_packets:
        text += f" Needs the first {needs.head_octets} octets of the first {needs.head_packets} packets of each flow."
    return text


def _shown_columns(feature: Feature) -> list[list[str]]:
    """Return the columns as table rows; of hundreds alike only the first."""
    columns = feature.columns(EXAMPLE_DEPTH)
    rows = [[f"`{c.name}`", c.unit, c.doc] for c in columns[:COLUMNS_TOLD]]
    if len(columns) > len(rows):
        rows.append(["…", "", f"{len(columns):,} columns in all, to `{columns[-1].name}`"])
    return rows


def _formulas(name: str) -> str:
    """Return the source of a feature's compiled functions, without their decorators."""
    module = import_module(f"streams.features.{name}")
    parts = [getattr(module, part) for part in ("update", "update_head", "emit") if hasattr(module, part)]
    sources = [inspect.getsource(part.py_func) for part in parts]
    return "\n\n".join(re.sub(r"\A(?:@.*\n)+", "", source).rstrip() for source in sources)


def telemetry() -> str:
    """Return the metrics of the Prometheus port and the names that stages count under."""
    meter = StageMeter("flows", "packets")
    suffix = {"counter": "_total", "gauge": "", "histogram": "_bucket, _sum, _count"}
    rows = []
    for family in MeterCollector([meter]).collect():
        shown = ", ".join(
            f"`{label}`" for label in sorted(set(vars(family)["_labelnames"]) | {"stage", "detail"})
        )
        rows.append([f"`{family.name}{suffix[family.type]}`", family.type, shown, family.documentation])
    names = [
        [f"`{n}`", how, ", ".join(f"`{place}`" for place in sorted(where))] for (n, how), where in _counted()
    ]
    return (
        "# Telemetry\n\n"
        "Each stage of each process publishes a [CostTelemetry](schemas.md#costtelemetry) record on `telemetry.cost` "
        "every `telemetry_interval_s`; `flowgauge costs` shows them as one table. Where `metrics_port` is set, the "
        "same counts since the start are at `/metrics` for Prometheus, and `/health` answers 200 while the process "
        "gets on, 503 with a reason while it does not.\n\n## Metrics\n\n"
        + table(["metric", "kind", "labels", "meaning"], rows)
        + "\n`process_…` metrics (memory, CPU, files, start) come beside them.\n\n## Names in the counts\n\n"
        "*dropped*: items that went no further, the keys of `dropped`. *event*: the keys of `counters`. *value*: as it "
        "stands, the keys of `gauges`. Where a name is made at run time, `…` stands for the part that varies.\n\n"
        + table(["name", "kind", "counted in"], names)
    )


_KINDS = {"drop": "dropped", "count": "event", "gauge": "value"}
_COUNTERS = {"counters", "totals", "counts"}


def _counted() -> list[tuple[tuple[str, str], set[str]]]:
    """Return (name, kind) of what the stages count, and the modules that do."""
    found: dict[tuple[str, str], set[str]] = {}
    for room in ("producers", "streams", "models", "flowgauge/recording"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for name, kind in _names(node):
                    found.setdefault((name, kind), set()).add(str(path.relative_to(ROOT)))
    return sorted(found.items())


def _names(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        kind = _KINDS.get(node.func.attr)
        if kind and (name := _text(node.args[0])):
            yield name, kind
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
        name = _text(node.slice)
        if name and node.value.attr in _COUNTERS:
            yield name, "event"


def _text(node: ast.AST) -> str:
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"[a-z_0-9]+", node.value)
    ):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values]
        return "".join(parts)
    return ""


def command_line() -> str:
    """Return every subcommand with its arguments and options, as ``--help`` tells them."""
    out = ["# Commands\n", "As `flowgauge COMMAND --help` tells them; exit codes are at the end.\n"]
    for name, command in _commands(get_command(app), "flowgauge"):
        context = command.make_context(name, [], resilient_parsing=True)
        broker = name.startswith("flowgauge broker")
        usage = [p.metavar or p.name.upper() for p in command.params if p.param_type_name == "argument"]
        line = " ".join([name, "[OPTIONS]", *usage])
        out += [f"## {name.removeprefix('flowgauge ')}\n", f"```\n{line}\n```\n", f"{_help(command)}\n"]
        rows = _broker_options() if broker else [_parameter(p, context) for p in command.params]
        out.append(table(["argument or option", "meaning"], rows))
    codes = [[code, meaning] for code, meaning in EXIT_CODES.items()]
    return "\n".join([*out, "## Exit codes\n", table(["code", "means"], codes)])


def _commands(group: Any, above: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{above} {name}")
        else:
            yield f"{above} {name}", command


def _help(command: Any) -> str:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def _parameter(parameter: Any, context: Any) -> list[str]:
    shown, meaning = parameter.get_help_record(context)
    if parameter.param_type_name == "argument":
        shown = parameter.metavar or parameter.name.upper()
    return [f"`{shown}`", meaning.replace("<", "&lt;")]


def _broker_options() -> list[list[str]]:
    """Return the options of ``flowgauge broker``, which its own parser knows."""
    actions = [action for action in broker_parser()._actions if action.option_strings]
    return [[f"`{', '.join(action.option_strings)}`", action.help or ""] for action in actions]


def from_root(name: str) -> Callable[[], str]:
    """Return a maker of a page that is a file beside this folder, with its links pointing at pages."""

    def make() -> str:
        text = (ROOT / name).read_text(encoding="utf-8")
        for file, page in {"README.md": "index.md", **{v: k for k, v in FROM_ROOT.items()}}.items():
            text = text.replace(f"({file})", f"({page})")
        return text.replace("](docs/", "](")

    return make


FROM_ROOT = {"architecture.md": "ARCHITECTURE.md", "contributing.md": "CONTRIBUTING.md"}
PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings,
    "reference/topics.md": topics,
    "reference/schemas.md": schemas,
    "features.md": features,
    "reference/telemetry.md": telemetry,
    "reference/commands.md": command_line,
    **{page: from_root(name) for page, name in FROM_ROOT.items()},
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those in the folder; MkDocs calls this."""
    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files
