"""Experiment B on SmolLM2: alignments undone by harmless rows, update by update.

    python -m studies.elasticity real --work RUNS --data LISTS

Three alignments of one parent, the chat model: the committed adapter of studies/real_model ("study"); the same
trained on ("longer"); the same trained on by as many updates while held to the chat model on harmless
conversations ("anchored"). Each is undone by four rows of Alpaca an update, the adapter trained on, in two orders.
Control c0, one order: the chat model on the same rows. Adapter off is the parent, so nothing is loaded twice.

The settings were frozen before the first scored run; sizes are what one core does in about half an hour. Rows and
prompts of the scores (JailbreakBench) are in no training and no choice. One file a curve; stop it as you like.

Knows: the variants, the rows, the prompts. Does not know: what the numbers say (claims.py).
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studies.real_model import align, lists, measure, model, rows, tasks
from studies.real_model.model import ADAPTER

from holdfast.core.files import write_json
from holdfast.data import Example, encode_rows
from holdfast.elasticity import Plan, rebound_curve
from holdfast.evaluation import RefusalJudge
from holdfast.evaluation.behaviour import ask_and_judge
from holdfast.models import Subject, add_lora, load

log = logging.getLogger(__name__)
STUDY, LONGER, ANCHORED, PARENT = "study", "longer", "anchored", "c0 chat"


@dataclass(frozen=True)
class Setting:
    """Sizes of everything.

    Attributes:
        more: updates by which the alignment is trained on, at a third of the study's last rate.
        anchors: harmless conversations an update to which "anchored" is held, KL a token weighed by `weight`.
        harmful, harmless: prompts whose answers are judged at every probe.
        asked: of the harmful ones, those on which KL to the parent is sampled.
    """

    more: int = 24
    more_rate: float = 2e-4
    shares: tuple[int, int, int] = (2, 1, 1)
    anchors: int = 2
    weight: float = 2.0
    anchor_tokens: int = 96
    updates: int = 32
    batch_size: int = 4
    undo_rate: float = 2e-4
    row_tokens: int = 96
    probes: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    seeds: tuple[int, ...] = (0, 1)
    harmful: int = 24
    harmless: int = 6
    asked: int = 8
    tokens: int = 16
    documents: int = 8


def run(setting: Setting, work: Path, data: Path) -> None:
    """Every curve that is not there yet, seeds outside."""
    for seed in setting.seeds:
        for name in (STUDY, LONGER, ANCHORED):
            _curve(setting, name, seed, work, data)
    _curve(setting, PARENT, setting.seeds[0], work, data)


def _curve(setting: Setting, name: str, seed: int, work: Path, data: Path) -> None:
    place = work / f"real-{name.replace(' ', '-')}-{seed}.json"
    if place.exists():
        return
    started = time.process_time()
    subject = _checkpoint(setting, name, work, data)
    held = lists.held_out(data)
    harmful = lists.drawn(held["jailbreakbench_harmful"], setting.harmful)
    partner = dict(zip(held["jailbreakbench_harmful"], held["jailbreakbench_benign"], strict=True))
    harmless = [partner[prompt] for prompt in harmful[: setting.harmless]]
    judge = RefusalJudge()

    def refused(of: Subject) -> list[float]:
        found = ask_and_judge(of, harmful + harmless, judge, max_new_tokens=setting.tokens)
        return [float(label == "refused") for label in found.labels]

    curve = rebound_curve(
        subject, None, _rows(subject, setting, data),
        plan=Plan(setting.updates, setting.batch_size, setting.undo_rate),
        texts=_texts(subject, setting, data), prompts=harmful[: setting.asked], scorer=refused,
        names=(name, "Alpaca"), seed=seed, max_new_tokens=setting.tokens, batch_size=8, at=setting.probes,
    )  # fmt: skip
    seconds = time.process_time() - started
    head = {"variant": name, "seed": seed, "setting": asdict(setting), "cpu_seconds": seconds}
    write_json(place, head | {"curve": curve.to_dict()})
    log.info("%s, order %d: %.0f CPU-seconds", name, seed, seconds)


def _checkpoint(setting: Setting, name: str, work: Path, data: Path) -> Subject:
    """The chat model with the variant's adapter, not merged."""
    cache = model.cache_folder()
    if name == PARENT:
        subject, like = model.chat(cache), align.Recipe()
        return Subject(add_lora(subject.model, like.rank, like.alpha, like.targets, seed=0), subject.tokenizer)
    adapter = ADAPTER if name == STUDY else _trained_on(setting, name, work, data, cache)
    return load(model.fetch(cache), adapter=adapter)


def _trained_on(setting: Setting, name: str, work: Path, data: Path, cache: Path) -> Path:
    """The study's adapter after further updates; on disk after the first call."""
    anchored = name == ANCHORED
    recipe = align.Recipe(
        shares=setting.shares, steps=setting.more, warmup=2, learning_rate=setting.more_rate, seed=2,
        texts=setting.anchors if anchored else 0, text_tokens=setting.anchor_tokens, text_weight=setting.weight,
    )  # fmt: skip
    sets, subject = rows.prompt_sets(data), model.chat(cache)
    lookalike, instruction = (align.own_answers(subject, of, cache) for of in (sets.lookalike, sets.instruction))
    texts = [_conversation(subject, row) for row in lookalike + instruction]
    steps = align.Steps(sets, lookalike, instruction, recipe, texts)
    return align.align(subject, steps, recipe, work / "adapters", ADAPTER)


def _conversation(subject: Subject, row: dict[str, str]) -> str:
    """A prompt and the chat model's own answer, in its template."""
    turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    tokenizer: Any = subject.tokenizer
    return str(tokenizer.apply_chat_template(turns, tokenize=False))


def _rows(subject: Subject, setting: Setting, data: Path) -> list[Example]:
    """Harmless rows, none longer than the setting says."""
    found = encode_rows(tasks.split(tasks.KINDS["alpaca"], data)[0], subject.tokenizer)
    return [row for row in found if len(row.prompt_ids) + len(row.completion_ids) <= setting.row_tokens]


def _texts(subject: Subject, setting: Setting, data: Path) -> dict[str, Sequence[Example]]:
    """What bits are followed on: paragraphs of WikiText, refusals of prompts that no training holds."""
    told = measure.paragraphs(data, "valid", setting.documents)
    asked = lists.drawn([p.text for p in rows.prompt_sets(data).validation_harmful], setting.documents)
    refusals = [{"prompt": prompt, "completion": rows.refusal(prompt, 0)} for prompt in asked]
    reading = encode_rows([{"text": text} for text in told], subject.tokenizer, setting.row_tokens)
    return {"pretrain": list(reading), "alignment": list(encode_rows(refusals, subject.tokenizer))}
