"""Where in the configuration file a gate and the data stand, for results that point there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from memberscope.errors import ConfigError
from memberscope.types import Gate


def locate(path: Path) -> dict[str, Any]:
    """Lines of a configuration file.

    Returns:
        ``path`` from the root of its git repository (else from the working directory), ``lines`` of the keys
        ``data``, ``signals`` and ``gate``, and ``gates``: each with its ``gate`` and ``line``. Lines count from 1.

    Raises:
        ConfigError: the file cannot be read or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"a configuration file {path}", str(error.strerror or error), "Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a YAML file at {path}", " ".join(str(error).split()), "Mend the syntax there.") from error
    lines: dict[str, int] = {}
    gates: list[dict[str, Any]] = []
    for key, value in root.value if isinstance(root, yaml.MappingNode) else []:
        lines[str(key.value)] = key.start_mark.line + 1
        if key.value == "gate":
            gates = list(_gates(value))
    return {"path": _uri(path), "lines": lines, "gates": gates}


def _gates(node: yaml.Node) -> Iterator[dict[str, Any]]:
    for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        try:
            gate = Gate.model_validate(yaml.safe_load(yaml.serialize(item)))
        except ValueError:
            # The audit itself says what is wrong with it.
            continue
        yield {"line": item.start_mark.line + 1, "gate": gate.model_dump(exclude_none=True)}


def _uri(path: Path) -> str:
    whole = path.resolve()
    roots = [parent for parent in whole.parents if (parent / ".git").exists()]
    for root in (*roots[:1], Path.cwd()):
        if whole.is_relative_to(root):
            return whole.relative_to(root).as_posix()
    return whole.name


def line_of(where: dict[str, Any], gate: Gate | None) -> int:
    """The line of a gate, or of the data where ``gate`` is None; the first line where neither stands in the file."""
    lines = where.get("lines", {})
    if gate is None:
        return int(next((lines[key] for key in ("data", "predictions", "signals") if key in lines), 1))
    for known in where.get("gates", []):
        if _identity(known["gate"]) == _identity(gate.model_dump(exclude_none=True)):
            return int(known["line"])
    return int(lines.get("gate", 1))


def _identity(gate: dict[str, Any]) -> dict[str, Any]:
    # A baseline beside the configuration has another path from the working directory.
    return gate | ({"baseline": Path(gate["baseline"]).name} if "baseline" in gate else {})
