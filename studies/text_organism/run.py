"""Fine-tunes the aligned real-text model on GSM8K in every arm and seed, and measures what is left of refusal.

    python -m studies.text_organism.run --data ../shared/data --seeds 3

Knows the arms, the fine-tuning setting and what is measured before and after. Does not know how the model was
made (build.py) or what the numbers add up to (summary.py). Every run is one folder in the cache and is not
repeated; answers stay there, only aggregates reach the checkout.
"""

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from studies.text_organism import build, corpus, summary

from holdfast.core.files import hash_json, new_folder, read_json, write_json
from holdfast.data import Example, encode_rows
from holdfast.evaluation import Reference, Scorecard, Skill, SkillSplit, evaluate
from holdfast.models import Subject, load, mean_loss
from holdfast.selection import OnlineSelection
from holdfast.training import DriftBudget, DriftMonitor, GuardedTrainer, cpu_safe_args

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What every arm shares."""

    steps: int = 60
    batch: int = 16
    pool: int = 32
    learning_rate: float = 1e-3
    max_length: int = 320
    test_rows: int = 200
    answer_tokens: int = 32
    reference_prompts: int = 64
    monitor_every: int = 10


@dataclass(frozen=True)
class Arm:
    """One way to fine-tune. `rule` None trains on a plain batch; else on half a pool of twice the size."""

    name: str
    rule: str | None = None
    loss_filter: str = "none"
    max_kl_nats: float | None = None
    monitor_every: int | None = None


# The sigma filter is part of the moderate rule as published; `low` and the length-matched control share it, so
# that they differ from `moderate` in the norm alone. `random` and 1/length need no model and get no filter.
ARMS = (
    Arm("plain"),
    Arm("random", "random"),
    Arm("moderate", "moderate", "sigma"),
    Arm("low", "low", "sigma"),
    Arm("inverse_length", "inverse_length"),
    Arm("length_matched_random", "length_matched_random", "sigma"),
    Arm("moderate_budget", "moderate", "sigma", max_kl_nats=2.0, monitor_every=5),
)


@dataclass(frozen=True)
class Bench:
    """What runs are measured on; built once from the aligned model."""

    skills: tuple[Skill, ...]
    reference: Reference
    train: Sequence[Example]
    test: Sequence[Example]


def skills_of(lists: dict[str, list[str]], prompts: corpus.AlignmentPrompts) -> tuple[Skill, ...]:
    """Every list as a skill whose whole content is for evaluation; nothing here is fitted."""

    def skill(name: str, harmful: Sequence[str], benign: Sequence[str] = ()) -> Skill:
        return Skill(name, evaluate=SkillSplit(tuple(harmful), tuple(benign)))

    return (
        skill("advbench", lists["advbench"]),
        skill("xstest", lists["xstest_unsafe"], lists["xstest_safe"]),
        skill("strongreject", lists["strongreject"]),
        skill("jailbreakbench", lists["jailbreakbench_harmful"], lists["jailbreakbench_benign"]),
        skill(
            "same_lists",
            [p.prompt for p in prompts.held_out_harmful],
            [p.prompt for p in prompts.held_out_lookalike],
        ),
    )


def bench(data: Path, aligned: Subject, setting: Setting, seed: int) -> Bench:
    """The reference for drift is sampled on refused prompts of alignment, never on an evaluation list."""
    prompts = corpus.alignment_prompts(data, seed)
    seen = [p.prompt for p in prompts.harmful]
    stride = max(1, len(seen) // setting.reference_prompts)
    reference = Reference.of(aligned, seen[::stride][: setting.reference_prompts], max_new_tokens=32, seed=seed)
    train = encode_rows(corpus.gsm8k_rows(data, "finetune"), aligned.tokenizer, setting.max_length)
    test = encode_rows(corpus.gsm8k_rows(data, "test")[: setting.test_rows], aligned.tokenizer, setting.max_length)
    return Bench(skills_of(corpus.evaluation_lists(data), prompts), reference, train, test)


def measure(subject: Subject, on: Bench, setting: Setting) -> tuple[Scorecard, float]:
    """Judged answers and drift, and the loss on held-out GSM8K in nats a token."""
    card = evaluate(
        subject, on.skills, reference=on.reference, batch_size=64, max_new_tokens=setting.answer_tokens
    )
    return card, mean_loss(subject, on.test).nats_per_token


def fine_tune(subject: Subject, arm: Arm, on: Bench, setting: Setting, seed: int, out: Path) -> dict:
    """Train in place; returns what the monitor and the filter recorded."""
    args = cpu_safe_args(
        output_dir=str(out / "trainer"),
        max_steps=setting.steps,
        per_device_train_batch_size=setting.batch if arm.rule is None else setting.pool,
        learning_rate=setting.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        seed=seed,
        data_seed=seed,
    )
    monitor = DriftMonitor(
        on.reference,
        every=arm.monitor_every or setting.monitor_every,
        budget=DriftBudget(max_kl_nats=arm.max_kl_nats) if arm.max_kl_nats is not None else None,
        task=on.test[:64],
    )
    selection = None
    if arm.rule is not None:
        selection = OnlineSelection(
            keep=setting.batch / setting.pool, rule=arm.rule, loss_filter=arm.loss_filter, seed=seed
        )
    trainer = GuardedTrainer(
        model=subject, args=args, train_dataset=on.train, selection=selection, callbacks=[monitor]
    )
    trainer.train()
    chosen = trainer.selection_trace
    return {
        "trace": monitor.trace,
        "stopped": monitor.stopped.to_dict() if monitor.stopped else None,
        "steps": monitor.stopped.restored_step if monitor.stopped else int(trainer.state.global_step),
        "kept_a_step": sum(row["kept"] for row in chosen) / len(chosen) if chosen else float(setting.batch),
        "kept_tokens_a_step": sum(row["kept_tokens"] for row in chosen) / len(chosen) if chosen else None,
    }


def run_folder(aligned: Path, arm: Arm | None, setting: Setting, seed: int) -> Path:
    """Where one run is kept: its name carries a hash of everything it depends on."""
    name = arm.name if arm else "before"
    key = hash_json({"arm": asdict(arm) if arm else None, "setting": asdict(setting), "aligned": aligned.name})
    return aligned.parent / "runs" / f"{name}-{seed}-{key[:8]}"


def run_once(aligned: Path, arm: Arm | None, on: Bench, setting: Setting, seed: int) -> Path:
    """One arm with one seed, or with `arm` None the aligned model as it is."""
    folder = run_folder(aligned, arm, setting, seed)
    if (folder / "run.json").exists():
        return folder
    wall, cpu = time.monotonic(), time.process_time()
    subject = load(aligned)
    with new_folder(folder) as out:
        record: dict = {"arm": arm.name if arm else "before", "seed": seed}
        if arm is not None:
            record |= fine_tune(subject, arm, on, setting, seed, out)
        subject.model.eval()
        card, loss = measure(subject, on, setting)
        card.save(out / "card")
        record |= {
            "task_loss_nats_per_token": loss,
            "wall_seconds": round(time.monotonic() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }
        write_json(out / "run.json", record)
    found = card.skill("advbench").refusal
    log.info("%s seed %d: AdvBench %s, task loss %.3f", record["arm"], seed, found, loss)
    return folder


def latest_aligned(cache: Path) -> Path:
    """The newest aligned model in the cache."""
    found = sorted(cache.glob("aligned-*/manifest.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"no aligned model in {cache}; run studies.text_organism.build first")
    return found[-1].parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", help="shared data folder (default: $HOLDFAST_SHARED_DATA or ../shared/data)")
    parser.add_argument("--cache", help="cache root (default: $HOLDFAST_CACHE or ~/.cache/holdfast)")
    parser.add_argument("--arms", nargs="*", default=[arm.name for arm in ARMS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-summary", action="store_true", help="run only; leave results.json alone")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    data, setting = corpus.data_folder(options.data), Setting()
    aligned = latest_aligned(build.cache_folder(options.cache))
    on = bench(data, load(aligned), setting, read_json(aligned / "manifest.json")["seed"])
    folders = [run_once(aligned, None, on, setting, 0)]
    for seed in range(options.seeds):  # seeds outside: a half-finished study has whole seeds
        folders += [run_once(aligned, arm, on, setting, seed) for arm in ARMS if arm.name in options.arms]
    if not options.no_summary:
        summary.write(aligned, folders, asdict(setting), [asdict(arm) for arm in ARMS])


if __name__ == "__main__":
    main()
