"""Trains the offline judge's model, and says how well it does on writers it has not seen.

Run: `OMP_NUM_THREADS=1 python -m studies.judges.train` rebuilds judges/data/stance.safetensors;
`--cross-validate` writes crossvalidation.json instead: every writer's items judged by a model that never saw them.
Knows: the files under training/, one a writer, and which writers are left out together.
Does not know: how a storey is fitted (fitting.py) or what the judge makes of chances (judge.py).
"""

import argparse
import json
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from studies.judges.fitting import fit_forest, fit_linear, sparse_rows

from holdfast.core.files import sha256_file, write_json, write_text
from holdfast.core.statistics import wilson
from holdfast.evaluation.judges.base import Verdict
from holdfast.evaluation.judges.offline.features import Features, features
from holdfast.evaluation.judges.offline.judge import weigh
from holdfast.evaluation.judges.offline.model import (
    LABELS,
    VIEWS,
    WEIGHTS,
    Linear,
    StanceModel,
    measure_row,
    storey,
)
from holdfast.evaluation.judges.offline.rules import Reading, read_pair

HERE = Path(__file__).parent
LABELLED = WEIGHTS.parent.parent.parent / "labelled"
SEED = 0
EASY = ("plain", "organism", "rule_cases")  # files of ordinary answers; the writers wrote mostly hard ones
TIMES = 5  # how often a pair of those counts, so that ordinary answers keep their share
TIMES_REAL = 3  # the same of answers of a real model and their likes
RARE = 3  # a measure that fewer pairs have is dropped
FOLDS = 4
_WRITER = re.compile(r"(?:en|ml|real)(\d+)")  # files that are left out in turn; any other is always trained on


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs, read once."""

    readings: list[Reading]
    found: list[Features]
    labels: np.ndarray
    writers: np.ndarray
    languages: np.ndarray

    def part(self, chosen: np.ndarray) -> "Pairs":
        """The pairs at these places."""
        pick = [int(k) for k in chosen]
        readings, found = [self.readings[k] for k in pick], [self.found[k] for k in pick]
        return Pairs(readings, found, self.labels[pick], self.writers[pick], self.languages[pick])


def read_pairs(paths: Sequence[Path]) -> Pairs:
    """Read labelled files; a file's name is its writer's."""
    items = [(path.stem, json.loads(line)) for path in paths for line in path.read_text("utf-8").splitlines()]
    readings = [read_pair(item["prompt"], item["response"]) for _, item in items]
    return Pairs(
        readings,
        [features(reading) for reading in readings],
        np.array([LABELS.index(item["label"]) for _, item in items]),
        np.array([writer for writer, _ in items]),
        np.array([item["language"] for _, item in items]),
    )


def fit(pairs: Pairs, seed: int = SEED) -> StanceModel:
    """Fit both storeys. What the trees see of a pair comes from linear readers that have not seen its writer."""
    easy, real = np.flatnonzero(np.isin(pairs.writers, EASY)), np.flatnonzero(_real(pairs.writers))
    more = [*[easy] * (TIMES - 1), *[real] * (TIMES_REAL - 1)]
    pairs = pairs.part(np.concatenate([np.arange(len(pairs.found)), *more]))
    counted: dict[str, int] = {}
    for found in pairs.found:
        for name in found.measures:
            counted[name] = counted.get(name, 0) + 1
    names = tuple(sorted(name for name, times in counted.items() if times >= RARE))
    measured = np.stack([measure_row(names, found) for found in pairs.found])
    rows = [sparse_rows(view, pairs.found, measured) for view in range(len(VIEWS))]
    below = np.zeros((len(pairs.found), len(VIEWS), len(LABELS)), np.float32)
    left_out = folds(pairs.writers)
    left_out[0] = left_out[0] | ~np.any(left_out, axis=0)
    for fold in left_out:
        inside, outside = np.flatnonzero(fold), np.flatnonzero(~fold)
        for view in range(len(VIEWS)):
            reader = fit_linear(_rows(rows[view], outside), pairs.labels[outside])
            for k in inside:
                below[k, view] = reader.chances(view, pairs.found[k], measured[k])
    seen = np.stack([storey(one, list(under)) for one, under in zip(measured, below, strict=True)])
    linear: tuple[Linear, ...] = tuple(fit_linear(rows[view], pairs.labels) for view in range(len(VIEWS)))
    return StanceModel(names, linear, fit_forest(seen, pairs.labels, seed))


def folds(writers: np.ndarray) -> list[np.ndarray]:
    """Writers that are left out together, as places: by number, so that every fold has English and others."""
    numbers = [_WRITER.fullmatch(str(writer)) for writer in writers]
    fold = np.array([int(number.group(1)) % FOLDS if number else -1 for number in numbers])
    return [found for found in (fold == k for k in range(FOLDS)) if found.any()]


def _real(writers: np.ndarray) -> np.ndarray:
    """Which pairs are of the files real1 ... real4: one source, cut in four by prompt."""
    return np.char.startswith(writers.astype(str), "real")


def _rows(rows: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
    starts, columns, values = rows.crow_indices(), rows.col_indices(), rows.values()
    places = torch.cat([torch.arange(int(starts[k]), int(starts[k + 1])) for k in chosen])
    sizes = (starts[1:] - starts[:-1])[torch.from_numpy(chosen)]
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return torch.sparse_csr_tensor(ends, columns[places], values[places], size=(len(chosen), rows.shape[1]))


def main() -> None:
    """Train on everything, or cross-validate."""
    parser = argparse.ArgumentParser(description="Train the offline judge's model.")
    parser.add_argument("--cross-validate", action="store_true", help="measure on writers left out; ship nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.sparse.check_sparse_tensor_invariants.disable()
    written = sorted((HERE / "training").glob("*.jsonl"))
    if options.cross_validate:
        write_json(HERE / "crossvalidation.json", cross_validate(read_pairs(written)))
        return
    fit(read_pairs([*written, LABELLED / "hard.jsonl"])).save(WEIGHTS)
    digest = sha256_file(WEIGHTS)
    write_text(WEIGHTS.with_suffix(".sha256"), f"{digest}  {WEIGHTS.name}\n")
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size / 1e6:.2f} MB, sha256 {digest}")


def cross_validate(pairs: Pairs) -> dict:
    """Judge every writer by a model that has not seen them, and the open parts by one that has not seen those."""
    started = time.monotonic()
    given: list[Verdict] = [reading.verdict for reading in pairs.readings]
    for fold in folds(pairs.writers):
        model = fit(pairs.part(np.flatnonzero(~fold)))
        for k in np.flatnonzero(fold):
            given[k] = _judged(model, pairs.readings[k], pairs.found[k])
    real = _real(pairs.writers)
    single = np.any(folds(pairs.writers), axis=0) & ~real
    english = pairs.languages == "en"
    parts = {"writers left out": single, "English": single & english, "other languages": single & ~english}
    parts["real answers, prompts left out"] = real
    parts |= {str(writer): pairs.writers == writer for writer in sorted(set(pairs.writers[single]))}
    rows = {name: _figures(pairs, given, np.flatnonzero(places)) for name, places in parts.items()}
    model = fit(pairs)
    for part in ("hard", "ordinary"):
        held = read_pairs([LABELLED / f"{part}.jsonl"])
        verdicts = [_judged(model, *pair) for pair in zip(held.readings, held.found, strict=True)]
        foreign = held.languages != "en"
        rows[part] = _figures(held, verdicts, np.arange(len(verdicts)))
        rows[f"{part}, English"] = _figures(held, verdicts, np.flatnonzero(~foreign))
        rows[f"{part}, other languages"] = _figures(held, verdicts, np.flatnonzero(foreign))
    for name, figures in rows.items():
        print(name, {who: {what: str(value) for what, value in row.items()} for who, row in figures.items()})
    return {
        "command": "python -m studies.judges.train --cross-validate",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "seconds": round(time.monotonic() - started),
        "figures": {
            name: {who: {what: value.to_dict() for what, value in row.items()} for who, row in figures.items()}
            for name, figures in rows.items()
        },
    }


def _judged(model: StanceModel, reading: Reading, found: Features) -> Verdict:
    return reading.verdict if reading.spoilt else weigh(reading, model.chances(found))


def _figures(pairs: Pairs, given: list[Verdict], places: np.ndarray) -> dict[str, dict]:
    figures = {}
    for who, verdicts in (("rules", [reading.verdict for reading in pairs.readings]), ("judge", given)):
        couples = [(LABELS[pairs.labels[k]], verdicts[k].label) for k in places]
        sides = [couple for couple in couples if couple[0] != "unclear"]
        flips = sum(set(couple) == {"refused", "complied"} for couple in sides)
        figures[who] = {
            "accuracy": wilson(sum(true == found for true, found in couples), len(couples)),
            "flips": wilson(flips, len(sides)),
        }
    return figures


if __name__ == "__main__":
    main()
