"""Floor 1: budgets, the verdict of a gate, its evidence and how that is rechecked. Reads files only; no torch."""

from holdfast.gating.cards import Candidate, read_candidate
from holdfast.gating.decide import Check, Verdict, decide
from holdfast.gating.gate import Gated, gate
from holdfast.gating.measured import Measured, Row
from holdfast.gating.policy import BUDGETS, Policy, read_policy
from holdfast.gating.verify import EvidenceError, Verified, verify

__all__ = [
    "BUDGETS",
    "Candidate",
    "Check",
    "EvidenceError",
    "Gated",
    "Measured",
    "Policy",
    "Row",
    "Verdict",
    "Verified",
    "decide",
    "gate",
    "read_candidate",
    "read_policy",
    "verify",
]
