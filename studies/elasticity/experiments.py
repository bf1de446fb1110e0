"""What a member of the family is put through: experiments B and R, their controls, and other recipes of alignment.

Source: elasticity.md 3.4, 3.5. Knows: which checkpoint learns what, and under which name the curve goes. Does not
know: how members are made (members.py), what the numbers say (claims.py).

Shapes: M scored positions, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from holdfast.core import trees
from holdfast.data import Example, collate
from holdfast.elasticity import Plan, ReboundCurve, measure_resistance, rebound_curve
from holdfast.elasticity.divergence import Divergence, pair
from holdfast.elasticity.probe import probe
from holdfast.elasticity.updates import make_updates
from holdfast.models import Subject
from holdfast.models.forward import scored_logits
from holdfast.models.generate import generate_text
from holdfast.organism.measure import LOOKED_AT, looks_refused

if TYPE_CHECKING:
    from studies.elasticity.members import Material, Setting

HALVINGS = 7  # of the search for a start-matched checkpoint


@dataclass
class Laboratory:
    """One member: its parent, the slices of its alignment and of the reversal, and all data.

    The subject's weights are whatever the last experiment put there.
    """

    subject: Subject
    base: Subject
    start: trees.Tree
    slices: Mapping[str, Mapping[int, trees.Tree]]
    material: "Material"
    setting: "Setting"
    seed: int

    def __post_init__(self) -> None:
        amounts = self.setting.amounts
        self.first, self.final = amounts[0], amounts[-1]
        self._between = Divergence(
            self.subject, pair(self.subject, self.base), self.material.overt[: self.setting.prompts],
            self.setting.tokens, 64, self.seed,
        )  # fmt: skip

    def measured(self, controls: bool) -> dict[str, Any]:
        """Everything of one cell but the recipes."""
        self._put(self.slices["aligned"][self.final])
        reading = probe(self.subject, self.base, self.material.texts, gradients=("pretrain", "alignment"))
        assert reading.gradients is not None
        return {
            "gradients": reading.gradients.to_dict(),
            "noise_floor_bits": reading.noise_floor_bits,
            "forward_kl_nats": [round(self._kl(state), 4) for state in self.slices["aligned"].values()],
            "rebound": self._main() + (self._controls() if controls else []),
            "resistance": self._resistances(),
        }

    def recipes(self) -> list[dict[str, Any]]:
        """Other alignments of as many updates, undone like the main one (whose curves stand beside them)."""
        rows, told = self.material.refusals, self.material.neutral
        mixed = [row for both in zip(rows[::2], told, strict=False) for row in both]
        few = self._few_rows()
        found = []
        for name, data, anchored in (("epochs", few, False), ("anchored", rows, True), ("mixed", mixed, False)):
            kept = self._aligned(data, anchored)
            found += [self._undo(f"{name} {made}", state) for made, state in kept.items()]
        safe = self.material.help
        safe = [row for k, row in enumerate(safe) if k % 4] + rows[: len(safe) // 4]
        for made in (self.first, self.final):
            found.append(self._undo(f"safe rows {made}", self.slices["aligned"][made], "with safe rows", safe))
        return found

    def roles(self) -> list[dict[str, Any]]:
        """The roles reversed at the alignment's own rate: help first, then the rows that refuse."""
        setting, kept = self.setting, self.slices["reversed"]
        plan = Plan(setting.role_updates, setting.batch_size, setting.align_rate)
        return [
            self._undo(
                f"roles {made}", kept[made], "positive", self.material.refusals, refusing=False, plan=plan,
                at=setting.role_probes,
            )
            for made in (self.first, self.final)
        ]  # fmt: skip

    def _main(self) -> list[dict[str, Any]]:
        """Experiment B: first and last slice, the parent on the same data (c0), the roles reversed."""
        ours, other = self.slices["aligned"], self.slices["reversed"]
        first, final, every = self.first, self.final, self.setting.probes
        positive = self.material.refusals
        return [
            self._undo(f"aligned {first}", ours[first], at=every, texts=True),
            self._undo(f"aligned {final}", ours[final], at=every, texts=True),
            self._undo("c0 base", self.start, at=every),
            self._undo(f"reversed {first}", other[first], "positive", positive, refusing=False),
            self._undo(f"reversed {final}", other[final], "positive", positive, refusing=False),
        ]

    def _controls(self) -> list[dict[str, Any]]:
        """c1 neutral data, c2 few rows many times, c3 the last slice scaled back to the first one's KL, c4 SGD."""
        ours, neutral = self.slices["aligned"], self.material.neutral
        found = []
        for made in (self.first, self.final):
            found.append(self._undo(f"c1 aligned {made}", ours[made], "neutral", neutral))
            found.append(self._undo(f"c4 aligned {made}", ours[made], plan=self.setting.plan("sgd")))
        epochs = self._aligned(self._few_rows(), False)
        found.append(self._undo(f"c2 epochs {self.final}", epochs[self.final]))
        found.append(
            self._undo(f"c3 scaled {self.final}", self._scaled(ours[self.final], self._kl(ours[self.first])))
        )
        return found

    def _few_rows(self) -> list[Example]:
        """As many rows as the first slice has seen, half of them refusals like all."""
        few = self.first * self.setting.batch_size
        rows = self.material.refusals
        return rows[: few // 2] + rows[len(rows) - few // 2 :]

    def _aligned(self, rows: Sequence[Example], anchored: bool) -> dict[int, trees.Tree]:
        """First and last slice of another alignment from the parent."""
        self._put(self.start)
        kept: dict[int, trees.Tree] = {}
        setting = self.setting
        plan = Plan(self.final, setting.batch_size, setting.align_rate)

        def keep(made: int) -> None:
            kept[made] = trees.clone(self.subject.parameters())

        penalty = self._anchor if anchored else None
        make_updates(self.subject, rows, plan, self.seed, keep, at=(self.first, self.final), penalty=penalty)
        self.subject.model.eval()
        return kept

    def _anchor(self, made: int) -> torch.Tensor:
        """KL(parent || current) on harmless conversations, nats a token, weighed."""
        size, rows = self.setting.batch_size, self.material.harmless
        start = size * made % (len(rows) - size + 1)
        batch = collate(rows[start : start + size], self.subject.pad_id)
        with torch.no_grad():
            parent_MV = scored_logits(self.base.model, batch)[:].log_softmax(-1)
        current_MV = scored_logits(self.subject.model, batch)[:].log_softmax(-1)
        return self.setting.anchor * F.kl_div(current_MV, parent_MV, log_target=True, reduction="batchmean")

    def _scaled(self, state: trees.Tree, kl_nats: float) -> trees.Tree:
        """The state moved back toward the parent until its KL is that of another one."""
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            share = (low + high) / 2
            between = {k: torch.lerp(self.start[k], value, share) for k, value in state.items()}
            low, high = (low, share) if self._kl(between) > kl_nats else (share, high)
        return {k: torch.lerp(self.start[k], value, (low + high) / 2) for k, value in state.items()}

    def _kl(self, state: trees.Tree) -> float:
        self._put(state)
        return float(self._between.to_base().mean())

    def _put(self, state: trees.Tree) -> None:
        trees.assign(self.subject.parameters(), state)

    def _undo(
        self,
        name: str,
        state: trees.Tree,
        data: str = "negative",
        rows: Sequence[Example] | None = None,
        *,
        refusing: bool = True,
        plan: Plan | None = None,
        at: Sequence[int] | None = None,
        texts: bool = False,
    ) -> dict[str, Any]:
        setting, material = self.setting, self.material
        self._put(state)
        prompts = material.overt[: setting.prompts]

        def score(model: Subject) -> list[float]:
            answers = generate_text(model, prompts, LOOKED_AT + 2, batch_size=64)
            return [float(looks_refused(answer) == refusing) for answer in answers]

        return _lean(
            rebound_curve(
                self.subject, self.base, material.help if rows is None else rows,
                plan=plan or setting.plan(), texts=material.texts if texts else None, prompts=prompts,
                scorer=score, names=(name, data), seed=self.seed, max_new_tokens=setting.tokens, batch_size=64,
                at=setting.few if at is None else at,
            )
        )  # fmt: skip

    def _resistances(self) -> list[dict[str, Any]]:
        """Experiment R between slices of one alignment, and between the ends of two alignments of one parent."""
        setting, final = self.setting, self.final
        prompts = self.material.overt[: setting.answers] + self.material.benign
        plan = Plan(None, setting.batch_size, setting.undo_rate)
        how: dict[str, Any] = {"plan": plan, "seed": self.seed, "max_new_tokens": setting.tokens}
        own = {f"aligned {made}": state for made, state in self.slices["aligned"].items()}
        two = {role: self.slices[role][final] for role in ("aligned", "reversed")}
        found = measure_resistance(self.subject, own, prompts, **how)
        found += measure_resistance(self.subject, two, prompts, control=False, **how)
        return [found_pair.to_dict() for found_pair in found]


def _lean(curve: ReboundCurve) -> dict[str, Any]:
    """A curve as the claims need it: per prompt where prompts are drawn again, digits that mean something."""
    return {
        "name": curve.name,
        "data": curve.data,
        "updates": list(curve.updates),
        "base_score": sum(curve.base_score) / len(curve.base_score),
        **{m: curve.of(m).round(4).tolist() for m in ("score", "kl_to_base_nats")},
        "kl_from_base_nats": curve.of("kl_from_base_nats").mean(1).round(4).tolist(),
        "bits": {
            text: [[round(b, 4) for b in bits] for bits in curve.bits(text)[0][:5]]
            for text in curve.document_tokens
        },
        "document_tokens": {text: list(n) for text, n in curve.document_tokens.items()},
        "prequential_bits_per_token": curve.trace.bits_per_token,
    }
