"""The one interface for whatever acts on training, and the pool of rows that it may look at.

Knows: when a defence is asked, what it may read. Does not know: any method, any trainer.

A defence overrides what it needs of six methods; the trainer calls them in this order:

    begin(subject)            once, on the model as it is handed in, before its first step
    read(row)                 whenever a monitor of the run has measured
    choose(pool)              every update: which rows of the pool are trained on
    see(rows)                 every update: the rows that are trained on
    loss(model, step)         every update: nats, added to the mean task loss of the update
    update(step, gradients)   every update: the gradients, clipped, just before the optimiser uses them

Weights are moved by the optimiser alone. What a run must remember is in ``state``, which checkpoints carry.

Shapes: B rows of a pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import HoldfastError

if TYPE_CHECKING:
    import torch

READABLE = frozenset({"loss", "norm", "rows", "prompts", "controls", "further"})
"""What a defence can declare: of a pool's rows their loss, gradient norm and tokens; prompts of skills."""


class UndeclaredReadError(HoldfastError):
    """A defence read what it does not declare in ``needs``."""


class Defence:
    """What acts on training; does nothing as it stands.

    Attributes:
        name: in logs, checkpoints and recipes.
        knob: name of the attribute that is its one main setting.
        needs: what it reads, of :data:`READABLE`. Only this is computed for it and handed to it.
        notes: numbers for the log of this update; the trainer takes them.
        rows_per_update: of the run, all processes together, by which a defence may size itself; the trainer tells
            it before ``begin``.
    """

    name: str = "defence"
    knob: str = ""
    notes: Mapping[str, float] = {}
    rows_per_update: int | None = None

    def drawn_per_update(self, asked: int | None, one_in: int, most: int) -> int:
        """How many prompts an update draws: ``asked``, or one for every ``one_in`` of its rows, 1 to ``most``.

        So what a defence costs is the same share of a small update as of a large one.
        """
        if asked is not None:
            return asked
        return most if self.rows_per_update is None else min(most, max(1, self.rows_per_update // one_in))

    @property
    def needs(self) -> frozenset[str]:
        """A class attribute does as well."""
        return frozenset()

    def begin(self, subject: Any) -> None:
        """Look at the model before its first step; also in a run that goes on from a checkpoint."""

    def read(self, row: Mapping[str, Any]) -> None:
        """What a :class:`holdfast.DriftMonitor` of the run has measured; a resumed run does not hear it again."""

    def choose(self, pool: "PoolView") -> "Any | Sequence[int] | None":
        """Rows to train on: their numbers, a :class:`holdfast.selection.Selection`, or None for all.

        Each of several processes is asked about the pool of all, and must answer as the others do; rows of
        others are not at hand there, so a choice by "rows" needs one process.
        """
        return None

    def see(self, rows: Any) -> None:
        """The rows of this update that are trained on, as a :class:`holdfast.data.Batch`; declare "rows".

        Of all processes, on each of them.
        """

    def loss(self, model: Any, step: int) -> "torch.Tensor | None":
        """A scalar to add to the task loss of update ``step`` (from 1), weighted, with its graph; None adds none.

        Micro-batches do not matter: it is asked for, and counted, once an update. Every process of a run is
        asked and must give the same loss: what processes add is averaged or taken as it is, never summed.
        """
        return None

    def update(self, step: int, gradients: "Mapping[str, torch.Tensor]") -> None:
        """Change the gradients in place."""

    @property
    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on bit for bit, as JSON has it. Empty: nothing."""
        return {}

    @state.setter
    def state(self, found: dict[str, Any]) -> None:
        """Take up what a checkpoint carries; called after :meth:`begin`, and only if it is not empty."""

    @classmethod
    def overrides(cls, method: str) -> bool:
        """Whether it does anything there."""
        return getattr(cls, method) is not getattr(Defence, method)


class _Declared:
    """Hands out what was declared; remembers what else was asked for, even if the error was swallowed."""

    def __init__(self, needs: frozenset[str]) -> None:
        self.needs = needs
        self.undeclared: set[str] = set()

    def _read(self, what: str, value: Any) -> Any:
        if what not in self.needs:
            self.undeclared.add(what)
            raise UndeclaredReadError(f"a defence read '{what}', which it does not declare; add it to its `needs`")
        return value


class PoolView(_Declared):
    """Candidate rows of one update, as far as the defence declares that it reads them.

    Attributes:
        step: number of the update, from 1.
        tokens_B: completion tokens.
    """

    def __init__(
        self,
        needs: frozenset[str],
        step: int,
        tokens_B: Any,
        loss_B: Any = None,
        norm_B: Any = None,
        rows: Any = None,
    ) -> None:
        super().__init__(needs)
        self.step, self.tokens_B = step, tokens_B
        self._loss_B, self._norm_B, self._rows = loss_B, norm_B, rows

    @property
    def loss_B(self) -> Any:
        """Mean loss of a completion token, nats; NaN without tokens."""
        return self._read("loss", self._loss_B)

    @property
    def norm_B(self) -> Any:
        """Gradient norm of each row's own loss."""
        return self._read("norm", self._norm_B)

    @property
    def rows(self) -> Any:
        """The rows as a :class:`holdfast.data.Batch`."""
        return self._read("rows", self._rows)


class Material(_Declared):
    """What a defence that is called by name is made from.

    Attributes:
        seed: of everything it draws.
        budget: limits of the run, or None.
        max_new_tokens: of an answer that it samples.
        watch: a reference of the aligned model on *estimate* prompts that are not in ``prompts``, or None.
    """

    def __init__(
        self,
        needs: frozenset[str],
        prompts: Sequence[str] = (),
        controls: Sequence[str] = (),
        seed: int = 0,
        budget: Any = None,
        max_new_tokens: int = 32,
        watch: Any = None,
        further: Sequence[str] = (),
    ) -> None:
        super().__init__(needs)
        self.seed, self.budget, self.max_new_tokens, self.watch = seed, budget, max_new_tokens, watch
        self._prompts, self._controls, self._further = tuple(prompts), tuple(controls), tuple(further)

    @property
    def prompts(self) -> tuple[str, ...]:
        """Of the *estimate* half: what must be refused."""
        return self._read("prompts", self._prompts)

    @property
    def controls(self) -> tuple[str, ...]:
        """Of the *estimate* half: what must not."""
        return self._read("controls", self._controls)

    @property
    def further(self) -> tuple[str, ...]:
        """Of other skills: prompts that must be answered as before, refused or not."""
        return self._read("further", self._further)


@dataclass(frozen=True)
class Choice:
    """Rows chosen by number, with what a trace says about them; like a Selection."""

    indices: tuple[int, ...]
    pool: int
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def kept_share(self) -> float:
        """Of the pool."""
        return len(self.indices) / max(1, self.pool)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by what became of them."""
        return {"kept": len(self.indices), "dropped": self.pool - len(self.indices)}
