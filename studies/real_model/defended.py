"""Fine-tunes of the damage table made again under a defence: the product's default, the paper's rule, two rivals.

Knows: the arms, their order, what each defence is made from. Does not know: how a run is made or measured
(damage.py), claims (defended_table.py).

A defence is made as ``holdfast train`` makes it for a user who gives lists, from prompts that the alignment saw.
The lists that are measured on, and the prompts of the drift, are no part of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from studies.real_model import damage, lists, rows, tasks

from holdfast.evaluation import Skill, SkillSplit
from holdfast.models import Subject
from holdfast.pipeline.defended import defences_of, held_prompts
from holdfast.pipeline.recipe import AdapterSection, ArmSection, MonitorSection, TrainingSection
from holdfast.pipeline.training_run import RunSpec
from holdfast.selection import OnlineSelection

GIVEN = 100  # prompts of each kind that the user's lists have; the monitor's are then not the defence's

WAYS: dict[str, ArmSection] = {
    "anchor": ArmSection(name="anchor", defence="anchor"),
    "anchor-light": ArmSection(name="anchor-light", defence="anchor", weight=0.2),
    "anchor-8": ArmSection(name="anchor-8", defence="anchor"),
    "moderate": ArmSection(name="moderate", rule="moderate", keep=0.2),
    "mixing": ArmSection(name="mixing", defence="mixing", weight=0.1),
    "ewc": ArmSection(name="ewc", defence="ewc", weight=1000.0),
    "lower-rate": ArmSection(name="lower-rate"),
}
# In place of the default's sizes: completions an update, as many controls; updates from one anchoring to the next.
SIZES: dict[str, dict[str, int]] = {"anchor-light": {"every": 2}, "anchor-8": {"per_step": 8}}
LOWER = 0.25  # of the learning rate


@dataclass(frozen=True)
class Defended(damage.Arm):
    """A plain run's settings, and how it is defended."""

    way: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-{self.way}-{self.learning_rate:g}-{self.seed}"

    @property
    def plain(self) -> damage.Arm:
        """The run it is compared with."""
        return damage.Arm(self.kind, self.learning_rate, self.seed)


FIRST = ("sst2", "alpaca", "gsm8k", "dialogsum")


def _arms(way: str, rate: float, seed: int, kinds: Sequence[str] = FIRST) -> list[Defended]:
    return [Defended(kind, rate, seed, way) for kind in kinds]


LOW, HIGH = damage.RATES
# The default first, then what it is compared with; a table that is cut short has whole columns.
RIVALS = ("mixing", "ewc", "lower-rate", "moderate")
ARMS: tuple[Defended, ...] = (
    *_arms("anchor", LOW, 0),
    *_arms("anchor", LOW, 1),
    *(arm for way in SIZES for arm in _arms(way, LOW, 0, ("alpaca",))),
    *(arm for seed in (0, 1) for way in RIVALS for arm in _arms(way, LOW, seed)),
    *_arms("anchor", HIGH, 0, (*FIRST, "obedience")),
    *_arms("anchor", LOW, 0, ("obedience",)),
)


def given(data: Path, setting: damage.Setting, count: int = GIVEN) -> Skill:
    """A user's lists: what the alignment refused and answered, without what drift is measured on."""
    sets = rows.prompt_sets(data)
    drawn = lists.drawn([p.text for p in sets.harmful], setting.drift_prompts + 2 * count)
    drift = drawn[: setting.drift_prompts]
    others = [lists.Prompt("given", text) for text in drawn[setting.drift_prompts :]]
    bad = [p.text for p in lists.without_copies(others, {"drift": drift})[0]][:count]
    good = lists.drawn([p.text for p in sets.lookalike], count)
    return Skill("given", estimate=SkillSplit(tuple(bad), tuple(good)))


def fit(
    aligned: Subject,
    arm: Defended,
    setting: damage.Setting,
    found: Sequence[tasks.Row],
    out: Path,
    data: Path,
) -> damage.Trained:
    """The plain run's rows, adapter and updates, defended."""
    section, monitor = WAYS[arm.way], MonitorSection()
    if section.rule != "none":
        # As many rows trained on an update as plain; drawn at random, for a pool of one length has no spread.
        selection = OnlineSelection(section.keep, section.rule, section.loss_filter, arm.seed)
        pool = round(setting.batch / section.keep)
        return damage.train(
            aligned, arm, setting, found, out, [selection],
            per_device_train_batch_size=pool, train_sampling_strategy="random",
        )  # fmt: skip
    if section.defence is None:
        return damage.train(aligned, arm, setting, found, out, learning_rate=LOWER * arm.learning_rate)
    spec = RunSpec(AdapterSection(), TrainingSection(), section, monitor, arm.seed)
    defences = defences_of(spec, None, held_prompts(given(data, setting), (), monitor.prompts))
    for name, value in SIZES.get(arm.way, {}).items():
        setattr(defences[0], name, value)
    return damage.train(aligned, arm, setting, found, out, defences)


def run(
    arms: Sequence[Defended], cache: Path, data: Path, setting: damage.Setting | None = None, **options: Any
) -> list[Path]:
    """Every run that is not there yet, as :func:`damage.run`."""
    return damage.run(arms, cache, data, setting, fit=partial(fit, data=data), **options)
