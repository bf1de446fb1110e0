"""Cheaper stand-ins for a sample's gradient norm: what each one is, and how a batch is scored with it.

Knows: the output head alone, the last block alone, a fresh LoRA adapter that is never built, loss, length, chance.
Does not know: data sets, selection rules, how well a proxy does (that is measured, by ``agreement``).

Shapes: N samples, S tokens, I in-features, O out-features, R rank.

Source: selection.md 3.6. A proxy ranks samples; its values are in units of its own.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed, generator, undisturbed
from holdfast.data import Batch
from holdfast.gradients.blocks import block_linears, head_linears, last_block
from holdfast.gradients.capture import Capture, Site, watching
from holdfast.gradients.forward import label_nll, labelled_logits
from holdfast.gradients.ghost import GhostEngine, Reduction, SampleNorms
from holdfast.gradients.layout import labelled, token_layout
from holdfast.gradients.names import block_of
from holdfast.gradients.plan import EnginePlan
from holdfast.gradients.routes import trial_batch
from holdfast.gradients.rules import Saved
from holdfast.gradients.rules.base import at_least_float32, batched_product, square_norms
from holdfast.gradients.rules.linear import LinearRule, weight_squares
from holdfast.models import Subject

PROXIES = ("full", "lora", "last_block", "head", "loss", "length", "random")
RANK = 8
ALPHA = 16

ScoreBatch = Callable[[Batch], SampleNorms]
# Squared norms of a site's contribution: (site, its inputs, its output gradient) to N.
SquaresOf = Callable[[Site, torch.Tensor, torch.Tensor], torch.Tensor]


def proxy_batch(
    subject: Subject, proxy: str = "full", reduction: Reduction = "mean", seed: int = 0, strict: bool = False
) -> ScoreBatch:
    """A function that scores a batch: ``norm_N`` is the proxy, losses and tokens are what they always are.

    Args:
        subject: model and scope; nothing about it is changed.
        proxy: what stands in for the gradient norm over the scope.

            - "full": nothing; the norm itself.
            - "lora": the gradient norm of a fresh LoRA adapter (rank 8, alpha 16, B = 0, A drawn as PEFT draws it)
              on every linear layer of the blocks; experts in stacked tables are no such layers. No adapter is
              built. Independent of the scope.
            - "last_block": the norm over the parameters in scope of the last transformer block; the backward pass
              ends there.
            - "head": the norm over the output head's weight (of a tied table the head's half only); no backward
              pass at all. Independent of the scope.
            - "loss": mean loss of a completion token, nats. "length": 1 / completion tokens. "random": uniform in
              [0, 1). Forward pass only, for the losses that selection filters by.
        reduction: loss the gradients of "full", "lora", "last_block" and "head" belong to.
        seed: of the adapter's A, and of "random", which depends on a sample's place in the data set and on
            nothing else.
        strict: refuse parameters without a rule ("full", "last_block").

    Raises:
        UserError: unknown proxy; a model without the part that the proxy reads.

    Source: selection.md 3.6, measured costs there.
    """
    model = subject.model
    if proxy not in PROXIES:
        raise UserError(f"proxy '{proxy}': unknown; use one of {', '.join(PROXIES)}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction '{reduction}': use 'mean' or 'sum'")
    if proxy == "full":
        return partial(GhostEngine(model, subject.parameters(), strict).norms, reduction=reduction)
    if proxy == "last_block":
        return partial(GhostEngine(model, _in_last_block(subject), strict).norms, reduction=reduction)
    if proxy == "lora":
        reader = _Reader(model, block_linears(model))
        return partial(_norms, reader, fresh_lora(model, seed=seed), reduction)
    if proxy == "head":
        return partial(_norms, _Reader(model, head_linears(model)), _weight, reduction)
    return partial(_forward_only, _Reader(model, {}), proxy, seed)


def _in_last_block(subject: Subject) -> dict[str, torch.nn.Parameter]:
    block = last_block(subject.model)
    inside = {id(parameter) for parameter in subject.model.get_submodule(block).parameters()}
    chosen = {name: value for name, value in subject.parameters().items() if id(value) in inside}
    if not chosen:
        raise UserError(f"proxy 'last_block': scope '{subject.scope}' has no parameter in {block}; use 'head'")
    return chosen


class _Reader(GhostEngine):
    """The engine's pass over layers that are read without being in scope, quantised and tied ones included.

    How the head is run, and whether the model takes packed rows, is found as for any engine. The layers are not
    compared with autograd: what is read off them is defined by their inputs and output gradients.
    """

    def __init__(self, model: Any, layers: Mapping[str, torch.nn.Module]) -> None:
        floating = [(name, p) for name, p in model.named_parameters() if p.is_floating_point()]
        super().__init__(model, dict([min(floating, key=lambda pair: pair[1].numel())]))
        self._layers = dict(layers)
        self._read: EnginePlan | None = None

    def plan(self, batch: Batch) -> EnginePlan:
        """The engine's plan, with the layers to read in the place of those in scope."""
        if self._read is None:
            with warnings.catch_warnings():  # the one parameter it is tried with is nobody's scope
                warnings.simplefilter("ignore", UserWarning)
                plan = super().plan(batch)
            in_head = {id(module) for module in plan.head.modules()} if plan.head is not None else set()
            sites = [
                Site(path, module, LinearRule(), {"weight": f"{path}.weight"}, id(module) in in_head)
                for path, module in self._layers.items()
            ]
            self._read = replace(plan, sites=self._tried(sites, plan, batch.to(self.device)))
        return self._read

    def _tried(self, sites: list[Site], plan: EnginePlan, batch: Batch) -> tuple[Site, ...]:
        """The sites that a pass reaches, each with the number of its calls."""
        seen: set[Site] = set()
        trial = trial_batch(batch)
        where, frozen = labelled(trial), [p for p in self.model.parameters() if p.requires_grad]
        with undisturbed(self.model):
            capture = Capture(
                sites, token_layout(trial), where.layout, lambda site, *_: seen.add(site), trial=True
            )
            with watching(capture, frozen):
                logits_MV = labelled_logits(self.model, trial, where, plan.head, plan.positions)
                if sites:
                    capture.backward(label_nll(logits_MV, where).sum())
        bad = [site for site in sites if site.problem is not None]
        if bad:
            warnings.warn(
                f"layer {bad[0].path} ({type(bad[0].module).__name__}) is left out of the proxy, with "
                f"{len(bad) - 1} like it: {bad[0].problem}",
                stacklevel=2,
            )
        return tuple(site for site in sites if site in seen and site.problem is None)


def _norms(reader: _Reader, squares_of: SquaresOf, reduction: Reduction, batch: Batch) -> SampleNorms:
    batch = reader.ready(batch)
    total_N = torch.zeros(batch.samples, dtype=torch.float64, device=reader.device)

    def sink(site: Site, saved: Saved, grad: torch.Tensor) -> None:
        total_N.add_(squares_of(site, saved[0], grad).double())

    sums_N, tokens_N = reader.sweep(batch, sink, reduction)
    return _found(total_N.clamp(min=0).sqrt(), sums_N, tokens_N)


def _weight(site: Site, x_NSI: torch.Tensor, g_NSO: torch.Tensor) -> torch.Tensor:
    """⟨x xᵀ, g gᵀ⟩: for the head, of the last hidden states and the gradients at its output (selection.md 3.6)."""
    return weight_squares(x_NSI, g_NSO)


def fresh_lora(model: Any, rank: int = RANK, alpha: int = ALPHA, seed: int = 0) -> SquaresOf:
    """Squared norms of the gradient of a fresh adapter's B, with :func:`fresh_a` as A; A has none while B = 0.

    dL/dB = alpha / r · gᵀ (x Aᵀ), shape (O, R): a random sketch of the full-weight gradient gᵀ x.
    """
    scale = alpha / rank
    drawn: dict[str, torch.Tensor] = {}

    def squares_of(site: Site, x_NSI: torch.Tensor, g_NSO: torch.Tensor) -> torch.Tensor:
        if site.path not in drawn:
            drawn[site.path] = fresh_a(block_of(site.path), x_NSI.shape[2], rank, seed).to(x_NSI.device)
        sketched_NSR = at_least_float32(x_NSI) @ drawn[site.path].to(at_least_float32(x_NSI).dtype).mT
        return scale**2 * square_norms(batched_product(at_least_float32(g_NSO).mT, sketched_NSR))

    return squares_of


def fresh_a(path: str, inputs: int, rank: int = RANK, seed: int = 0) -> torch.Tensor:
    """A of a fresh adapter on the layer at ``path`` of the bare model: (R, I), float32.

    PEFT draws it by ``kaiming_uniform_`` with a = √5, which is uniform within ± 1 / √I.
    """
    uniform_RI = torch.rand(rank, inputs, generator=generator(seed, "lora proxy", path))
    return (2 * uniform_RI - 1) / math.sqrt(inputs)


def _forward_only(reader: _Reader, proxy: str, seed: int, batch: Batch) -> SampleNorms:
    batch = reader.ready(batch)
    sums_N, tokens_N = reader.sweep(batch, _nothing)
    if proxy == "loss":
        score_N = sums_N / tokens_N
    elif proxy == "length":
        score_N = 1.0 / tokens_N.double()
    else:
        drawn = [np.random.default_rng(derive_seed(seed, "random proxy", k)).random() for k in batch.index]
        score_N = torch.tensor(drawn, dtype=torch.float64, device=reader.device)
    return _found(score_N, sums_N, tokens_N)


def _nothing(*_: object) -> None:
    """No layer is watched, so nothing is reported."""


def _found(score_N: torch.Tensor, sums_N: torch.Tensor, tokens_N: torch.Tensor) -> SampleNorms:
    score_N = score_N.masked_fill(tokens_N == 0, float("nan"))
    return SampleNorms(score_N.cpu(), (sums_N / tokens_N).cpu(), tokens_N.cpu())
