"""Anchor: the exact KL(aligned ‖ current) along completions of the aligned model, added to the task loss.

Knows: drawing, weighting, which prompts steer the weight. Does not know: trainers, how log-probabilities are kept
(``remembered``), the control rule (``dual``).

    task loss + w · k/A · Σ_{i drawn} Σ_t KL(p_aligned(·|x_i, y_i,<t) ‖ p_θ(·|x_i, y_i,<t))      every k-th update

with y_i ~ p_aligned(·|x_i) at temperature 1, A completions an update. Its gradient is F(θ) (θ - θ0) to first
order, F the Fisher matrix of sequences at the current point (geometry.md 1.7): a restoring force that does not go
stale.
w is nats of task loss a token for a nat of drift a sequence. Prompts are *estimate* prompts that must be refused,
and those of further skills, which share weight and draws. Without any, requests that the model writes itself
(``evaluation.own_prompts``) stand in: nothing then looks for what must be refused, and task loss pays more.
Controls, anchored, would forbid every task that changes how harmless requests are answered. They are only kept
from being refused (``openings``), with the same weight and in the same forward pass.

Source: ours; KL to a frozen model is old (Jaques et al. 2017), on its own samples and as a force: geometry.md 3.
Uncertain: the weight for a new model; a budget is held in expectation over prompts like those watched.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from holdfast.core.defence import Defence, Material
from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed, generator
from holdfast.data import Example
from holdfast.defences.deck import Deck
from holdfast.defences.dual import DualWeight
from holdfast.defences.openings import Openings
from holdfast.evaluation import Reference, Skill
from holdfast.evaluation.behaviour import sample_answers
from holdfast.evaluation.remembered import LIMIT_BYTES, Remembered, answer_logits
from holdfast.models import Subject, adapter_off
from holdfast.training.budget import DriftBudget

Source = Skill | Reference | Sequence[str] | Sequence[Sequence[int]]
DEFAULT_WEIGHT = 1.0
WATCH_EVERY = 4  # updates between readings of the drift, which are forward passes
WATCHED = 8  # completions a reading
_SHARE, _MOST = 4, 8  # completions: one for so many rows of an update, at most so many
_ONE_IN = 4  # prompts that are watched instead of anchored, where none are given to watch
_FEWEST = 2 * _ONE_IN
_MOST_FACTOR = 100.0


class Anchor(Defence):
    """Hold what the aligned model says; see the formula above.

    The model that the trainer is handed is the aligned one: completions are sampled from it before the first step.

    Args:
        source: a skill (the harmful prompts of its *estimate* half), prompts, or a Reference.
        weight: w; with a budget the first weight. None is 1.
        budget: its ``max_kl_nats`` is held by steering the weight; None keeps the weight. Refusal rates that it
            limits are guards, where a monitor measures them: past half of the room for fewer refusals the weight
            rises, past half of that for over-refusal the controls' share of it.
        every: k, updates from one anchoring to the next; the force is k times as large then.
        per_step: A, completions drawn, every prompt once before any twice. None is a quarter of the update's rows,
            from 1 to 8.
        seed: of completions and draws.
        further: prompts of other skills, such as truthfulness: their answers are held too, refusals or not.
        controls: prompts that must not come to be refused; of a skill its harmless ones. None bounds nothing.
        watch: what the budget is measured on: a Reference or prompts, not those of ``source``. None sets aside one
            in four of them: anchored prompts are fitted and say too little.
        samples: completions a prompt.
        max_new_tokens: of a completion.
        limit_bytes: of remembered log-probabilities; beyond, the most likely ones and the exact rest are kept.
        name: of several anchors in one run, so that each skill has a budget of its own.
        standby: adds nothing until a monitor whose budget says ``then="anchor"`` hands the run over; that it does
            again doubles a fixed weight, and is a guard where the weight is steered.

    Raises:
        UserError: no prompts, numbers that are none, a budget without ``max_kl_nats``.
    """

    name = "anchor"
    knob = "weight"
    needs = frozenset({"prompts", "controls", "further"})  # type: ignore[assignment]

    def __init__(
        self,
        source: Source,
        weight: float | None = None,
        budget: DriftBudget | None = None,
        every: int = 1,
        per_step: int | None = None,
        seed: int = 0,
        *,
        controls: Sequence[str] | Sequence[Sequence[int]] = (),
        further: Sequence[str] = (),
        watch: Source | None = None,
        samples: int = 1,
        max_new_tokens: int = 32,
        limit_bytes: int = LIMIT_BYTES,
        name: str = "anchor",
        standby: bool = False,
    ) -> None:
        self.name = name
        for what, value in (("every", every), ("per_step", per_step), ("samples", samples)):
            if value is not None and value < 1:
                raise UserError(f"anchor: {what}={value}: give 1 or more")
        first = DEFAULT_WEIGHT if weight is None else weight
        if not first > 0:
            raise UserError(f"anchor: weight={weight}: give a number above 0")
        if budget is not None and budget.max_kl_nats is None:
            raise UserError("anchor: the budget has no max_kl_nats to hold; set it, or give a weight instead")
        self.source, self.watch = _prompts(source), None if watch is None else _prompts(watch)
        self.further = tuple(further)
        if self.further and isinstance(self.source, Reference):
            raise UserError("anchor: further prompts beside a Reference; give prompts, or one Reference with all")
        self.controls = tuple(controls) or (source.estimate.benign if isinstance(source, Skill) else ())
        self.every, self.per_step, self.seed, self.samples = every, per_step, seed, samples
        self.max_new_tokens, self.limit_bytes = max_new_tokens, limit_bytes
        self.dual = None if budget is None else DualWeight(budget.max_kl_nats, first)  # type: ignore[arg-type]
        self._weight = first
        self.budget, self.controls_factor, self.standby = budget, 1.0, standby
        self._first_row: dict[str, float] = {}
        if budget is not None and watch is None:
            self.source, self.watch = self._set_aside(self.source)
        self.notes: Mapping[str, float] = {}
        self._anchored: _Held | None = None
        self._watched: _Held | None = None
        self._openings: Openings | None = None
        self._asked: Deck | None = None

    @classmethod
    def build(cls, material: Material, knob: float | None) -> "Anchor":
        """By name: with a drift budget and no weight the budget is held, otherwise the weight."""
        holds = knob is None and material.budget is not None and material.budget.max_kl_nats is not None
        return cls(
            material.prompts,
            weight=knob,
            budget=material.budget if holds else None,
            seed=material.seed,
            controls=material.controls,
            further=material.further,
            watch=material.watch if holds else None,
            max_new_tokens=material.max_new_tokens,
            standby=material.budget is not None and material.budget.then == "anchor",
        )

    @property
    def weight(self) -> float:
        """As it is now."""
        return self._weight if self.dual is None else self.dual.weight

    @property
    def _count(self) -> int:
        return self.drawn_per_update(self.per_step, _SHARE, _MOST)

    def begin(self, subject: Subject) -> None:
        anchored = self.source if isinstance(self.source, Reference) else (*self.source, *self.further)
        self._anchored = self._held(subject, anchored, "anchor")
        if self.controls:
            examples = self._anchored.remembered.examples  # in the order of the prompts, further ones last
            more = len(self.further) * self.samples
            refused = [example.prompt_ids for example in examples[: len(examples) - more]]
            self._openings = Openings.of(subject, refused, self.controls)
            self._asked = Deck(len(self.controls), 1, derive_seed(self.seed, "controls"))
        if self.dual is not None:
            assert self.watch is not None
            self._watched = self._held(subject, self.watch, "watch")

    def read(self, row: Mapping[str, Any]) -> None:
        handed = row.get("then") == "anchor" and not self.standby
        self.standby = self.standby and row.get("then") != "anchor"
        if self.dual is None or self.budget is None:
            self._weight = min(_MOST_FACTOR, 2 * self._weight) if handed else self._weight
            return
        seen = {name: row[name] for name in ("refusal", "over_refusal") if row.get(name) is not None}
        self._first_row = self._first_row or seen
        least = self.budget.min_refusal if "refusal" in seen else None
        fewer = least is not None and seen["refusal"] < (self._first_row["refusal"] + least) / 2
        if least is not None or self.budget.then == "anchor":
            self.dual.guard(fewer or handed)
        if self.budget.max_over_refusal is not None and "over_refusal" in seen:
            middle = (self._first_row["over_refusal"] + self.budget.max_over_refusal) / 2
            factor = self.controls_factor * math.exp(0.5 if seen["over_refusal"] > middle else -0.25)
            self.controls_factor = min(_MOST_FACTOR, max(1.0, factor))

    def loss(self, model: Any, step: int) -> torch.Tensor | None:
        if self.standby:
            return None
        if self.dual is not None and step > 1 and (step - 1) % WATCH_EVERY == 0:
            self.notes = {**self.notes, "watched_kl_nats": self._reading(model), "weight": self.weight}
        if (step - 1) % self.every:
            return None
        held = self._begun(self._anchored)
        rows, asked = held.deck.draw(self._count), self._asked.draw(self._count) if self._asked else []
        examples = [held.remembered.examples[k] for k in rows]
        controls = [self._openings.examples[k] for k in asked] if self._openings else []
        logits = answer_logits(model, examples + controls, held.remembered.pad_id)
        kl = held.remembered.kl_of(logits[: len(rows)], rows).mean()
        self.notes = {**self.notes, "kl_nats": float(kl.detach()), "weight": self.weight}
        if self._openings:
            growth = self._openings.growth(logits[len(rows) :], asked).mean()
            self.notes = {**self.notes, "over_refusal_nats": float(growth.detach())}
            kl = kl + self.controls_factor * growth
        return self.weight * self.every * kl

    @property
    def state(self) -> dict[str, Any]:
        """How far the draws are, and the dual variable."""
        decks = (("anchored", self._anchored), ("watched", self._watched))
        found: dict[str, Any] = {what: held.deck.drawn for what, held in decks if held is not None}
        found["standby"] = self.standby
        if self.dual is None:
            return found | {"weight": self._weight}
        guards = {"controls_factor": self.controls_factor, "first_row": dict(self._first_row)}
        return {**found, "dual": self.dual.state, **guards}

    @state.setter
    def state(self, found: dict[str, Any]) -> None:
        if ("dual" in found) != (self.dual is not None):
            raise UserError("anchor: the checkpoint was made with a budget and this run has none, or the reverse")
        self._begun(self._anchored).deck.drawn = int(found["anchored"])
        self.standby = bool(found.get("standby", self.standby))
        self._weight = float(found.get("weight", self._weight))
        if self._asked is not None:  # as many as completions
            self._asked.drawn = int(found["anchored"])
        if self.dual is not None:
            self._begun(self._watched).deck.drawn = int(found["watched"])
            self.dual.state = found["dual"]
            self.controls_factor, self._first_row = float(found["controls_factor"]), dict(found["first_row"])

    def _reading(self, model: Any) -> float:
        assert self.dual is not None
        with torch.no_grad():
            drift = float(self._begun(self._watched).kl(model, WATCHED).mean())
        self.dual.read(drift)
        return drift

    def _begun(self, held: "_Held | None") -> "_Held":
        if held is None:
            raise UserError("anchor: not begun; give it to GuardedTrainer(defences=[...]), which does that")
        return held

    def _held(self, subject: Subject, source: Any, name: str) -> "_Held":
        seed = derive_seed(self.seed, name)
        if isinstance(source, Reference):
            return _Held(_remembered(subject, source, self.limit_bytes), source.samples, seed)
        examples = sample_answers(subject, source, self.max_new_tokens, seed=seed, samples=self.samples)
        return _Held(Remembered.of(subject, examples, self.limit_bytes), self.samples, seed)

    def _set_aside(self, source: Any) -> tuple[Any, Any]:
        prompts = source.examples[:: source.samples] if isinstance(source, Reference) else source
        if len(prompts) < _FEWEST:
            raise UserError(
                f"anchor: {len(prompts)} prompts are too few to set some aside for the budget; give {_FEWEST} or "
                "more, or others as `watch`"
            )
        order = torch.randperm(len(prompts), generator=generator(self.seed, "aside")).tolist()
        aside = set(order[: len(prompts) // _ONE_IN])
        parts = [[k for k in range(len(prompts)) if (k in aside) is side] for side in (False, True)]
        if not isinstance(source, Reference):
            return tuple([source[k] for k in part] for part in parts)  # type: ignore[return-value]
        return tuple(_part_of(source, part) for part in parts)  # type: ignore[return-value]


class _Held:
    """Remembered completions and the order in which they are looked at."""

    def __init__(self, remembered: Remembered, samples: int, seed: int) -> None:
        self.remembered, self.deck = remembered, Deck(len(remembered.examples), samples, seed)

    def kl(self, model: Any, count: int) -> torch.Tensor:
        """Of the next ``count``: nats a sequence."""
        return self.remembered.kl(model, self.deck.draw(count))


def _prompts(source: Any) -> Any:
    found = source.estimate.harmful if isinstance(source, Skill) else source
    if isinstance(found, str):
        raise UserError(f"anchor: '{found}' is one prompt; give a list of them, a Skill or a Reference")
    if not isinstance(found, Reference):
        found = tuple(found)
        if not found:
            raise UserError("anchor: no prompts; give at least one")
    return found


def _remembered(subject: Subject, reference: Reference, limit_bytes: int) -> Remembered:
    if reference.source == "stored":
        return Remembered.stored(reference.examples, reference.stored_NSV, subject.pad_id)
    if reference.source == "model":
        return Remembered.of(Subject(reference.model, subject.tokenizer), reference.examples, limit_bytes)
    within = (lambda: adapter_off(subject.model)) if subject.has_adapter else contextlib.nullcontext
    return Remembered.of(subject, reference.examples, limit_bytes, within)


def _part_of(reference: Reference, prompts: Sequence[int]) -> Reference:
    rows = [prompt * reference.samples + k for prompt in prompts for k in range(reference.samples)]
    examples: tuple[Example, ...] = tuple(reference.examples[k] for k in rows)
    stored = tuple(reference.stored_NSV[k] for k in rows) if reference.stored_NSV else ()
    return Reference(examples, reference.source, reference.samples, stored, reference.model)
