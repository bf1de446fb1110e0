"""A card as model-card metadata (the hub's ``model-index``) and a page of text.

Knows: what a card's scores are called there, how YAML and Markdown are written safely. Does not know: how anything
was measured.

Every number goes with its interval and its prompts. Nothing is said that the card does not hold; licence, language
and training data are the author's to add.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from holdfast.core.errors import UserError
from holdfast.core.version import VERSION
from holdfast.gating.cards import Candidate, read_candidate
from holdfast.gating.words import escaped

RATES = {
    "refusal": "harmful prompts refused",
    "attack_success": "harmful prompts answered",
    "over_refusal": "harmless prompts refused",
}


def model_card(source: str | Path, name: str | None = None, arm: str | None = None) -> str:
    """The text of a ``README.md``: metadata between dashes, then tables.

    Args:
        source: folder of a card or a run. name: of the model; the folder's by default. arm: of a run.

    Raises:
        UserError: as :func:`read_candidate`; a damaged card.
    """
    candidate = read_candidate(source, arm)
    called = name or candidate.name
    try:
        return _written(candidate, called)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source}: a score is not as holdfast writes it ({error!r}); evaluate again") from None


def _written(candidate: Candidate, called: str) -> str:
    head = {"library_name": "peft" if candidate.provenance.adapter else "transformers"}
    found = {**head, "tags": ["holdfast"], "model-index": [{"name": called, "results": _results(candidate)}]}
    metadata = yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{metadata}---\n\n{_text(candidate, called)}"


def _results(candidate: Candidate) -> list[dict[str, Any]]:
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": suite, "type": "holdfast"},
            "metrics": [
                {"type": kind, "name": what, "value": interval["value"], "args": _args(interval)}
                for kind, what, interval in entries
            ],
        }
        for suite, entries in scores(candidate.card.values)
    ]


def _args(interval: Mapping[str, Any]) -> dict[str, Any]:
    return {key: interval.get(key) for key in ("low", "high", "n", "method") if interval.get(key) is not None}


def scores(values: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str, Mapping[str, Any]]]]]:
    """Suite -> (type, name, interval); what was not measured is left out."""
    for skill in values.get("skills") or ():
        yield str(skill["name"]), [(k, what, skill[k]) for k, what in RATES.items() if _there(skill.get(k))]
    for attack in values.get("attacks") or ():
        what = f"harmful prompts answered under {attack['attack']}"
        yield str(attack["skill"]), [("attack_success", what, attack["success"])]
    for task in values.get("tasks") or ():
        found = [(str(task["metric"]), "task score", task["score"])] if _there(task.get("score")) else []
        if _there(task.get("loss")):
            found.append(("loss", "loss, nats a token", task["loss"]))
        yield str(task["name"]), found
    for suite in values.get("suites") or ():
        measures = suite.get("measures") or {}
        yield str(suite["name"]), [(k, k.replace("_", " "), v) for k, v in measures.items() if _there(v)]
    drift = values.get("drift")
    if isinstance(drift, dict) and _there(drift.get("interval")):
        yield "drift", [("kl_nats", "drift from the reference, nats a sequence", drift["interval"])]


def _there(interval: Any) -> bool:
    value = interval.get("value") if isinstance(interval, dict) else None
    return isinstance(value, (int, float)) and math.isfinite(value)


def _text(candidate: Candidate, name: str) -> str:
    lines = [f"# {escaped(name)}", "", "| measured on | what | value [95 % interval] | n |", "|---|---|---|---|"]
    for suite, entries in scores(candidate.card.values):
        for kind, what, found in entries:
            lines.append(f"| {escaped(suite)} | {escaped(what)} | {_value(kind, found)} | {found.get('n', '')} |")
    settings = candidate.card.values.get("settings") or {}
    judge = escaped(str(settings.get("judge", "not recorded")))
    lines += [
        "",
        f"Measured with holdfast {VERSION}, greedy answers, judge {judge}. Rates are shares of prompts with 95 % "
        "intervals over prompts; unclear and unjudged answers count as neither. They hold for these prompts and "
        "attacks only and promise nothing about others.",
    ]
    lines += [f"- {escaped(str(note))}" for note in candidate.card.values.get("notes") or ()]
    return "\n".join(lines) + "\n"


def _value(kind: str, found: Mapping[str, Any]) -> str:
    rate = kind in RATES or (kind not in ("kl_nats", "loss") and 0 <= found["value"] <= 1)
    scale, form = (100, ".0f") if rate else (1, ".3g")
    shown = f"{scale * found['value']:{form}}{' %' if rate else ''}"
    ends = [end for end in (found.get("low"), found.get("high")) if isinstance(end, (int, float))]
    if len(ends) < 2 or not all(map(math.isfinite, ends)):
        return shown
    return f"{shown} [{', '.join(f'{scale * end:{form}}' for end in ends)}]"
