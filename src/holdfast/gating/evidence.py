"""Evidence: a verdict with everything it was decided on, in one file that a stranger can recheck.

Knows: how the parts become a statement, its canonical bytes, its digest. Does not know: whether to believe one
(verify.py).

The file is canonical JSON: sorted keys, one space of indent, one newline at the end. So one verdict has one file,
and one changed byte is seen. It is not signed: sign the file, or keep its digest where the forger cannot write.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.core.files import finite, hash_json, write_text
from holdfast.gating.binding import Bound, Provenance
from holdfast.gating.decide import Verdict
from holdfast.gating.measured import Measured
from holdfast.gating.policy import Policy
from holdfast.gating.schema import PREDICATE, STATEMENT, VERSION

RECORDED = ("data", "judge", "code", "numerics")
FILES = ("adapter", "base", "reference")


def statement(
    policy: Policy, measured: Sequence[Measured], verdict: Verdict, provenance: Provenance
) -> dict[str, Any]:
    """An in-toto Statement v1 about the adapter's files (the base's without an adapter) and the card's."""
    recorded = {name: value for name in RECORDED if (value := getattr(provenance, name)) is not None}
    bindings = {
        **{name: _plain(getattr(provenance, name)) for name in FILES},
        **{name: hash_json(recorded[name]) if name in recorded else None for name in RECORDED},
        "prompts": prompts_hash(measured),
        "policy": hash_json(policy.to_dict()),
    }
    made = {
        "_type": STATEMENT,
        "subject": subjects(provenance),
        "predicateType": PREDICATE,
        "predicate": {
            "version": VERSION,
            "policy": policy.to_dict(),
            "measured": [entry.to_dict() for entry in measured],
            "verdict": verdict.to_dict(),
            "bindings": bindings,
            "recorded": recorded,
            "absent": [name for name in (*FILES, *RECORDED) if bindings[name] is None],
        },
    }
    made = finite(json.loads(json.dumps(finite(made))))
    made["predicate"]["digest"] = digest_of(made)
    return made


def subjects(provenance: Provenance) -> list[dict[str, Any]]:
    """What the statement is about, file by file, as in-toto names it."""
    model = provenance.adapter or provenance.base
    files = {**(model.files if model is not None else {}), **provenance.card}
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(files.items())]


def prompts_hash(measured: Sequence[Measured]) -> str:
    """Over which prompts every budget was held against, in their order."""
    return hash_json([[entry.budget, entry.suite, [row.id for row in entry.rows]] for entry in measured])


def digest_of(made: dict[str, Any]) -> str:
    """Over the statement without its own digest."""
    predicate = {name: value for name, value in made["predicate"].items() if name != "digest"}
    return hash_json({**made, "predicate": predicate})


def canonical(made: dict[str, Any]) -> str:
    """The one text of a statement."""
    return json.dumps(made, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_evidence(path: str | Path, made: dict[str, Any]) -> None:
    """Write the canonical text."""
    write_text(path, canonical(made))


def _plain(bound: Bound | None) -> dict[str, Any] | None:
    """None for a mere name: it binds nothing."""
    return bound.to_dict() if bound is not None and (bound.files or bound.commit) else None
