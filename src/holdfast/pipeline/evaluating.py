"""One model evaluated, beside another if there is one, by one judge or several.

Knows: how two cards come about on the same prompts, what is kept in a folder. Does not know: options of a command
line, how anything is measured.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from holdfast.core.errors import UserError
from holdfast.core.files import write_json
from holdfast.core.statistics import NoiseFloor
from holdfast.evaluation import (
    Agreement,
    Attack,
    Comparison,
    Judge,
    LikelihoodJudge,
    Reference,
    RefusalJudge,
    Scorecard,
    Skill,
    Task,
    Verdict,
    agreement,
    compare_cards,
    judge_all,
    measure_noise,
)
from holdfast.evaluation import evaluate as run_evaluate
from holdfast.evaluation.beforehand import warn_if_little
from holdfast.evaluation.judges import Label
from holdfast.evaluation.suites import Suite
from holdfast.models import Subject, adapter_off

# A prompt of drift costs about three answers (sampled once, read by both models): with more than one in six of all
# prompts it would cost more than half of what the answers cost. Below the fewest it says nothing.
DRIFT_PROMPTS, DRIFT_SHARE, FEWEST_DRIFT_PROMPTS = 24, 6, 8


@dataclass(frozen=True)
class Measures:
    """What both models are asked, and how.

    Attributes:
        judges: by name; the labels of the first one count, the others are compared with it.
        noise: sampled re-runs for the noise floor of a comparison; 0 measures none.
        drift: measure the drift from the other model, where there is one, along its answers to this many harmful
            prompts, and to no more than a sixth of all prompts (8 at least): each is sampled once more and read by
            both models. 0 measures none.
    """

    skills: tuple[Skill, ...]
    tasks: tuple[Task, ...] = ()
    suites: tuple[Suite, ...] = ()
    attacks: tuple[Attack, ...] = ()
    judges: Mapping[str, Judge] = field(default_factory=dict)
    seed: int = 0
    batch_size: int = 32
    max_new_tokens: int = 64
    system: str | None = None
    cache: Path | None = None
    noise: int = 0
    drift: int = DRIFT_PROMPTS

    def card(self, subject: Subject, reference: Reference | None = None) -> Scorecard:
        """Measure one model."""
        return run_evaluate(
            subject,
            self.skills,
            self.tasks,
            reference,
            self.judge,
            self.seed,
            self.batch_size,
            self.max_new_tokens,
            suites=self.suites,
            attacks=self.attacks,
            system=self.system,
            cache=self.cache,
        )

    @property
    def drift_prompts(self) -> tuple[str, ...]:
        """The first skill's harmful prompts along whose answers drift is measured."""
        asked = sum(len(s.evaluate.harmful) + len(s.evaluate.benign) for s in self.skills)
        most = max(FEWEST_DRIFT_PROMPTS, asked // DRIFT_SHARE)
        return self.skills[0].evaluate.harmful[: min(self.drift, most)]

    @property
    def judge(self) -> Judge:
        """The one whose labels count."""
        return next(iter(self.judges.values()), None) or RefusalJudge()

    def without_adapter(self, switched_off: bool) -> "Measures":
        """Without the attacks that make no sense on a model whose adapter is not there, or is switched off: there
        is nothing to scale, and nothing that training could move. A comparison lists them as not compared."""
        kept = (a for a in self.attacks if not a.needs_adapter and not (switched_off and a.trains))
        return replace(self, attacks=tuple(kept))


@dataclass(frozen=True)
class Evaluation:
    """What became of it.

    Attributes:
        card: of the model; of ``against``: of the other one.
        comparison: the model minus the other.
        agreement: of two or more judges on the model's responses.
    """

    card: Scorecard
    against: Scorecard | None = None
    comparison: Comparison | None = None
    agreement: Agreement | None = None

    def to_dict(self) -> dict[str, Any]:
        """The card's own values, with the rest beside them where there is any."""
        values = self.card.to_dict()
        for name in ("against", "comparison", "agreement"):
            if (found := getattr(self, name)) is not None:
                values[name] = found.to_dict()
        return values

    def save(self, folder: Path) -> None:
        """``scorecard.json`` and ``responses.parquet``; ``against/``, ``comparison.json``, ``agreement.json``."""
        self.card.save(folder)
        if self.against is not None:
            self.against.save(folder / "against")
        for name in ("comparison", "agreement"):
            if (found := getattr(self, name)) is not None:
                write_json(folder / f"{name}.json", found.to_dict())


def evaluate_against(
    subject: Subject, measures: Measures, against: Subject | None = None, reference: Reference | None = None
) -> Evaluation:
    """Evaluate; with another model, on the same prompts, and say what differs.

    Args:
        against: the other model. The same object stands for "without the adapter". None measures only the drift
            of an adapter.
        reference: what drift is measured against; None samples it from the other model.

    Drift needs the same tokens on both sides: models with other vocabularies have none.

    Raises:
        UserError: a likelihood judge that would read one model in the place of the other; as :func:`evaluate`.
    """
    if isinstance(measures.judge, LikelihoodJudge) and against is not None and against is not subject:
        raise UserError("the likelihood judge reads one model, whichever answered; let another judge come first")
    other = against if against is not None else subject if subject.has_adapter else None
    if reference is None and other is not None and measures.drift > 0:
        reference = _reference(subject, other, measures)
    card = measures.card(subject, reference)
    found = Evaluation(card, agreement=_agreement(card, measures))
    if against is None:
        return found
    with _as_other(subject, against) as other:
        bare = other is subject or not other.has_adapter
        asked = measures.without_adapter(other is subject) if bare else measures
        theirs = asked.card(other)
        warn_if_little(theirs.skills[0].refusal, "the model it is compared with")
        floors = noise_floors(other, measures)
    for name, floor in noise_floors(subject, measures).items():
        floors[name] = max(floor, floors[name], key=lambda found: found.floor)
    return replace(found, against=theirs, comparison=compare_cards(card, theirs, measures.seed, floors))


@contextlib.contextmanager
def _as_other(subject: Subject, against: Subject) -> Iterator[Subject]:
    """The other model; where it is the same object, that object without its adapter."""
    if against is not subject:
        yield against
        return
    with adapter_off(subject.model):
        yield subject


def _reference(subject: Subject, other: Subject, measures: Measures) -> Reference | None:
    """The other model's answers to the first skill's harmful prompts."""
    ours, theirs = subject.tokenizer, other.tokenizer
    if ours is None or theirs is None or ours.get_vocab() != theirs.get_vocab():
        return None
    if subject.vocabulary != other.vocabulary:  # one of them has rows to spare
        return None
    with _as_other(subject, other) as sampled:
        source = "adapter_off" if other is subject else "model"
        return Reference.of(sampled, measures.drift_prompts, measures.max_new_tokens, measures.seed, source=source)


def noise_floors(subject: Subject, measures: Measures) -> dict[str, NoiseFloor]:
    """ "skill: measure" -> noise floor, where one is asked for."""
    if not measures.noise:
        return {}
    found = {}
    for skill in measures.skills:
        measured = measure_noise(
            subject,
            skill,
            measures.judge,
            measures.noise,
            batch_sizes=sorted({1, measures.batch_size}),
            max_new_tokens=measures.max_new_tokens,
            seed=measures.seed,
            system=measures.system,
        )
        found |= {f"{skill.name}: {measure}": floor for measure, floor in measured.items()}
    return found


def _agreement(card: Scorecard, measures: Measures) -> Agreement | None:
    """Every further judge on the responses that the first one judged."""
    if len(measures.judges) < 2:
        return None
    rows = [row for row in card.rows if row.kind != "task"]
    prompts, responses = [row.prompt for row in rows], [row.response for row in rows]
    first, *others = measures.judges
    verdicts: dict[str, Sequence[Verdict]] = {first: [Verdict(cast(Label, row.label), row.reason) for row in rows]}
    for name in others:
        verdicts[name] = judge_all(measures.judges[name], prompts, responses)
    return agreement(verdicts, prompts, responses, measures.seed)
