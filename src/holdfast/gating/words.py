"""A verdict in sentences, for a terminal, a pull request (Markdown) and a test report (JUnit).

Knows: checks. Does not know: rows, files. Names of suites are untrusted text: each format escapes them.
"""

import math
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from holdfast.gating.decide import Check, Verdict
from holdfast.gating.intervals import FEWEST
from holdfast.gating.measured import Measured

LOSSES = {
    "refusal_loss": "refusals lost",
    "over_refusal_rise": "over-refusal risen",
    "task_drop": "task score lost",
    "kl_nats": "drift",
}
_WHY = {
    "below": "the interval lies below the budget",
    "above": "the interval lies above the budget",
    "crosses": "the interval holds the budget",
    "floor": "above the budget, but not by more than asking again moves",
    "unknown": "answers that are not known can be either, and would decide",
    "nothing to lose": "the reference has so little of it that no loss could break the budget",
    "few": f"too few prompts for an interval; give {FEWEST} or more, better 60",
}
_SIGNS = {"passed": "✅", "failed": "❌", "insufficient": "❔"}


def headline(verdict: Verdict, measured: Sequence[Measured] = ()) -> str:
    """The verdict and its reason in one sentence.

    Args:
        measured: the rows of every check, which know why there are none.
    """
    found = [check for check in verdict.checks if check.status == verdict.status]
    missing = [entry.missing for entry in measured] or [""] * len(verdict.checks)
    whys = [
        _both(reason(check, m), _more(check))
        for check, m in zip(verdict.checks, missing, strict=True)
        if check in found
    ]
    if verdict.status == "passed":
        return f"passed: {counted(len(found), 'budget')} kept, each with its whole interval"
    if verdict.status == "failed":
        return f"failed: {'; '.join(f'{name(check)} {numbers(check)}' for check in found)}"
    said = "; ".join(f"{name(check)}: {why}" for check, why in zip(found, whys, strict=True))
    return f"insufficient evidence: {said}"


def name(check: Check) -> str:
    """Suite and budget."""
    said = LOSSES[check.budget]
    return said if check.suite in (said, "refusal") else f"{check.suite}: {said}"


def numbers(check: Check) -> str:
    """The loss with its interval against the budget."""
    if not check.n:
        return f"not measured (budget {_amount(check, check.limit)})"
    ends = ", ".join(_number(check, end) for end in (check.low, check.high))
    unit = "nats" if check.budget == "kl_nats" else "points"
    floor = f" + noise floor {_amount(check, check.floor)}" if check.floor > 0 else ""
    middle = _number(check, check.value)
    return f"{middle} {unit} [{ends}] over {check.n} prompts, budget {_amount(check, check.limit)}{floor}"


def reason(check: Check, missing: str = "") -> str:
    """Why a check ended as it did.

    Args:
        missing: what the rows say of their absence.
    """
    if check.why == "missing":
        return missing or "not measured"
    unknown = f" ({counted(check.unknown, 'answer')} not judged or unclear)" if check.unknown else ""
    return _WHY[check.why] + unknown


def power_sentence(check: Check) -> str:
    """What so many prompts can see; "" where there is nothing to say, or a loss was seen."""
    parts: list[str] = []
    if check.status == "failed":
        return ""
    if check.smallest_seen == math.inf:
        parts.append(f"{check.n} prompts can fail no loss at all against this budget")
    elif math.isfinite(check.smallest_seen):
        parts.append(
            f"with {check.n} prompts a loss under {_amount(check, check.smallest_seen)} cannot be seen to break it"
        )
    if math.isfinite(check.loss_seen):
        parts.append(f"a true one of {_amount(check, check.loss_seen)} is failed in 8 of 10 draws")
    if check.status == "passed":
        return "; ".join(parts)
    if check.why == "unknown":
        parts.append(
            "read those answers (responses.parquet of the card), then give more prompts, longer answers or a "
            "judge that can tell"
        )
    if check.unchanged_from == math.inf:
        parts.append("with a budget of 0 an unchanged model never passes")
    elif check.unchanged_from > check.n:
        parts.append(f"an unchanged model passes from {check.unchanged_from:.0f} prompts on")
    if check.prompts == math.inf:
        parts.append("if what was seen is true, not even 5000 would decide")
    elif math.isfinite(check.prompts):
        parts.append(f"if what was seen is true, give about {check.prompts:.0f}")
    return "; ".join(parts)


def rows(verdict: Verdict, measured: Sequence[Measured] = ()) -> list[list[str]]:
    """A table: budget, verdict, numbers, why and what could be seen."""
    missing = [entry.missing for entry in measured] or [""] * len(verdict.checks)
    return [
        [
            name(check),
            check.status,
            numbers(check),
            _both(reason(check, m), power_sentence(check)),
        ]
        for check, m in zip(verdict.checks, missing, strict=True)
    ]


def markdown(verdict: Verdict, notes: Sequence[str] = (), measured: Sequence[Measured] = ()) -> str:
    """For a pull request."""
    lines = [
        f"### {_SIGNS[verdict.status]} holdfast gate: {escaped(headline(verdict, measured))}",
        "",
        "| budget | verdict | loss and interval | why |",
        "|---|---|---|---|",
    ]
    for what, status, found, why in rows(verdict, measured):
        lines.append(f"| {escaped(what)} | {_SIGNS[status]} {status} | {escaped(found)} | {escaped(why)} |")
    lines += [
        "",
        f"Intervals at {100 * verdict.level:.1f} %, so that all budgets together raise few false alarms.",
    ]
    return "\n".join([*lines, *(f"- {escaped(note)}" for note in notes)]) + "\n"


def junit(verdict: Verdict, measured: Sequence[Measured] = ()) -> str:
    """One test case a budget. Insufficient evidence is an error, which is no failure and no pass either."""
    count = {status: sum(check.status == status for check in verdict.checks) for status in _SIGNS}
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuite name="holdfast gate" tests="{len(verdict.checks)}" failures="{count["failed"]}" '
        f'errors="{count["insufficient"]}">',
    ]
    for what, status, found, why in rows(verdict, measured):
        said = quoteattr(_xml(f"{found}; {why}"))
        inside = {"passed": f"<system-out>{said[1:-1]}</system-out>", "failed": f"<failure message={said}/>"}
        told = inside.get(status, f"<error message={said}/>")
        lines.append(f'  <testcase classname="holdfast.gate" name={quoteattr(_xml(what))}>{told}</testcase>')
    return "\n".join([*lines, "</testsuite>", ""])


def _more(check: Check) -> str:
    return f"give about {check.prompts:.0f} prompts" if math.isfinite(check.prompts) else ""


def _both(*sentences: str) -> str:
    return "; ".join(filter(None, sentences))


def counted(number: int, what: str) -> str:
    """ "1 budget", "2 budgets"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _number(check: Check, value: float) -> str:
    if not math.isfinite(value):
        return "open"
    return f"{value:.2f}" if check.budget == "kl_nats" else f"{100 * value:+.1f}"


def _amount(check: Check, value: float) -> str:
    return f"{value:.3g} nats" if check.budget == "kl_nats" else f"{round(100 * value, 1):g} points"


def escaped(text: str) -> str:
    """Untrusted text for Markdown, inside tables too: no markup of its own, one line."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    for mark in "\\`*_|<>[]#@!~$":
        plain = plain.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return plain


def _xml(text: str) -> str:
    """Without what XML 1.0 cannot hold."""
    return "".join(c for c in text if c.isprintable())
