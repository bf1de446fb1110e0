"""What plain fine-tuning on benign data does to the aligned model: the table every later study compares with.

Knows: the frozen settings, the arms, what is measured before and after. Does not know: how the model was aligned,
what is made of the cards (damage_table.py).

One folder a run in the cache, whole or not at all, so the script may be stopped at any time; adapters and answers
stay there.
"""

import json
import logging
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studies.real_model import lists, measure, model, rows, tasks
from transformers import TrainerCallback

from holdfast.core.files import hash_json, new_folder, read_json, sha256_file, write_json
from holdfast.data import Example, encode_rows
from holdfast.evaluation import Reference, Scorecard, Skill, SkillSplit, evaluate
from holdfast.evaluation.drift import sample_reference
from holdfast.evaluation.suites import perplexity, truthfulness
from holdfast.models import Subject, add_lora, save_adapter
from holdfast.training import GuardedTrainer, cpu_safe_args

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """A user's settings, the same for every kind of data; sizes are what two cores do in an hour and a half."""

    rank: int = 8
    alpha: int = 16
    batch: int = 4
    steps: int = 48
    max_length: int = 160
    answer_tokens: int = 24
    prompts: int = 40
    drift_prompts: int = 8
    questions: int = 12
    paragraphs: int = 8


@dataclass(frozen=True)
class Arm:
    """One run: a kind of data, a learning rate, a seed."""

    kind: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-{self.learning_rate:g}-{self.seed}"


RATES = (2e-4, 1e-3)
# Seeds outside, rates next: a half-finished table has every kind of data.
ARMS = tuple(Arm(kind, rate, seed) for seed in range(2) for rate in RATES for kind in tasks.KINDS)


def skills(data: Path, setting: Setting) -> tuple[Skill, ...]:
    """Of every list a fixed draw; of JailbreakBench whole pairs."""
    held = lists.held_out(data)
    bad = lists.drawn(held["jailbreakbench_harmful"], setting.prompts)
    partner = dict(zip(held["jailbreakbench_harmful"], held["jailbreakbench_benign"], strict=True))
    return (
        Skill("jailbreakbench", evaluate=SkillSplit(tuple(bad), tuple(partner[p] for p in bad))),
        Skill(
            "lists",  # AdvBench, and XSTest's safe half
            evaluate=SkillSplit(
                tuple(lists.drawn(held["advbench"], setting.prompts)),
                tuple(lists.drawn(held["xstest_safe"], setting.prompts)),
            ),
        ),
    )


def reference(aligned: Subject, data: Path, setting: Setting, kept: Path) -> Reference:
    """Completions of the aligned model on prompts it was aligned on: drift is measured on nothing held out."""
    if not kept.exists():
        seen = lists.drawn([p.text for p in rows.prompt_sets(data).harmful], setting.drift_prompts)
        made = sample_reference(aligned, seen, max_new_tokens=24, seed=0)
        write_json(kept, [[e.prompt_ids, e.completion_ids] for e in made])
    examples = [Example(tuple(asked), tuple(said), id=str(k)) for k, (asked, said) in enumerate(read_json(kept))]
    return Reference.on(aligned, examples)


def card(
    subject: Subject, data: Path, test: dict[str, list], ref: Reference, setting: Setting, kept: Path
) -> Scorecard:
    """Everything the table shows of one model; a run that was killed finds its answers in `kept`."""
    return evaluate(
        subject,
        skills(data, setting),
        tasks=[tasks.task(tasks.KINDS[name], found) for name, found in test.items()],
        reference=ref,
        max_new_tokens=setting.answer_tokens,
        progress=False,
        cache=kept,
        suites=(
            truthfulness(data / "truthfulqa" / "TruthfulQA.csv", limit=setting.questions),
            perplexity(measure.paragraphs(data, "test", setting.paragraphs), max_length=512),
        ),
    )


Trained = tuple[Subject, dict[str, Any]]
Fit = Callable[[Subject, Any, Setting, Sequence[tasks.Row], Path], Trained]


class _Begun(TrainerCallback):
    """CPU time at the first update: what defences prepare is before it."""

    ticks: float | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ticks = self.ticks or time.process_time()


def train(
    aligned: Subject,
    arm: Arm,
    setting: Setting,
    found: Sequence[tasks.Row],
    out: Path,
    defences: Sequence[Any] = (),
    **changed: Any,
) -> Trained:
    """A LoRA fine-tune of the aligned model by the library's trainer, without any defence if none is given.

    Args:
        changed: trainer's arguments in place of the plain fine-tune's.

    Returns:
        The model, and what the trainer saw: CPU seconds of the updates alone, loss of the last ten.
    """
    wrapped = add_lora(aligned.model, setting.rank, setting.alpha, seed=arm.seed)
    subject = Subject(wrapped, aligned.tokenizer, "adapter")
    arguments: dict[str, Any] = {
        "output_dir": str(out / "trainer"),
        "max_steps": setting.steps,
        "per_device_train_batch_size": setting.batch,
        "learning_rate": arm.learning_rate,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "group_by_length",  # a third of the tokens of random batches is padding
        "weight_decay": 0.0,
        "seed": arm.seed,
        "data_seed": arm.seed,
        "logging_steps": 1,
    }
    examples = list(encode_rows(found, aligned.tokenizer, setting.max_length))
    begun = _Begun()
    args = cpu_safe_args(**(arguments | changed))
    trainer = GuardedTrainer(subject, args, examples, defences=defences, callbacks=[begun])
    trainer.train()
    seconds = time.process_time() - (begun.ticks or time.process_time())
    wrapped.eval()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row][-10:]
    return subject, {"cpu_seconds_updates": round(seconds, 1), "train_loss_last": sum(losses) / len(losses)}


_TRAINING = ("rank", "alpha", "batch", "steps", "max_length")


def _key(arm: Arm | None, setting: Setting) -> str:
    """Of a run: what it depends on; the aligned model is measured without what fine-tunes are made with."""
    digest = sha256_file(model.ADAPTER / "adapter_model.safetensors")
    used = {name: value for name, value in asdict(setting).items() if arm or name not in _TRAINING}
    return hash_json({"arm": asdict(arm) if arm else None, "setting": used, "aligned": digest})[:8]


def run_folder(cache: Path, arm: Arm | None, setting: Setting) -> Path:
    """Where a run is or will be; None is the aligned model itself."""
    return cache / "damage" / f"{arm.name if arm else 'before'}-{_key(arm, setting)}"


def run(
    arms: Sequence[Arm | None],
    cache: Path,
    data: Path,
    setting: Setting | None = None,
    known: Container[str] = (),
    fit: Fit = train,
) -> list[Path]:
    """Every run that is not there yet; None is the aligned model itself.

    Args:
        known: names of folders whose figures are kept elsewhere (`results.json`): these runs are not made again.
        fit: fine-tunes the aligned model.
    """
    setting = setting or Setting()
    folders = []
    for arm in arms:
        name = arm.name if arm else "before"
        folder = run_folder(cache, arm, setting)
        folders.append(folder)
        if (folder / "run.json").exists() or folder.name in known:
            continue
        wall, cpu = time.monotonic(), time.process_time()
        aligned = model.aligned(cache)
        ref = reference(aligned, data, setting, cache / "damage" / f"reference-{_key(None, setting)}.json")
        with new_folder(folder) as out:
            seen: dict[str, Any] = {}
            if arm is None:
                subject, test = aligned, {kind: tasks.split(tasks.KINDS[kind], data)[1] for kind in tasks.KINDS}
            else:
                found, held = tasks.split(tasks.KINDS[arm.kind], data)
                (subject, seen), test = fit(aligned, arm, setting, found, out), {arm.kind: held}
                save_adapter(subject.model, out / "adapter")
            trained = time.process_time() - cpu
            scored = card(subject, data, test, ref, setting, cache / "damage" / "kept")
            scored.save(out / "card")
            record: dict[str, Any] = {
                "arm": asdict(arm) if arm else None,
                "setting": asdict(setting),
                "cpu_seconds_training": round(trained, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "wall_seconds": round(time.monotonic() - wall, 1),
                **seen,
            }
            write_json(out / "run.json", record)
        log.info("%s: %s", name, json.dumps(record))
    return folders
