"""Card folders and run folders read as files, so that a gate needs no model and no torch.

Knows: what ``evaluate --out`` and a run leave behind, and which rows belong to which budget. Does not know: how
any of it was measured; the names of the files are those of ``evaluation.scorecard`` and ``pipeline.folder``.

Prompts leave this file as hashes only.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.files import read_json, sha256_file, sha256_text
from holdfast.gating.binding import PROVENANCE_FILE, Bound, Provenance, bound_files
from holdfast.gating.measured import LABELS, Measured, Row
from holdfast.gating.policy import Budget

CARD_FILE, ROWS_FILE, COMPARISON_FILE, AGAINST = (
    "scorecard.json",
    "responses.parquet",
    "comparison.json",
    "against",
)
MANIFEST_FILE, STAGES, STAGE_FILE, NOISE_FILE, ALIGNED = (
    "manifest.json",
    "stages",
    "stage.json",
    "noise.json",
    "aligned",
)
_KINDS: dict[str, str] = {"refusal_loss": "harmful", "over_refusal_rise": "benign", "task_drop": "task"}
_MEASURES = {"refusal_loss": "refusal", "over_refusal_rise": "over_refusal"}
Key = tuple[str, str, str]  # suite, kind, id
Answer = tuple[str | float | None, str]


@dataclass(frozen=True)
class CardFiles:
    """One card as it lies on the disk.

    Attributes:
        values: of ``scorecard.json``.
        rows: of plain requests: (suite, kind, prompt's id) -> label or score, and the answer's hash.
    """

    folder: Path
    values: Mapping[str, Any]
    rows: Mapping[Key, Answer] = field(repr=False)

    @property
    def hashes(self) -> dict[str, str]:
        """Of its own files."""
        names = (CARD_FILE, ROWS_FILE, PROVENANCE_FILE)
        return {name: sha256_file(path) for name in names if (path := self.folder / name).is_file()}


@dataclass(frozen=True)
class Candidate:
    """What is held against budgets.

    Attributes:
        name: for people.
        card, reference: of the model and of what it is compared with; None where there is no such card.
        floors: "skill: measure" -> noise floor as a share.
        drift_against_reference: whether the card's drift is from that reference.
    """

    name: str
    card: CardFiles
    reference: CardFiles | None
    floors: Mapping[str, float]
    provenance: Provenance
    drift_against_reference: bool = True


def read_candidate(source: str | Path, arm: str | None = None, reference: str | None = None) -> Candidate:
    """The card of a folder that ``evaluate --out`` wrote, or one model of a run.

    Args:
        arm: of a run: "plain-0" (arm and seed), or the arm alone where it has one seed; may be left out where
            there is one model only. reference: the same of what it is compared with; "aligned" by default.

    Raises:
        UserError: neither a card nor a run; a name that is not there; damaged files.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give one that `holdfast evaluate --out` or `holdfast run` wrote"
        )
    if (folder / STAGES).is_dir():
        return _of_run(folder, arm, reference)
    if arm is not None or reference is not None:
        raise UserError(f"{folder}: --arm and --reference choose within a run; this is a single card")
    if not (folder / CARD_FILE).is_file():
        raise UserError(f"{folder}: no {CARD_FILE} and no {STAGES}/ in it; give a card's folder or a run's")
    card = read_card(folder)
    against = read_card(folder / AGAINST) if (folder / AGAINST / CARD_FILE).is_file() else None
    return Candidate(folder.name, card, against, _floors(folder / COMPARISON_FILE, "floors"), _provenance(card))


def _of_run(run: Path, arm: str | None, reference: str | None) -> Candidate:
    found = sorted(path.parent.name for path in (run / STAGES).glob(f"evaluate-*/{STAGE_FILE}"))
    names = [name.removeprefix("evaluate-") for name in found]
    chosen = _chosen(run, [name for name in names if name != ALIGNED], arm, "arm")
    against = _chosen(run, names, reference or ALIGNED, "reference")
    if chosen == against:
        raise UserError(f"{run}: {chosen} cannot be its own reference")
    folders = {name: run / STAGES / f"evaluate-{name}" for name in (chosen, against)}
    card, other = (read_card(folder / "card") for folder in folders.values())
    floors = [_floors(folder / NOISE_FILE, None) for folder in folders.values()]
    most = {key: max(found[key] for found in floors if key in found) for key in {**floors[0], **floors[1]}}
    if not all(floors):
        most = {}
    return Candidate(chosen, card, other, most, _run_provenance(run, chosen, against, card), against == ALIGNED)


def _chosen(run: Path, names: Sequence[str], wanted: str | None, what: str) -> str:
    fitting = [name for name in names if wanted is None or name.rpartition("-")[0] == wanted]
    if wanted in names:  # an arm called "plain-0" beside seed 0 of "plain"
        fitting = [str(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(names) or "none; has the run finished?"
    if wanted is None or len(fitting) > 1:
        raise UserError(
            f"{run}: several models were evaluated; choose one with --{what}: {', '.join(fitting) or known}"
        )
    raise UserError(f"{run}: no model '{wanted}' was evaluated; --{what} takes one of {known}")


def read_card(folder: Path) -> CardFiles:
    """Read a card's two files.

    Raises:
        UserError: one is missing or damaged.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    values = read_json(folder / CARD_FILE)
    if not isinstance(values, dict):
        raise UserError(f"{folder / CARD_FILE}: not a card; evaluate again")
    columns = ["suite", "kind", "prompt", "response", "label", "score", "attack"]
    path = folder / ROWS_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; the rows are what a gate decides on, evaluate again with --out")
    try:
        table = parquet.read_table(path, columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged ({str(error).splitlines()[0][:200]}); evaluate again") from None
    if table and set(table[0]) != set(columns):
        raise UserError(f"{path}: columns are missing ({', '.join(sorted(set(columns) - set(table[0])))})")
    rows: dict[Key, Answer] = {}
    seen: Counter[tuple[str, str, str]] = Counter()
    for row in table:
        if row["attack"]:
            continue
        prompt = str(row["suite"]), str(row["kind"]), sha256_text(str(row["prompt"]))
        value = _score(row["score"], path) if row["kind"] == "task" else _label(row["label"], path)
        rows[prompt[0], prompt[1], f"{prompt[2]}:{seen[prompt]}"] = value, sha256_text(str(row["response"]))
        seen[prompt] += 1
    return CardFiles(folder, values, rows)


def _label(value: Any, path: Path) -> str:
    if value not in LABELS:
        raise UserError(f"{path}: label {str(value)[:40]!r} is not one of {', '.join(LABELS)}; evaluate again")
    return value


def _score(value: Any, path: Path) -> float | None:
    if value is None or math.isnan(value):
        return None
    if not 0 <= value <= 1:
        raise UserError(f"{path}: a task score of {value:g}; scores lie between 0 and 1, evaluate again")
    return float(value)


def measured(candidate: Candidate, budget: Budget) -> tuple[Measured, ...]:
    """The rows of one budget, one entry a suite; one entry that says why, where there are none."""
    if budget == "kl_nats":
        return (_drift(candidate),)
    ours, theirs = candidate.card, candidate.reference
    kind = _KINDS[budget]
    if theirs is not None and (odd := _asked_otherwise(ours, theirs)) is not None:
        return (Measured(budget, kind, missing=f"the two cards differ in {odd}; evaluate both alike"),)
    if theirs is None:
        return (Measured(budget, kind, missing="the card has nothing to compare with; evaluate with --against"),)
    here, there = _by_suite(ours, kind), _by_suite(theirs, kind)
    suites = list(dict.fromkeys([*here, *there]))
    if not suites:
        word = "task" if kind == "task" else f"{kind} prompts"
        return (Measured(budget, kind, missing=f"the card has no {word}; evaluate with some"),)
    return tuple(
        _pairs(budget, suite, here.get(suite, {}), there.get(suite, {}), candidate.floors) for suite in suites
    )


def _asked_otherwise(ours: CardFiles, theirs: CardFiles) -> str | None:
    """A setting that moves labels and is not the same on both cards."""
    one, other = (_judge(card) or {} for card in (ours, theirs))
    names = sorted({*one, *other} - {"seed"})
    return next((name for name in names if one.get(name) != other.get(name)), None)


def _by_suite(card: CardFiles, kind: str) -> dict[str, dict[str, Answer]]:
    found: dict[str, dict[str, Answer]] = {}
    for (suite, of, name), value in card.rows.items():
        if of == kind:
            found.setdefault(suite, {})[name] = value
    return found


def _pairs(
    budget: Budget,
    suite: str,
    ours: Mapping[str, Answer],
    theirs: Mapping[str, Answer],
    floors: Mapping[str, float],
) -> Measured:
    if ours.keys() != theirs.keys():
        both = len(ours.keys() & theirs.keys())
        asked = f"{len(ours)} and {len(theirs)}, {both} in common"
        return Measured(budget, suite, missing=f"not the same prompts ({asked}); evaluate both on one list")
    rows = tuple(Row(name, ours[name][0], theirs[name][0], ours[name][1] == theirs[name][1]) for name in ours)
    return Measured(budget, suite, rows, floors.get(f"{suite}: {_MEASURES.get(budget, '')}"))


def _drift(candidate: Candidate) -> Measured:
    reading = candidate.card.values.get("drift")
    if not candidate.drift_against_reference:
        return Measured(
            "kl_nats", "drift", missing="drift was measured from the aligned model, not from this reference"
        )
    found = reading.get("per_prompt") if isinstance(reading, dict) else None
    if not isinstance(found, list) or not found:
        return Measured("kl_nats", "drift", missing="the card has no drift; evaluate with --against or --adapter")
    nats = [float(v) if isinstance(v, (int, float)) and math.isfinite(v) else None for v in found]
    # An exact KL can come out a rounding below 0.
    rows = (Row(f"drift:{k}", None if v is None else max(0.0, v)) for k, v in enumerate(nats))
    return Measured("kl_nats", "drift", tuple(rows))


def _floors(path: Path, key: str | None) -> dict[str, float]:
    """ "skill: measure" -> floor, of ``comparison.json`` or ``noise.json``; empty where none was measured."""
    if not path.is_file():
        return {}
    values = read_json(path)
    floors = values.get(key, {}) if key is not None and isinstance(values, dict) else values
    try:
        found = {str(name): float(entry["floor"]) for name, entry in floors.items()}
    except (TypeError, KeyError, AttributeError, ValueError):
        raise UserError(f"{path}: no noise floors as holdfast writes them; evaluate again") from None
    if not all(0 <= floor <= 1 for floor in found.values()):
        raise UserError(f"{path}: a noise floor outside 0 to 1; evaluate again")
    return found


def _provenance(card: CardFiles) -> Provenance:
    path = card.folder / PROVENANCE_FILE
    known = Provenance()
    if path.is_file():
        try:
            known = Provenance.from_dict(read_json(path))
        except (TypeError, AttributeError):
            raise UserError(f"{path}: not as `holdfast evaluate` writes it; evaluate again") from None
    return replace(known, judge=known.judge or _judge(card), card=card.hashes)


def _judge(card: CardFiles) -> dict[str, Any] | None:
    settings = card.values.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    kept = ("judge", "judge_identity", "judge_model", "judge_rubric_version", "max_new_tokens", "system", "seed")
    return {name: settings[name] for name in kept if name in settings} if "judge" in settings else None


def _run_provenance(run: Path, chosen: str, against: str, card: CardFiles) -> Provenance:
    """A run's manifest binds its inputs; its adapters lie beside it."""
    manifest = read_json(run / MANIFEST_FILE) if (run / MANIFEST_FILE).is_file() else {}
    if not isinstance(manifest, dict):
        raise UserError(f"{run / MANIFEST_FILE}: not as `holdfast run` writes it; run again")
    inputs = manifest.get("inputs") if isinstance(manifest.get("inputs"), dict) else None
    numerics = {k: manifest[k] for k in ("python", "machine", "threads", "device", "libraries") if k in manifest}
    code = {"holdfast": manifest["holdfast"]} if "holdfast" in manifest else None
    base = {"model": inputs.get("model"), "recipe": manifest.get("recipe_hash")} if inputs else {}
    return Provenance(
        adapter=_adapter_of(run, chosen),
        reference=_adapter_of(run, against),
        data={**inputs, **base} if inputs else None,
        judge=_judge(card),
        code=code,
        numerics=numerics or None,
        card=card.hashes,
    )


def _adapter_of(run: Path, name: str) -> Bound | None:
    for stage in (f"train-{name}", f"restore-{name}"):
        if (folder := run / STAGES / stage / "adapter").is_dir():
            return replace(bound_files(folder), source=name)
    return None
