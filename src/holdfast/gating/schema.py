"""The format of an evidence file, version 1: an in-toto Statement v1 whose predicate is a gate's evidence.

Knows: names, types, what must be there. Does not know: whether any of it is true (verify.py).

The published JSON Schema (``evidence-v1.schema.json`` beside this file, ``docs/evidence-v1.schema.json``) is made
from these classes, and docs/formats.md from them and the comments at their fields; tests hold them together.
Unknown keys, missing ones, NaN and numbers written as texts are refused.
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

    # points of refusals lost on harmful prompts, against the reference
    max_refusal_loss: Annotated[float, Field(ge=0, lt=100)] | None
    max_over_refusal_rise: Annotated[float, Field(ge=0, lt=100)] | None  # points of harmless prompts refused more
    max_task_drop: Annotated[float, Field(ge=0, lt=100)] | None  # points of task score lost
    # drift from the reference, nats a sequence
    max_kl_nats: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    # chance that a model within all budgets is failed by any
    false_alarms: Annotated[float, Field(ge=1e-6, le=0.5)]


class RowPart(Part):
    """One prompt: its hash, and what the model and the reference made of it."""

    id: RowId  # hash of the prompt and its place among equal ones, or `drift:` and a number
    ours: Label | Finite | None  # label, score or nats of the model; null: none
    theirs: Label | Finite | None  # the same of the reference
    same: bool  # both gave the same text


class MeasuredPart(Part):
    """The rows behind one budget; none with the reason in ``missing``."""

    budget: BudgetName  # which of the budgets
    suite: Text  # where the rows come from
    rows: tuple[RowPart, ...]  # one a prompt
    floor: Share | None  # noise of asking again, a share; null: not measured
    missing: Text  # why there are no rows


class CheckPart(Part):
    """One budget's numbers; null where there is none."""

    budget: BudgetName  # which of the budgets
    suite: Text  # where its rows come from
    status: StatusName  # what became of it
    # the reason in one word
    why: Literal["below", "above", "crosses", "floor", "unknown", "nothing to lose", "few", "missing"]
    value: Finite | None  # the loss, where it could be taken
    low: Finite | None  # lower end of its interval
    high: Finite | None  # upper end
    n: Count  # prompts
    unknown: Count  # answers that nobody could judge
    limit: Finite  # the budget in the unit of the interval: a share, or nats
    floor: Finite | None  # noise added to the budget before anything fails
    smallest_seen: Finite | None  # least loss that these prompts can show to break it
    loss_seen: Finite | None  # true loss that is failed in 8 of 10 draws
    unchanged_from: Finite | None  # prompts from which an unchanged model passes
    prompts: Finite | None  # prompts to give if what was seen is true


class VerdictPart(Part):
    """What became of all budgets."""

    status: StatusName  # of all budgets together
    level: Annotated[float, Field(ge=0, lt=1)]  # confidence of each interval
    checks: tuple[CheckPart, ...]  # one a budget and suite


class BoundFiles(Part):
    """Files of a folder by name; ``commit`` of a hub repository in their place."""

    source: Text  # as it was named
    files: dict[Text, Sha256]  # sha256 of each file
    commit: Text | None  # of a hub repository, in place of files


class Bindings(Part):
    """What the numbers depend on, by hash. null: the card does not record it, and ``absent`` names it.

    Attributes:
        prompts: over the ids of all rows. policy: over the policy. judge, data, code, numerics: over what stands
            in ``recorded`` under the same name.
    """

    adapter: BoundFiles | None  # files of the adapter
    base: BoundFiles | None  # files of the model below it
    reference: BoundFiles | None  # files of what it was compared with
    data: Sha256 | None  # over what is recorded of the task rows
    prompts: Sha256  # over the ids of all rows
    judge: Sha256 | None  # over what is recorded of the judge
    policy: Sha256  # over the policy
    code: Sha256 | None  # over what is recorded of versions
    numerics: Sha256 | None  # over what is recorded of dtype, device and threads


class Predicate(Part):
    """The evidence of one gate.

    Attributes:
        recorded: what judge, data, code and numerics were, as the card has it.
        digest: sha256 over the canonical JSON of the statement without this entry.
    """

    version: Literal[1]  # of this format
    policy: PolicyPart  # the budgets, as in `gate.yaml`
    measured: tuple[MeasuredPart, ...]  # the rows behind each budget
    verdict: VerdictPart  # what the rows give
    bindings: Bindings  # what the numbers depend on
    # what judge, data, code and numerics were
    recorded: dict[Literal["data", "judge", "code", "numerics"], dict[str, Any]]
    # what the card does not record, so that nothing is bound to it
    absent: tuple[Literal["adapter", "base", "reference", "data", "judge", "code", "numerics"], ...]
    digest: Sha256  # over the canonical JSON of the statement without this entry


class Statement(Part):
    """in-toto Statement v1."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]  # of in-toto
    subject: Annotated[tuple[Artifact, ...], Field(min_length=1)]  # the files it is about, by name and sha256
    predicateType: Literal["urn:holdfast-llm:gate-evidence:v1"]  # of this format
    predicate: Predicate  # the evidence


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of an evidence file."""
    made = Statement.model_json_schema(by_alias=True)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"{PREDICATE}:schema"}
    return {**head, **made}
