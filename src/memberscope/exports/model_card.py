"""A section of a Hugging Face model card, and its metadata, written again in place between markers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from memberscope.errors import ConfigError
from memberscope.exports.interface import Exported, Run
from memberscope.files import write_text
from memberscope.text import percent
from memberscope.types import Figure, Findings

BEGIN, END = "<!-- memberscope:begin -->", "<!-- memberscope:end -->"
YAML_BEGIN, YAML_END = "# memberscope:begin", "# memberscope:end"
_VERDICTS = {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive", "no_gate": "Measured, no limit was set"}
_SHOWN = 5


def write(run: Run, out: str, options: Exported) -> str:
    """Write or renew the section in the card ``out``; everything outside the markers stays byte for byte.

    Raises:
        ConfigError: the card has one marker without the other, metadata that are not YAML, or is not UTF-8.
    """
    path = Path(out)
    try:
        # Not read_text, which would turn line ends of another system into ours.
        card = path.read_bytes().decode("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"a model card in UTF-8 at {path}", str(error), "Check the path, or save it as UTF-8."
        ) from error
    write_text(path, updated(card, run, str(path)))
    return out


def updated(card: str, run: Run, name: str = "the card") -> str:
    """``card`` with the section and the metadata of ``run``; the same again gives the same text.

    Raises:
        ConfigError: see :func:`write`.
    """
    front, body = _split(card, name)
    own = _block(front, YAML_BEGIN, YAML_END, name)
    others = front if own is None else front[: own[0]] + front[own[1] :]
    kept = _load(others, name)
    block = f"{YAML_BEGIN}\n{_dump(metadata(run.findings, model_index='model-index' not in kept))}{YAML_END}\n"
    front = front + block if own is None else front[: own[0]] + block + front[own[1] :]
    place = _block(body, BEGIN, END, name)
    part = section(run)
    if place is None:
        body = (body.rstrip("\n") + "\n\n" if body.strip() else "\n") + part
    else:
        body = body[: place[0]] + part + body[place[1] :]
    return f"---\n{front}---\n{body}"


def metadata(findings: Findings, *, model_index: bool = True) -> dict[str, Any]:
    """What stands in the card's YAML: verdict and figures, and results as the Hub reads them (``model_index``)."""
    result = next((r for r in findings.attacks if r.target == "all" and r.name == findings.strongest), None)
    figures = {} if result is None else {"auc": result.auc} | {f"tpr@{k}": v for k, v in result.tpr_at_fpr.items()}
    known = {name: figure for name, figure in figures.items() if figure.value is not None}
    values: dict[str, Any] = {
        "memberscope": {
            "verdict": findings.verdict,
            "attack": findings.strongest,
            "figures": {name: [_short(x) for x in (f.value, f.low, f.high)] for name, f in known.items()},
        }
    }
    if model_index and known:
        metrics = [
            {"type": f"membership-inference-{name}", "name": f"Membership inference, {name}", "value": _short(f.value)}
            for name, f in known.items()
        ]
        data = {"type": "private", "name": str(findings.data.get("name", findings.name))}
        task = {"type": "membership-inference", "name": "Membership inference audit"}
        values["model-index"] = [
            {"name": findings.name, "results": [{"task": task, "dataset": data, "metrics": metrics}]}
        ]
    return values


def section(run: Run) -> str:
    """The markdown between the markers, and they."""
    findings = run.findings
    attacks = [result for result in findings.attacks if result.target == "all"]
    attacks.sort(key=lambda r: (r.name != findings.strongest, -(r.auc.low if r.auc.low is not None else -1.0)))
    rows = [
        f"| {_text(r.name)} | {_cell(r.auc, rate=False)} | {_cell(r.tpr_at_fpr.get('0.01'))} "
        f"| {_cell(r.tpr_at_fpr.get('0.001'))} |"
        for r in attacks[:_SHOWN]
    ]
    populations = findings.populations
    lines = [
        BEGIN,
        "## Membership inference audit",
        "",
        f"**{_VERDICTS[findings.verdict]}.** {_text(findings.headline)}",
        "",
        *(f"- {_text(gate.sentence)}" for gate in findings.gates),
        *([""] if findings.gates else []),
        f"Audited with {populations.get('members', '?')} training records and {populations.get('non_members', '?')} "
        f"others, {populations.get('references', '?')} reference models and {len(attacks)} attacks; the "
        f"{min(_SHOWN, len(attacks))} strongest, with 95 % intervals:",
        "",
        "| attack | AUC | members found at 1 % false alarms | at 0.1 % |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        "What this does not say:",
        "",
        *(f"- {_text(limit)}" for limit in findings.limits),
        "",
        f"Made with memberscope {findings.run.get('memberscope', '')}"
        + (f"; digest of the run `{run.digest}`." if run.digest else "."),
        END,
        "",
    ]
    return "\n".join(lines)


def _split(card: str, name: str) -> tuple[str, str]:
    """Metadata and text of a card; no metadata if it has none."""
    found = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", card, re.DOTALL | re.MULTILINE)
    if found:
        return found[1], card[found.end() :]
    if card.startswith("---"):
        raise ConfigError(f"metadata that end with --- in {name}", "no end", "Close the metadata, or remove them.")
    return "", card


def _block(text: str, begin: str, end: str, name: str) -> tuple[int, int] | None:
    """Where the marked block stands, to the end of its last line."""
    if (text.count(begin), text.count(end)) == (0, 0):
        return None
    first, last = text.find(begin), text.find(end)
    if (text.count(begin), text.count(end)) != (1, 1) or last < first:
        raise ConfigError(
            f"one {begin!r} and after it one {end!r} in {name}",
            f"{text.count(begin)} and {text.count(end)}",
            "Remove the markers and what stands between them, and export again.",
        )
    stop = last + len(end)
    rest = re.match(r"[ \t]*\r?\n", text[stop:])
    return first, stop + (rest.end() if rest else 0)


def _load(text: str, name: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"metadata in YAML in {name}", " ".join(str(error).split()), "Mend them.") from error
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"metadata as keys and values in {name}", type(values).__name__, "Mend them.")
    return values or {}


def _dump(values: dict[str, Any]) -> str:
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _short(value: float | None) -> float:
    return round(float(value or 0.0), 4)


def _cell(figure: Figure | None, *, rate: bool = True) -> str:
    if figure is None or figure.value is None or figure.low is None or figure.high is None:
        return "not measurable"
    shown = percent if rate else lambda value: f"{value:.3f}"
    return f"{shown(figure.value)} ({shown(figure.low)} to {shown(figure.high)})"


def _text(text: str) -> str:
    """Text that neither ends a table's cell, a line or a comment, nor is HTML."""
    # Not split(), which would part a number from its unit.
    plain = (
        re.sub(r"[\x00-\x20\x7f-\x9f]+", " ", text)
        .strip()
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
    return plain.replace("|", "\\|")
