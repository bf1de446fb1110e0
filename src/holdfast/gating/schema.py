"""The format of an evidence file, version 1: an in-toto Statement v1 whose predicate is a gate's evidence.

Knows: names, types, what must be there. Does not know: whether any of it is true (verify.py).

The published JSON Schema (``evidence-v1.schema.json`` beside this file, ``docs/evidence-v1.schema.json``) is made
from these classes; a test holds them together. Unknown keys, missing ones, NaN and numbers written as texts are
refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:holdfast-llm:gate-evidence:v1"
VERSION = 1

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, StringConstraints(max_length=2000)]
RowId = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}:[0-9]{1,9}|drift:[0-9]{1,9})$")]
Label = Literal["refused", "complied", "unclear", "error"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
BudgetName = Literal["refusal_loss", "over_refusal_rise", "task_drop", "kl_nats"]
StatusName = Literal["passed", "failed", "insufficient"]


class Part(BaseModel):
    """Strict, closed and unchangeable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Digest(Part):
    """As in-toto has it."""

    sha256: Sha256


class Artifact(Part):
    """One file that the statement is about."""

    name: Text
    digest: Digest


class PolicyPart(Part):
    """The budgets; null: not asked for."""

    max_refusal_loss: Annotated[float, Field(ge=0, lt=100)] | None
    max_over_refusal_rise: Annotated[float, Field(ge=0, lt=100)] | None
    max_task_drop: Annotated[float, Field(ge=0, lt=100)] | None
    max_kl_nats: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    false_alarms: Annotated[float, Field(ge=1e-6, le=0.5)]


class RowPart(Part):
    """One prompt: its hash, and what the model and the reference made of it."""

    id: RowId
    ours: Label | Finite | None
    theirs: Label | Finite | None
    same: bool


class MeasuredPart(Part):
    """The rows behind one budget; none with the reason in ``missing``."""

    budget: BudgetName
    suite: Text
    rows: tuple[RowPart, ...]
    floor: Share | None
    missing: Text


class CheckPart(Part):
    """One budget's numbers; null where there is none."""

    budget: BudgetName
    suite: Text
    status: StatusName
    why: Literal["below", "above", "crosses", "floor", "unknown", "nothing to lose", "few", "missing"]
    value: Finite | None
    low: Finite | None
    high: Finite | None
    n: Count
    unknown: Count
    limit: Finite
    floor: Finite | None
    smallest_seen: Finite | None
    loss_seen: Finite | None
    unchanged_from: Finite | None
    prompts: Finite | None


class VerdictPart(Part):
    """What became of all budgets."""

    status: StatusName
    level: Annotated[float, Field(ge=0, lt=1)]
    checks: tuple[CheckPart, ...]


class BoundFiles(Part):
    """Files of a folder by name; ``commit`` of a hub repository in their place."""

    source: Text
    files: dict[Text, Sha256]
    commit: Text | None


class Bindings(Part):
    """What the numbers depend on, by hash. null: the card does not record it, and ``absent`` names it.

    Attributes:
        prompts: over the ids of all rows. policy: over the policy. judge, data, code, numerics: over what stands
            in ``recorded`` under the same name.
    """

    adapter: BoundFiles | None
    base: BoundFiles | None
    reference: BoundFiles | None
    data: Sha256 | None
    prompts: Sha256
    judge: Sha256 | None
    policy: Sha256
    code: Sha256 | None
    numerics: Sha256 | None


class Predicate(Part):
    """The evidence of one gate.

    Attributes:
        recorded: what judge, data, code and numerics were, as the card has it.
        digest: sha256 over the canonical JSON of the statement without this entry.
    """

    version: Literal[1]
    policy: PolicyPart
    measured: tuple[MeasuredPart, ...]
    verdict: VerdictPart
    bindings: Bindings
    recorded: dict[Literal["data", "judge", "code", "numerics"], dict[str, Any]]
    absent: tuple[Literal["adapter", "base", "reference", "data", "judge", "code", "numerics"], ...]
    digest: Sha256


class Statement(Part):
    """in-toto Statement v1."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[Artifact, ...], Field(min_length=1)]
    predicateType: Literal["urn:holdfast-llm:gate-evidence:v1"]
    predicate: Predicate


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of an evidence file."""
    made = Statement.model_json_schema(by_alias=True)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"{PREDICATE}:schema"}
    return {**head, **made}
