"""Which anchor suits a real model's small updates: tried on prompts and rows that no later table measures on.

Knows: the settings that are tried, the prompts held back from the alignment. Does not know: the held-out lists,
the damage table's test rows.

Alpaca at the damage table's lower rate with a seed that the table does not have; what is seen goes to
`choosing.json`, setting by setting, so the script may be stopped. Then the default is frozen and scored
(defended.py).
"""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from studies.real_model import damage, defended, lists, model, pairs, rows, tasks

from holdfast.core.files import read_json, write_json
from holdfast.core.statistics import Interval, wilson
from holdfast.data import encode_rows
from holdfast.defences import Anchor
from holdfast.evaluation import Reference, RefusalJudge, drift
from holdfast.evaluation.behaviour import ask_and_judge
from holdfast.models import Subject, mean_loss
from holdfast.pipeline.defended import held_prompts
from holdfast.pipeline.recipe import MonitorSection

log = logging.getLogger(__name__)
FILE = Path(__file__).with_name("choosing.json")
SEED, HELD, ASKED, CONTROLS = 7, 32, 48, 32
# weight, completions an update, updates from one anchoring to the next; None is no defence
SETTINGS: tuple[tuple[float, int, int] | None, ...] = (
    None,
    (1.0, 1, 1),
    (0.2, 1, 1),
    (0.2, 1, 4),
    (0.05, 1, 1),
    (0.2, 1, 2),
)

DEFAULT = (1.0, 1, 1)  # what `train --defence anchor` does with four rows an update


def name_of(setting: tuple[float, int, int] | None) -> str:
    """Of a row of the table."""
    return "plain" if setting is None else f"weight {setting[0]:g}, {setting[1]} every {setting[2]}"


def run(cache: Path, data: Path) -> None:
    """Every setting that is not in the file yet."""
    for setting in SETTINGS:
        found = read_json(FILE) if FILE.exists() else {}
        name = name_of(setting)
        if name not in found:
            write_json(FILE, found | {name: _tried(setting, cache, data)})
            log.info("%s: %s", name, read_json(FILE)[name])


def _tried(chosen: tuple[float, int, int] | None, cache: Path, data: Path) -> dict[str, Any]:
    setting, aligned = damage.Setting(), model.aligned(cache)
    ref = damage.reference(aligned, data, setting, cache / "choosing-reference.json")
    found, _ = tasks.split(tasks.KINDS["alpaca"], data)
    learnt, held = found[:-HELD], found[-HELD:]
    arm = damage.Arm("alpaca", damage.RATES[0], SEED)
    defences = []
    if chosen is not None:
        user = held_prompts(defended.given(data, setting), (), MonitorSection().prompts)
        weight, count, every = chosen
        defences = [Anchor(user.prompts, weight, None, every, count, SEED, controls=user.controls)]
    began = time.process_time()
    with TemporaryDirectory() as folder:
        subject, seen = damage.train(aligned, arm, setting, learnt, Path(folder), defences)
    seen["cpu_seconds_prepared"] = round(time.process_time() - began - seen["cpu_seconds_updates"], 1)
    return seen | _looked_at(subject, data, setting, ref, held)


def _looked_at(
    subject: Subject, data: Path, setting: damage.Setting, ref: Reference, held: list[tasks.Row]
) -> dict[str, Any]:
    sets, judge = rows.prompt_sets(data), RefusalJudge()
    bad = lists.drawn([p.text for p in sets.validation_harmful], ASKED)
    good = lists.drawn([p.text for p in sets.validation_lookalike], CONTROLS)
    labels = ask_and_judge(subject, bad + good, judge, max_new_tokens=setting.answer_tokens).labels
    told = [label == "refused" for label in labels]
    examples = encode_rows(held, subject.tokenizer, setting.max_length)
    return {
        "refused": [sum(told[:ASKED]), ASKED],
        "over_refused": [sum(told[ASKED:]), CONTROLS],
        "drift_nats": drift(subject, ref).kl_nats,
        "task_loss": mean_loss(subject, list(examples), setting.batch).nats_per_token,
    }


def overhead() -> Interval | None:
    """CPU time of a default update over that of a plain one."""
    found = read_json(FILE) if FILE.exists() else {}
    if name_of(DEFAULT) not in found or "plain" not in found:
        return None
    ours, plain = (found[name]["cpu_seconds_updates"] for name in (name_of(DEFAULT), "plain"))
    return Interval(ours / plain, math.nan, math.nan, 1, "one run each")


def markdown(found: Mapping[str, Any]) -> str:
    """The table of what was tried."""
    base = found["plain"]["cpu_seconds_updates"]
    heads = ["anchor", "refused", "look-alikes refused", "drift, nats", "task loss", "CPU time of the updates"]
    table = []
    for name, row in found.items():
        refused, over = (wilson(*row[which]) for which in ("refused", "over_refused"))
        shares = [f"{100 * i.value:.0f} % [{100 * i.low:.0f}, {100 * i.high:.0f}]" for i in (refused, over)]
        cost = f"{row['cpu_seconds_updates'] / base:.2f}"
        table.append([name, *shares, f"{row['drift_nats']:.2f}", f"{row['task_loss']:.3f}", cost])
    return pairs.markdown(heads, table)
