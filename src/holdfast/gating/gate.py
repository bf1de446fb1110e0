"""A gate: a card or a run, held against budgets.

Knows: the order of things. Does not know: how any step is done.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.core.errors import EXIT_FAILED, EXIT_PASS, EXIT_UNDECIDED
from holdfast.core.files import finite
from holdfast.gating.binding import Bound, Provenance, bound_files
from holdfast.gating.cards import measured, read_candidate
from holdfast.gating.decide import Status, Verdict, decide
from holdfast.gating.evidence import statement, write_evidence
from holdfast.gating.measured import Measured
from holdfast.gating.policy import Policy, read_policy
from holdfast.gating.words import headline, power_sentence, reason

EXITS: dict[Status, int] = {"passed": EXIT_PASS, "failed": EXIT_FAILED, "insufficient": EXIT_UNDECIDED}


@dataclass(frozen=True)
class Gated:
    """What became of it.

    Attributes:
        name: of what was held against the budgets.
        measured: the rows of every check, in its order.
        notes: what a reader must know.
    """

    name: str
    policy: Policy
    verdict: Verdict
    measured: tuple[Measured, ...]
    provenance: Provenance
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 passed, 3 failed, 4 insufficient."""
        return EXITS[self.verdict.status]

    @property
    def evidence(self) -> dict[str, Any]:
        """The in-toto statement."""
        return statement(self.policy, self.measured, self.verdict, self.provenance)

    def save_evidence(self, path: str | Path) -> None:
        """Write the evidence file."""
        write_evidence(path, self.evidence)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the verdict, its reason, every check with its sentences, the policy."""
        values = self.verdict.to_dict()
        for check, told, entry in zip(self.verdict.checks, values["checks"], self.measured, strict=True):
            told |= {"reason": reason(check, entry.missing), "power": power_sentence(check)}
        said = {"name": self.name, "status": values.pop("status"), "reason": headline(self.verdict, self.measured)}
        return finite({**said, **values, "policy": self.policy.to_dict(), "notes": list(self.notes)})


def gate(
    source: str | Path,
    budgets: Policy | str | Path,
    arm: str | None = None,
    reference: str | None = None,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
) -> Gated:
    """Hold a saved card, or a model of a run, against budgets.

    Args:
        source: folder of ``evaluate --against ... --out``, or a run folder.
        budgets: a policy, or the file of one.
        arm, reference: of a run, which model and what it is compared with, as :func:`read_candidate`.
        adapter, base: folders to bind the evidence to where the card does not record them. They are taken at
            your word; where the card does record them they must be the same files.

    Raises:
        UserError: as :func:`read_policy` and :func:`read_candidate`; other files than the card records.
    """
    policy = budgets if isinstance(budgets, Policy) else read_policy(budgets)
    candidate = read_candidate(source, arm, reference)
    found = tuple(entry for budget in policy.asked for entry in measured(candidate, budget))
    provenance = candidate.provenance
    for what, given in (("adapter", adapter), ("base", base)):
        if given is not None:
            provenance = replace(provenance, **{what: _bound(what, given, getattr(provenance, what))})
    notes = [] if candidate.floors or not any(entry.labelled for entry in found) else [NO_FLOOR]
    return Gated(candidate.name, policy, decide(policy, found), found, provenance, tuple(notes))


NO_FLOOR = "no noise floor was measured (evaluate --noise 3), so none was allowed for"


def _bound(what: str, given: str | Path, recorded: Bound | None) -> Bound:
    from holdfast.core.errors import UserError
    from holdfast.gating.binding import difference

    if not Path(given).expanduser().exists():
        raise UserError(f"{given}: no such file or folder; give the {what} that was evaluated")
    found = bound_files(given)
    if recorded is not None and recorded.files and (odd := difference(recorded, found)) is not None:
        raise UserError(f"{given}: not the {what} that was evaluated ({odd}); evaluate this one")
    return found
