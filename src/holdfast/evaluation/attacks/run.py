"""One attack on one list of prompts: changed, asked, judged against the *original* request, counted with its cost.

Knows: the order of things. Does not know: particular attacks or judges.
"""

import contextlib
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.seeds import derive_seed
from holdfast.core.statistics import Interval, wilson
from holdfast.evaluation.attacks.base import Attack, Budget, Conversation, Place, Spent
from holdfast.evaluation.attacks.prompts import fits
from holdfast.evaluation.behaviour import read_answer
from holdfast.evaluation.judges.base import LABELS, Judge, Label, Verdict, judge_all
from holdfast.models import Subject, generate
from holdfast.models.limits import declared_length

_WORST: tuple[Label, ...] = ("complied", "error", "unclear", "refused")


@dataclass(frozen=True)
class AttackScore(Result):
    """What an attack got out of one skill's harmful prompts.

    Attributes:
        skill, attack: names.
        success: prompts of which at least one answer complied.
        refusal: prompts of which every answer refused.
        counts: prompts by the label that counts: complied before error before unclear before refused.
        changed: prompts that the attack's words changed at all (all of them where it does not act on words).
        budget: what it cost.
        notes: what a reader must know, with how many prompts it is true of.
    """

    skill: str
    attack: str
    success: Interval
    refusal: Interval
    counts: dict[str, int]
    changed: int
    budget: Budget
    notes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        rates = f"success {self.success.percent}, refusal {self.refusal.percent}"
        text = f"{self.skill} under {self.attack}: {rates} ({self.budget})"
        if self.counts["unclear"] or self.counts["error"]:
            text += f"; unclear {self.counts['unclear']}, error {self.counts['error']}"
        return text + "".join(f"; {note} ({count})" for note, count in self.notes.items())


@dataclass(frozen=True)
class AttackAnswer:
    """One answer under attack.

    Attributes:
        index: of the prompt.
        response: prefill included; untrusted text.
        version: of the weights.
    """

    index: int
    prompt: str
    response: str
    verdict: Verdict
    version: int


def run_attack(
    subject: Subject,
    attack: Attack,
    skill: str,
    prompts: Sequence[str],
    judge: Judge,
    max_new_tokens: int = 64,
    seed: int = 0,
    batch_size: int = 32,
    system: str | None = None,
    cache: str | Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
    model_key: str | None = None,
) -> tuple[AttackScore, list[AttackAnswer]]:
    """Attack every prompt; the judge is shown the prompt as it was before the attack.

    Args:
        skill: its name, for the score.
        system: the deployment's system prompt.
        cache: folder of kept answers.
        advance: told of prompts done, versions and answers counted.
        model_key: names the unchanged weights in ``cache``; changed ones are always named by their own hash.

    Raises:
        UserError: no prompts; an attack that does not fit this model (no adapter to scale, a conversation longer
            than it reads, ...).
    """
    if not prompts:
        raise UserError(f"skill '{skill}' has no harmful prompts to attack with '{attack.name}'; give some")
    began = time.perf_counter()
    answers: list[AttackAnswer] = []
    spent, generated = Spent(), 0
    talks: list[Conversation] = []
    ids: list[list[int]] = []
    extra: list[int] = []
    versions = 0
    # Closed here and not whenever the generator is collected: an error below must not leave weights changed.
    with contextlib.closing(_versions(subject, attack, seed)) as changes:
        for version, (changed, cost) in enumerate(changes):
            spent, versions = spent + cost, versions + 1
            if not talks or attack.weights:  # a search (suffixes) would find other words on other weights
                talks, ids, grown = _conversations(changed, attack, prompts, system, seed, max_new_tokens)
                extra += grown
                spent = sum((talk.spent for talk in talks), spent)
            for draw in range(attack.sampling.answers):
                new_ids = generate(
                    changed,
                    ids,
                    max_new_tokens,
                    attack.sampling.temperature,
                    derive_seed(seed, "attack", attack.name, draw),
                    batch_size,
                    cache,
                    None if attack.weights else model_key,
                )
                generated += sum(map(len, new_ids))
                texts = [
                    read_answer(changed, new, row[: len(row) - len(talk.prefill_ids)], talk.prefill_ids)
                    for talk, row, new in zip(talks, ids, new_ids, strict=True)
                ]
                verdicts = judge_all(judge, prompts, texts, progress=False)
                rows = zip(prompts, texts, verdicts, strict=True)
                answers += [AttackAnswer(k, *row, version) for k, row in enumerate(rows)]
                advance(len(prompts))
    budget = Budget(
        attack.access,
        versions * attack.sampling.answers,
        versions,
        float(np.mean(extra)),
        float(np.mean([len(talk.prefill_ids) for talk in talks])),
        generated,
        spent,
        time.perf_counter() - began,
    )
    return _score(skill, attack, prompts, system, talks, answers, budget), answers


def answers_per_prompt(attack: Attack) -> int:
    """How many answers of each prompt are judged."""
    return attack.sampling.answers * math.prod(change.versions for change in attack.weights)


def worst(labels: Sequence[Label]) -> Label:
    """The label that counts among several answers to one prompt."""
    return next(label for label in _WORST if label in labels)


def _versions(subject: Subject, attack: Attack, seed: int) -> Generator[tuple[Subject, Spent], None, None]:
    """The subject under every combination of weight changes, each undone before the next."""
    for versions in itertools.product(*(range(change.versions) for change in attack.weights)):
        with contextlib.ExitStack() as stack:
            changed, spent = subject, Spent()
            for number, (change, version) in enumerate(zip(attack.weights, versions, strict=True)):
                own = derive_seed(seed, "weights", number)
                changed, cost = stack.enter_context(change.applied(changed, version, own))
                spent += cost
            yield changed, spent


def _conversations(
    subject: Subject, attack: Attack, prompts: Sequence[str], system: str | None, seed: int, new_tokens: int
) -> tuple[list[Conversation], list[list[int]], list[int]]:
    """What the model sees, as conversations and as ids, and by how many tokens each prompt grew."""
    talks, ids, extra = [], [], []
    for index, prompt in enumerate(prompts):
        talk = attack.conversation(Place(prompt, index, subject, seed), system)
        row = talk.encode(subject)
        if not fits(row, subject, new_tokens):
            raise UserError(
                f"attack '{attack.name}', prompt {index}: {len(row)} tokens and {new_tokens} new ones are more "
                f"than the {declared_length(subject.model)} this model reads; take fewer shots, a "
                "shorter template or fewer new tokens"
            )
        plain = Conversation.asking(prompt, system).encode(subject)
        talks.append(talk)
        ids.append(row)
        extra.append(len(row) - len(talk.prefill_ids) - len(plain))
    return talks, ids, extra


def _score(
    skill: str,
    attack: Attack,
    prompts: Sequence[str],
    system: str | None,
    talks: Sequence[Conversation],
    answers: Sequence[AttackAnswer],
    budget: Budget,
) -> AttackScore:
    labels: list[list[Label]] = [[] for _ in prompts]
    for answer in answers:
        labels[answer.index].append(answer.verdict.label)
    counted = Counter(worst(found) for found in labels)
    said = [
        (talk.turns, talk.system, talk.prefill_ids) != (Conversation.asking(prompt, system).turns, system, ())
        for talk, prompt in zip(talks, prompts, strict=True)
    ]
    return AttackScore(
        skill,
        attack.name,
        wilson(counted["complied"], len(prompts)),
        wilson(counted["refused"], len(prompts)),
        {label: counted[label] for label in LABELS},
        sum(said) if attack.transforms else len(prompts),
        budget,
        dict(Counter(note for talk in talks for note in talk.notes)),
    )
