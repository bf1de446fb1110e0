"""Adversarial KL: on the task's own rows the model stays near its start, however their embeddings are nudged.

    task loss + w · max over |δ_i| ≤ ε |e_i| of mean over tokens of KL(p_start(·|x, y_<t) ‖ p_θ(·|x, y_<t; e + δ))

e_i the input embeddings of row i, norms over a row. The maximum is sought by projected gradient ascent: a few
steps from a random start (at δ = 0 an untouched model has no gradient), with r_i = ε |e_i|

    δ_i ← r_i · u / |u|,    u = δ_i + r_i g_i / |g_i|

Source: SAFT (Safety-Anchored Fine-Tuning, workshop paper of June 2026, openreview DV4a7kg06D), from its abstract:
a PGD inner loop with KL to a frozen aligned reference, on benign data alone. Uncertain, because its text could not
be read: norm and radius, how many steps, whether the reference sees the nudge too, the weight, and its second part
(representations that are anchored), which is left out. Of every update it takes several passes over some rows.

Shapes: B rows, T tokens, H width, M labelled tokens, V vocabulary.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from holdfast.core.defence import Material
from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed, generator
from holdfast.data import Batch
from holdfast.defences.start import NearStart


class AdversarialKL(NearStart):
    """See the formula above.

    Args:
        weight: w.
        radius: ε.
        ascents: steps of the ascent.
        per_step: rows of an update that it looks at.
        seed: of the random starts.

    Raises:
        UserError: a radius that is none.
    """

    name = "adversarial-kl"

    def __init__(
        self, weight: float = 0.3, radius: float = 0.05, ascents: int = 2, per_step: int = 8, seed: int = 0
    ) -> None:
        if not radius > 0:
            raise UserError(f"adversarial-kl: radius={radius}: give a share of the embeddings' norm above 0")
        super().__init__(weight, per_step)
        self.radius, self.ascents, self.seed = radius, ascents, seed

    @classmethod
    def build(cls, material: Material, knob: float | None) -> "AdversarialKL":
        return cls(seed=material.seed) if knob is None else cls(knob, seed=material.seed)

    def kl(self, model: Any, batch: Batch, log_p_MV: torch.Tensor, step: int) -> torch.Tensor:
        with _nudged(model, self.nudge(model, batch, log_p_MV, step)):
            return super().kl(model, batch, log_p_MV, step)

    def nudge(self, model: Any, batch: Batch, log_p_MV: torch.Tensor, step: int) -> torch.Tensor:
        """The δ (B, T, H) of update ``step``, without a graph."""
        with torch.no_grad():
            embedded_BTH = model.get_input_embeddings()(batch.input_ids_BT).float()
        mask_BT1 = batch.attention_mask_BT[..., None].to(embedded_BTH)
        limit_B11 = self.radius * _norm(embedded_BTH * mask_BT1)
        drawn = torch.randn(embedded_BTH.shape, generator=generator(derive_seed(self.seed, "nudge", step)))
        delta_BTH = _at_length(drawn.to(embedded_BTH) * mask_BT1, limit_B11)
        for _ in range(self.ascents):
            delta_BTH.requires_grad_()
            with torch.enable_grad():
                with _nudged(model, delta_BTH):
                    kl = super().kl(model, batch, log_p_MV, step)
                (gradient_BTH,) = torch.autograd.grad(kl, delta_BTH)
            uphill_BTH = _at_length(gradient_BTH * mask_BT1, limit_B11)
            delta_BTH = _at_length(delta_BTH.detach() + uphill_BTH, limit_B11)
        return delta_BTH


@contextlib.contextmanager
def _nudged(model: Any, delta_BTH: torch.Tensor) -> Iterator[None]:
    """The model with δ added to its input embeddings, inside."""
    added = model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, embedded: embedded + delta_BTH.to(embedded)
    )
    try:
        yield
    finally:
        added.remove()


def _norm(value_BTH: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(value_BTH, dim=(1, 2), keepdim=True)


def _at_length(value_BTH: torch.Tensor, length_B11: torch.Tensor) -> torch.Tensor:
    return value_BTH * (length_B11 / _norm(value_BTH).clamp_min(1e-30))
