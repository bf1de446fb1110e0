"""What an attack is: changes to the words, to the decoding, to the weights, and what they cost.

Knows: conversations, how attacks are joined, budgets. Does not know: any particular attack, judges, rates.

Source: the transforms follow the literature named at each of them; that they are one type and compose is derived.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Protocol, get_args

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.data import BadRowError, encode_prompt
from holdfast.models import Subject

Access = Literal["text", "prefill", "decoding", "weights"]


@dataclass(frozen=True)
class Spent(Result):
    """What an attacker paid for, beyond asking. Adds up.

    Attributes:
        gradient_steps: updates of weights, or of a suffix.
        training_tokens: completion tokens learned from, repetitions counted.
        candidates: texts whose loss was computed in a search.
    """

    gradient_steps: int = 0
    training_tokens: int = 0
    candidates: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Conversation:
    """What the model is given to continue.

    Attributes:
        turns: (role, text), the last one a user's.
        system: text of a system turn; "" is an empty one (some templates write their own otherwise), None is none.
        prefill_ids: tokens that the assistant is made to have said already.
        spent: on finding these words.
        notes: why a transform did less than asked.
    """

    turns: tuple[tuple[str, str], ...]
    system: str | None = None
    prefill_ids: tuple[int, ...] = ()
    spent: Spent = field(default_factory=Spent)
    notes: tuple[str, ...] = ()

    @classmethod
    def asking(cls, prompt: str, system: str | None = None) -> "Conversation":
        """One user turn."""
        return cls((("user", prompt),), system)

    @property
    def request(self) -> str:
        """The last user turn."""
        return self.turns[-1][1]

    def with_request(self, text: str) -> "Conversation":
        """The same conversation with another last turn."""
        return replace(self, turns=(*self.turns[:-1], ("user", text)))

    def noting(self, note: str) -> "Conversation":
        """With one more note."""
        return replace(self, notes=(*self.notes, note))

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates read them."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return first + [{"role": role, "content": text} for role, text in self.turns]

    def encode(self, subject: Subject) -> list[int]:
        """Token ids up to where the model goes on, prefill included.

        Raises:
            UserError: the chat template has no place for such a conversation.
        """
        assert subject.tokenizer is not None
        plain = len(self.turns) == 1 and self.system is None
        try:
            ids = encode_prompt(self.request if plain else self.messages, subject.tokenizer)
        except BadRowError as error:  # the template's author chose the words
            raise UserError(f"{error}; leave out the system prompt or the attack that needs it") from None
        return [*ids, *self.prefill_ids]


@dataclass(frozen=True)
class Place:
    """Where a transform is applied: to which prompt, on which model.

    Attributes:
        prompt: as it was asked for, before any transform.
        index: of the prompt in its list.
        subject: the model under attack.
        seed: of everything the transform draws.
    """

    prompt: str
    index: int
    subject: Subject
    seed: int


Transform = Callable[[Conversation, Place], Conversation]


@dataclass(frozen=True)
class Sampling:
    """How often and how hot the model is asked; ``temperature`` 0 is greedy."""

    temperature: float = 0.0
    answers: int = 1

    def __post_init__(self) -> None:
        if self.answers < 1 or self.temperature < 0:
            raise UserError(
                f"sampling {self.answers} answers at temperature {self.temperature:g}: at least one, at 0 or above"
            )
        if self.temperature == 0 and self.answers > 1:
            raise UserError(f"{self.answers} greedy answers would all be the same; give a temperature above 0")


class WeightChange(Protocol):
    """A change of the weights that can be undone."""

    @property
    def versions(self) -> int:
        """How many changed models there are, such as random draws."""
        ...

    def applied(self, subject: Subject, version: int, seed: int) -> AbstractContextManager[tuple[Subject, Spent]]:
        """The changed model inside the block; afterwards every weight is what it was, bit for bit."""
        ...


@dataclass(frozen=True)
class Attack:
    """One way to ask for what should be refused. Join two with ``|``: the left one acts first.

    Attributes:
        name: used in tables; unique on a card.
        access: the most that the attacker must be able to touch.
        transforms: of the conversation, in order.
        sampling: of the answers; the worst one counts.
        weights: changes of the model, the first one outermost.
    """

    name: str
    access: Access = "text"
    transforms: tuple[Transform, ...] = ()
    sampling: Sampling = Sampling()
    weights: tuple[WeightChange, ...] = ()

    @property
    def needs_adapter(self) -> bool:
        """Whether it makes no sense without an adapter."""
        return any(getattr(change, "needs_adapter", False) for change in self.weights)

    @property
    def trains(self) -> bool:
        """Whether it trains the subject's scope, which must then not be switched off."""
        return any(getattr(change, "trains", False) for change in self.weights)

    def __or__(self, other: "Attack") -> "Attack":
        plain = Sampling()
        if plain not in (self.sampling, other.sampling) and self.sampling != other.sampling:
            raise UserError(f"attacks '{self.name}' and '{other.name}' both say how to sample; join one of them")
        order = get_args(Access)
        return Attack(
            f"{self.name}+{other.name}",
            order[max(order.index(self.access), order.index(other.access))],
            self.transforms + other.transforms,
            other.sampling if self.sampling == plain else self.sampling,
            self.weights + other.weights,
        )

    def conversation(self, place: Place, system: str | None = None) -> Conversation:
        """What the model gets to see."""
        talk = Conversation.asking(place.prompt, system)
        for transform in self.transforms:
            talk = transform(talk, place)
        return talk


DIRECT = Attack("direct")


@dataclass(frozen=True)
class Budget(Result):
    """What an attack cost; two attacks are compared at their budgets, not by their names.

    Attributes:
        access: what the attacker must be able to touch: text, the beginning of the answer (prefill), the
            decoding, the weights.
        answers_per_prompt: answers of which the worst one counts, over all versions of the weights.
        weight_versions: changed models that were tried.
        extra_prompt_tokens: mean tokens a prompt above the plain request, prefill not included.
        prefill_tokens: mean tokens put into the assistant's mouth.
        generated_tokens: in all.
        spent: on training or searching, in all.
        seconds: of wall time, changing weights and generation included.
    """

    access: Access
    answers_per_prompt: int
    weight_versions: int
    extra_prompt_tokens: float
    prefill_tokens: float
    generated_tokens: int
    spent: Spent
    seconds: float

    def __str__(self) -> str:
        parts = [f"{self.access}, {self.answers_per_prompt} answer{'s' * (self.answers_per_prompt > 1)} a prompt"]
        if self.weight_versions > 1:
            parts.append(f"{self.weight_versions} changed models")
        if self.extra_prompt_tokens:
            parts.append(f"{self.extra_prompt_tokens:+.0f} prompt tokens")
        if self.prefill_tokens:
            parts.append(f"{self.prefill_tokens:.1f} prefilled")
        if self.spent.gradient_steps:
            parts.append(f"{self.spent.gradient_steps} gradient steps")
        if self.spent.training_tokens:
            parts.append(f"{self.spent.training_tokens} training tokens")
        if self.spent.candidates:
            parts.append(f"{self.spent.candidates} candidates")
        return ", ".join(parts)


def check_names(attacks: Sequence[Attack]) -> None:
    """Raises:
    UserError: two attacks share a name.
    """
    names = [attack.name for attack in attacks]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two attacks are called '{twice}'; give one of them another name")
