"""The README's first table: the real model aligned, fine-tuned plainly, under the anchor, and repaired.

Knows: which runs of the three result files go side by side. Does not know: models, claims.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.real_model import damage, defended, defended_table, pairs, repaired, repaired_table
from studies.real_model.damage_table import Kept, unpacked

from holdfast.core.files import read_json
from holdfast.core.statistics import seeds_and_prompts

RATE = damage.RATES[0]  # the usual one of a LoRA fine-tune
NAMES = {"gsm8k": "GSM8K", "alpaca": "Alpaca", "dialogsum": "DialogSum", "sst2": "SST-2", "obedience": "obedience"}
HEADS = ["192 rows of", "how", "harmful refused", "harmless refused", "task score", "drift, nats", "seeds"]
SHOWN = (("refusal", 100, 0), ("over_refusal", 100, 0), ("task_score", 100, 0), ("drift", 1, 1))


def markdown(results: Mapping[str, Any]) -> str:
    """Markdown; a kind of data without a plain run is left out, and a way without a run."""
    plain: Kept = results["damage"]["kept"]
    others = [
        read_json(table.FILE)["kept"] if table.FILE.exists() else {} for table in (defended_table, repaired_table)
    ]
    ways = [
        ("plain", plain, [arm for arm in damage.ARMS if arm.learning_rate == RATE]),
        (
            "with the anchor",
            others[0],
            [a for a in defended.ARMS if a.way == "anchor" and a.learning_rate == RATE],
        ),
        ("plain, then `restore`", others[1], [arm for arm in repaired.ARMS if arm.learning_rate == RATE]),
    ]
    before = plain[damage.run_folder(Path(), None, damage.Setting()).name]
    rows = [["none", "aligned", *_cells([before], next(iter(before["tasks"])), SHOWN[:2]), "", "", ""]]
    for kind, name in NAMES.items():
        for way, kept, arms in ways:
            named = {
                arm.seed: damage.run_folder(Path(), arm, damage.Setting()).name for arm in arms if arm.kind == kind
            }
            runs = {seed: kept[folder] for seed, folder in named.items() if folder in kept}
            if runs:
                seeds = ", ".join(map(str, runs))
                rows.append([name, way, *_cells(list(runs.values()), kind, SHOWN), seeds])
    return pairs.markdown(HEADS, rows)


def _cells(runs: Sequence[Mapping[str, Any]], kind: str, shown: Sequence[tuple[str, int, int]]) -> list[str]:
    """Mean over seeds with its interval, of every measure."""
    found, values = [], [pairs.with_sums(unpacked(run, kind)) for run in runs]
    for name, scale, digits in shown:
        one = seeds_and_prompts([of[name] for of in values])
        middle, low, high = (f"{scale * x:.{digits}f}" for x in (one.value, one.low, one.high))
        unit = " %" if scale == 100 else ""
        found.append(f"{middle}{unit} [{low}, {high}]")
    return found
