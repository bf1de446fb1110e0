"""Evidence rechecked from its kept rows, without a model, a network or torch; anything odd is refused.

Knows: the format, what must agree with what. Does not know: who wrote the file: it bears no signature.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import ValidationError

from holdfast.core.errors import EXIT_FAILED, HoldfastError, UserError
from holdfast.core.files import finite, hash_json
from holdfast.gating.binding import Bound, bound_files, difference
from holdfast.gating.decide import Verdict, decide
from holdfast.gating.evidence import FILES, RECORDED, canonical, digest_of, prompts_hash
from holdfast.gating.measured import LABELS, Measured
from holdfast.gating.policy import Policy
from holdfast.gating.schema import PREDICATE, STATEMENT, Statement

LARGEST_BYTES = 1 << 26
MOST_NATS = 1e9
_TOLERANCE = 1e-9  # of recomputed numbers, relative: sums may be taken in another order elsewhere


class EvidenceError(HoldfastError):
    """Evidence that does not hold."""

    exit_code = EXIT_FAILED


@dataclass(frozen=True)
class Verified:
    """Evidence that holds.

    Attributes:
        verdict: recomputed from the rows.
        digest: of the statement; compare it with one kept elsewhere.
        absent: what the evidence is bound to by nothing.
        checked: what was compared with files that were given.
    """

    verdict: Verdict
    measured: tuple[Measured, ...]
    digest: str
    absent: tuple[str, ...]
    checked: tuple[str, ...]


def verify(
    path: str | Path,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
    policy: Policy | None = None,
    digest: str | None = None,
) -> Verified:
    """Recompute verdict and intervals of an evidence file and compare all that can be compared.

    Args:
        adapter, base: files that the evidence must be about.
        policy: the budgets that it must have been held to.
        digest: what the statement's digest must be, from a place that whoever wrote the file cannot write.

    Raises:
        EvidenceError: the file does not hold, in one sentence.
        UserError: no such file or folder.
    """
    path = Path(path)
    try:
        made = _read(path)
        predicate = made["predicate"]
        _check_digest(made, digest)
        asked = _policy(predicate["policy"])
        measured = tuple(Measured.from_dict(entry) for entry in predicate["measured"])
        _check_rows(asked, measured)
        _check_bindings(made, asked, measured)
        verdict = decide(asked, measured)
        if (odd := _differs(predicate["verdict"], finite(verdict.to_dict()))) is not None:
            raise EvidenceError(f"the rows give another verdict than the one stated ({odd})")
        if policy is not None and policy != asked:
            raise EvidenceError("it was held to another policy than the one given")
        checked = _check_files(predicate["bindings"], {"adapter": adapter, "base": base})
    except EvidenceError as error:
        raise EvidenceError(f"{path}: {error}; do not rely on it") from None
    given = (*checked, *(name for name, what in (("policy", policy), ("digest", digest)) if what is not None))
    return Verified(verdict, measured, predicate["digest"], tuple(predicate["absent"]), given)


def _read(path: Path) -> dict[str, Any]:
    """The statement, once its bytes are canonical and every part of it is where and what it must be."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; give an evidence file that `holdfast gate --evidence` wrote"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give an evidence file") from None
    return _parsed(raw)


def _parsed(raw: bytes) -> dict[str, Any]:
    if len(raw) > LARGEST_BYTES:
        raise EvidenceError(f"larger than {LARGEST_BYTES >> 20} MB")
    try:
        made = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError) as error:
        raise EvidenceError(f"not JSON that can be relied on ({error})") from None
    if not isinstance(made, dict) or made.get("_type") != STATEMENT:
        raise EvidenceError("not an in-toto Statement v1")
    if made.get("predicateType") != PREDICATE:
        raise EvidenceError(f"a predicate of another type or version than {PREDICATE}")
    try:
        Statement.model_validate_json(raw)
    except (ValidationError, RecursionError) as error:
        raise EvidenceError(_first(error)) from None
    if raw != canonical(made).encode():
        raise EvidenceError(
            "not written as evidence is (another order, space or spelling): it was changed by hand"
        )
    return made


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise EvidenceError("a key stands twice")
    return found


def _no_number(name: str) -> Any:
    raise EvidenceError(f"{name} where a number belongs")


def _first(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    problem = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part)[:40] for part in problem["loc"])
    return f"{place}: {problem['msg'].lower()}"


def _check_digest(made: dict[str, Any], wanted: str | None) -> None:
    stated = made["predicate"]["digest"]
    if digest_of(made) != stated:
        raise EvidenceError("its digest is not that of its content: something was changed")
    if wanted is not None and wanted != stated:
        raise EvidenceError("its digest is not the one given")


def _policy(values: Mapping[str, Any]) -> Policy:
    try:
        return Policy(**values)
    except UserError as error:
        raise EvidenceError(f"no policy to hold anything to ({error})") from None


def _check_rows(policy: Policy, measured: tuple[Measured, ...]) -> None:
    """What a schema cannot say of rows."""
    if {entry.budget for entry in measured} != set(policy.asked):
        raise EvidenceError("rows and policy speak of different budgets")
    places = [(entry.budget, entry.suite) for entry in measured]
    if len(set(places)) != len(places):
        raise EvidenceError("the same budget stands twice for one suite")
    for entry in measured:
        where = f"{entry.suite[:60]!r}, {entry.budget}"
        ids = [row.id for row in entry.rows]
        if len(set(ids)) != len(ids):
            raise EvidenceError(f"{where}: a row stands twice")
        if bool(entry.rows) == bool(entry.missing):
            raise EvidenceError(f"{where}: rows, or a reason why there are none, and not both")
        drift = entry.budget == "kl_nats"
        if any(name.startswith("drift:") != drift for name in ids):
            raise EvidenceError(f"{where}: rows of another kind")
        for row in entry.rows:
            if drift and row.theirs is not None:
                raise EvidenceError(f"{where}: drift has one side")
            for side in (row.ours, row.theirs):
                if not _sound(side, entry):
                    raise EvidenceError(f"{where}: {side!r} is no value of it")


def _sound(side: str | float | None, entry: Measured) -> bool:
    if entry.labelled:
        return side in LABELS
    if side is None:
        return True
    if isinstance(side, (str, bool)) or not math.isfinite(side):
        return False
    return 0 <= side <= (MOST_NATS if entry.budget == "kl_nats" else 1)


def _check_bindings(made: Mapping[str, Any], policy: Policy, measured: tuple[Measured, ...]) -> None:
    predicate = made["predicate"]
    bindings, recorded = predicate["bindings"], predicate["recorded"]
    about = next((bindings[name] for name in ("adapter", "base") if bindings[name] is not None), None)
    named = {(entry["name"], entry["digest"]["sha256"]) for entry in made["subject"]}
    if about is not None and not named >= set(about["files"].items()):
        raise EvidenceError("its subject is not the model it is bound to")
    if bindings["policy"] != hash_json(policy.to_dict()):
        raise EvidenceError("the policy is not the one it is bound to")
    if bindings["prompts"] != prompts_hash(measured):
        raise EvidenceError("the prompts are not those it is bound to")
    for name in RECORDED:
        if bindings[name] != (hash_json(recorded[name]) if name in recorded else None):
            raise EvidenceError(f"what is recorded of {name} is not what it is bound to")
    if list(predicate["absent"]) != [name for name in (*FILES, *RECORDED) if bindings[name] is None]:
        raise EvidenceError("what it says is absent is not what is absent")


def _check_files(bindings: Mapping[str, Any], given: Mapping[str, str | Path | None]) -> tuple[str, ...]:
    checked = []
    for name, source in given.items():
        if source is None:
            continue
        if not Path(source).expanduser().exists():
            raise UserError(f"{source}: no such file or folder; give the {name} that the evidence is about")
        if bindings[name] is None or not bindings[name]["files"]:
            raise EvidenceError(f"it is not bound to any {name}'s files")
        odd = difference(Bound.from_dict(bindings[name]), bound_files(source))
        if odd is not None:
            raise EvidenceError(f"{source} is not the {name} it is about ({odd})")
        checked.append(name)
    return tuple(checked)


def _number(side: object) -> TypeGuard[float]:
    return isinstance(side, (int, float)) and not isinstance(side, bool)


def _differs(stated: Any, found: Any, where: str = "") -> str | None:
    """The first place where a stated value is not the one recomputed; numbers may differ in their last bits."""
    if isinstance(stated, dict) and isinstance(found, dict) and stated.keys() == found.keys():
        pairs = [(f"{where}.{key}", stated[key], found[key]) for key in stated]
    elif isinstance(stated, (list, tuple)) and isinstance(found, (list, tuple)) and len(stated) == len(found):
        pairs = [(f"{where}.{k}", one, other) for k, (one, other) in enumerate(zip(stated, found, strict=True))]
    else:
        same = stated == found
        if _number(stated) and _number(found):
            same = math.isclose(stated, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        return None if same else (where.lstrip(".") or "all of it")
    return next((odd for name, one, other in pairs if (odd := _differs(one, other, name)) is not None), None)
