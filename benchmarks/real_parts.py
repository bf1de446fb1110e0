"""What is run on a real model for each verb, and the ordinary training step beside it.

Knows: the public calls of each verb, their sizes here. Does not know: clocks, memory, files.

The subject is what a user has: an aligned chat model and a LoRA adapter of rank 8 on every linear layer. Prompts
are the study's look-alikes, answers are the model's own. Half of the prompts play the harmful ones and a judge by
hash takes the place of the real one: costs do not depend on what is said.

Shapes: B batch, T time.
"""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks import peers
from benchmarks.models import loop_norms
from holdfast import Anchor, DriftMonitor, GuardedTrainer, Skill, Subject, audit, cpu_safe_args, evaluate, restore
from holdfast.core.seeds import derive_seed
from holdfast.data import Batch, Example, collate
from holdfast.evaluation import Reference, SkillSplit, Verdict, drift
from holdfast.geometry import look_ahead
from holdfast.gradients.offline.scorer import score_examples
from holdfast.models import adapter_off
from holdfast.pipeline.recipe import MonitorSection, TrainingSection
from holdfast.pipeline.training_run import monitored_rows
from holdfast.training import RefusalProbe

Work = Callable[[], Any]


@dataclass(frozen=True)
class Sizes:
    """How much of each; the quick ones prove that it runs.

    Attributes:
        lengths: tokens of the rows of the ordinary step's batch.
        steps: of a training run that is timed.
        answers, drift_prompts: of an evaluation, in the proportion that the verb keeps.
        share: of a monitor's default sizes.
        audit_rows, repair_rows: prompts and rows of an audit and of a repair, far below their defaults.
    """

    lengths: tuple[int, ...] = (64, 96)
    steps: int = 2
    answers: int = 48
    drift_prompts: int = 8
    new_tokens: int = 16
    share: float = 0.25
    audit_rows: int = 8
    repair_rows: int = 8
    repair_steps: int = 4


QUICK = Sizes((9, 12), 1, 4, 2, 4, 0.05, 4, 8, 1)
SECTION = MonitorSection()


@dataclass(frozen=True)
class Bench:
    """A subject, its rows and its prompts."""

    subject: Subject
    examples: tuple[Example, ...]
    prompts: tuple[str, ...]
    sizes: Sizes

    @property
    def skill(self) -> Skill:
        """Both halves of the prompts play both parts: estimate and evaluate."""
        half = len(self.prompts) // 2
        split = SkillSplit(self.prompts[:half], self.prompts[half:])
        return Skill("refusal", estimate=split, evaluate=split)


def rows(subject: Subject, lengths: Sequence[int]) -> tuple[Example, ...]:
    """Random tokens of these lengths, the second half of each a completion, as on short instructions."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for number, length in enumerate(lengths):
        ids = torch.randint(2, subject.vocabulary, (length,), generator=draw).tolist()
        found.append(Example(tuple(ids[: length // 2]), tuple(ids[length // 2 :]), f"row{number}"))
    return tuple(found)


def ordinary(bench: Bench) -> Work:
    """The unit: the model's own forward and loss, backward, AdamW on the adapter; no code of this library."""
    model, batch = bench.subject.model, collate(bench.examples, bench.subject.pad_id)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def step() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        asked = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
        model(**asked, labels=batch.labels_BT, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.eval()

    return step


def score(bench: Bench) -> Work:
    """``holdfast score``: exact per-sample norms over the adapter."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            score_examples(bench.subject, bench.examples, folder, progress=False)

    return run


def loop(bench: Bench) -> Work:
    """The same norms by one backward a sample, each alone and unpadded."""
    model, trained = bench.subject.model, dict(bench.subject.parameters())
    alone: list[Batch] = [collate([example], bench.subject.pad_id) for example in bench.examples]
    return lambda: [loop_norms(model, trained, batch) for batch in alone]


def peer(bench: Bench, name: str) -> Work:
    """The same norms from another library, padded like ours; on a copy, for it hooks the model."""
    model, batch = copy.deepcopy(bench.subject.model), collate(bench.examples, bench.subject.pad_id)
    norms = peers.opacus_on(model) if name == "opacus" else peers.bergson_on(model, lora=True)
    return lambda: norms(batch)


def train(bench: Bench, stock: bool = False, anchored: bool = False) -> Work:
    """Steps of plain training (ours or TRL's own), or with the anchor; what comes before them is not counted."""
    dataset = list(bench.examples) * bench.sizes.steps
    arguments = cpu_safe_args(
        per_device_train_batch_size=len(bench.examples), max_steps=bench.sizes.steps, learning_rate=1e-5
    )
    if stock:
        from trl.trainer.sft_trainer import SFTTrainer

        from holdfast.training import dataset_from_examples

        rows_of = dataset_from_examples(dataset)
        names: Any = bench.subject.tokenizer
        return SFTTrainer(bench.subject.model, arguments, train_dataset=rows_of, processing_class=names).train
    guard = [Anchor(bench.prompts[:8], 1.0, max_new_tokens=bench.sizes.new_tokens)] if anchored else []
    return GuardedTrainer(bench.subject, arguments, dataset, defences=guard).train


def monitor(bench: Bench) -> Work:
    """One measurement of a monitor with the verb's default sizes (32 tokens), prompts and rows times ``share``."""
    prompts = bench.prompts[: max(2, round(bench.sizes.share * SECTION.prompts))]
    rows_in_all = monitored_rows(SECTION, "a real model")
    held = (bench.examples * rows_in_all)[: max(1, round(bench.sizes.share * rows_in_all))]
    with adapter_off(bench.subject.model):
        reference = Reference.of(bench.subject, prompts, 2 * bench.sizes.new_tokens, source="stored")
    probe = RefusalProbe(prompts, judge=hashed, max_new_tokens=2 * bench.sizes.new_tokens)
    watching = DriftMonitor(reference, probe=probe, task=held)
    watching.prepare(bench.subject)
    return lambda: watching.measure(bench.subject)


def monitored_over_plain(measurement_units: float, step_units: float, rows_a_unit: int, share: float) -> float:
    """``train`` with monitors over without, at the verb's default pool: one measurement and its steps."""
    return 1 + (measurement_units / share) / (SECTION.every * step_units * TrainingSection().pool / rows_a_unit)


def answer(bench: Bench) -> Work:
    """``holdfast evaluate --no-drift``."""
    return lambda: evaluate(
        bench.subject, [bench.skill], judge=hashed, max_new_tokens=bench.sizes.new_tokens, progress=False
    )


def answer_and_drift(bench: Bench) -> Work:
    """What ``holdfast evaluate --adapter`` adds to the answers: completions sampled, read by both models."""

    def run() -> None:
        prompts = bench.prompts[: bench.sizes.drift_prompts]
        with adapter_off(bench.subject.model):
            reference = Reference.of(bench.subject, prompts, bench.sizes.new_tokens, source="adapter_off")
        drift(bench.subject, reference)

    return run


def look(bench: Bench, whole: bool = False) -> Work:
    """``holdfast audit``, small: the forecast for rows of one source, or the geometry of ``--verbose`` too."""
    count = bench.sizes.audit_rows
    examples = (bench.examples * count)[:count]
    ask = partial(audit, bench.subject, bench.skill, examples) if whole else partial(
        look_ahead, bench.subject, bench.skill, examples, shares=False
    )  # fmt: skip
    return lambda: ask(max_prompts=count, max_new_tokens=bench.sizes.new_tokens // 2, progress=False)


def repair(bench: Bench) -> Work:
    """``holdfast restore``, small."""
    count = bench.sizes.repair_rows
    return lambda: restore(
        bench.subject, bench.skill, list(bench.examples * count), judge=hashed, prompts=(count, count),
        task_examples=(count, count), max_new_tokens=bench.sizes.new_tokens // 2, steps=bench.sizes.repair_steps,
        batch_size=2, progress=False,
    )  # fmt: skip


def hashed(prompt: str, response: str | None) -> Verdict:
    """Refused or complied by a hash, mostly refused."""
    return Verdict("complied" if derive_seed(0, prompt, response or "") % 8 == 0 else "refused", "by a hash")


PARTS: Mapping[str, tuple[str, Callable[[Bench], Work]]] = {
    "score": ("score, the batch's rows", score),
    "loop": ("per-sample loop, the batch's rows", loop),
    "opacus": (
        "opacus, the batch's rows (memory: with a second copy of the model)",
        lambda bench: peer(bench, "opacus"),
    ),
    "bergson": (
        "bergson, the batch's rows (memory: with a second copy of the model)",
        lambda bench: peer(bench, "bergson"),
    ),
    "train": ("train, a step of the batch", train),
    "stock": ("TRL's SFTTrainer, a step of the batch", lambda bench: train(bench, stock=True)),
    "anchor": ("train with the anchor, a step of the batch", lambda bench: train(bench, anchored=True)),
    "monitor": ("one measurement of train's monitors", monitor),
    "answers": ("evaluate, answers alone", answer),
    "drift": ("evaluate, what drift adds", answer_and_drift),
    "audit": ("audit, small", look),
    "geometry": ("audit --verbose, small", lambda bench: look(bench, whole=True)),
    "restore": ("restore, small", repair),
}
