"""The engine: per-sample gradient norms and inner products in one forward and one backward.

Knows: when to plan, how losses weigh samples, what the generic path adds. Does not know: data sets, rules.

Shapes: N samples, B rows, T time, M labelled tokens, K directions.

Cost. A Linear layer costs an ordinary step three products of T·I·O multiplications: forward, input gradient,
weight gradient. Here the third is replaced by T²(I + O) or T·I·O, whichever is less (selection.md 3.1), so

    ratio to an ordinary step ≈ (2 + min(1, T (I + O) / (I O))) / 3,

below one on wide layers. Nothing of the size (samples x parameters) is ever stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from holdfast.core.trees import Tree
from holdfast.data import Batch, unpacked
from holdfast.gradients.capture import Capture, Sink, Site, watching
from holdfast.gradients.forward import label_nll, labelled_logits, per_sample, quiet
from holdfast.gradients.functional import right_padded
from holdfast.gradients.layout import Labelled, labelled, token_layout
from holdfast.gradients.ledger import Ledger
from holdfast.gradients.names import block_of
from holdfast.gradients.per_sample import per_sample_gradients, rows_of, samples_at_a_time
from holdfast.gradients.plan import EnginePlan, plan_engine
from holdfast.gradients.routes import Route
from holdfast.gradients.rules import RULES, Rule, Saved
from holdfast.gradients.rules.base import square_norms
from holdfast.gradients.squares import Squares

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, eq=False)
class SampleNorms:
    """What one pass says of a batch's samples; on the CPU.

    Attributes:
        norm_N: L2 norm of each sample's loss gradient over the scope, float64; NaN without completion tokens.
        loss_N: mean negative log-likelihood per completion token, nats, float64; NaN likewise.
        tokens_N: completion tokens, int64.
        squares: squared norm by block (a layer with its bias and adapter), float64; empty unless asked for.
        dots_NK: inner product with each direction that was given, float64; None where none was.
    """

    norm_N: torch.Tensor
    loss_N: torch.Tensor
    tokens_N: torch.Tensor
    squares: dict[str, torch.Tensor] = field(default_factory=dict)
    dots_NK: torch.Tensor | None = None


class _Dots:
    """A sink that adds up each sample's inner product with every direction, in float64."""

    def __init__(self, directions: Sequence[Mapping[str, torch.Tensor]], samples: int, device: Any) -> None:
        self.directions = directions
        self.found_NK = torch.zeros(samples, len(directions), dtype=torch.float64, device=device)

    def __call__(self, site: Site, saved: Saved, grad: torch.Tensor) -> None:
        for k, direction in enumerate(self.directions):
            local = {own: direction[name] for own, name in site.wanted.items()}
            self.found_NK[:, k] += site.rule.dots(site.module, saved, grad, local)

    def add_rows(self, start: int, gradients: Mapping[str, torch.Tensor]) -> None:
        """The same from gradients themselves, of the samples from ``start`` on."""
        for name, rows in gradients.items():
            for k, direction in enumerate(self.directions):
                flat_D = direction[name].to(rows.device).flatten().double()
                self.found_NK[start : start + len(rows), k] += rows.flatten(1).double() @ flat_D


class GhostEngine:
    """Per-sample gradients of one model over one set of parameters.

    The first batch plans the routes (two tiny extra passes); build the engine once and use it for every batch.
    The model's ``.grad`` fields, hooks, modes, ``requires_grad`` flags and random state are left as they were,
    also after an exception. Dropout is off inside. Row results do not depend on other rows.

    Args:
        model: any causal LM of transformers, with or without a PEFT adapter.
        parameters: the scope, by name.
        strict: refuse parameters without a rule instead of taking the exact generic path.
        rules: kinds of layers with a closed form.

    Source: selection.md 3; measurements in ``benchmarks/``.
    """

    def __init__(
        self,
        model: Any,
        parameters: Mapping[str, torch.nn.Parameter],
        strict: bool = False,
        rules: tuple[Rule, ...] = RULES,
    ) -> None:
        if not parameters:
            raise ValueError("no parameters in scope")
        self.model = model
        self.parameters = dict(parameters)
        self.strict = strict
        self._rules = rules
        self._plan: EnginePlan | None = None

    def plan(self, batch: Batch) -> EnginePlan:
        """The routes, found on the first call with a few tokens of ``batch``."""
        if self._plan is not None and self._plan.certain:
            return self._plan
        self._plan = plan_engine(self.model, self.parameters, batch.to(self.device), self.strict, self._rules)
        return self._plan

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(iter(self.parameters.values())).device

    @property
    def routes(self) -> dict[str, Route]:
        """Per parameter, the way its gradients take; empty before the first batch."""
        return dict(self._plan.routes) if self._plan is not None else {}

    def norms(
        self,
        batch: Batch,
        reduction: Reduction = "mean",
        by_block: bool = False,
        directions: Sequence[Mapping[str, torch.Tensor]] = (),
    ) -> SampleNorms:
        """Gradient norm, loss and length of every sample of a padded or packed batch.

        Args:
            batch: rows padded on either side, or packed.
            reduction: a sample's loss is the mean over its completion tokens, or their sum.
            by_block: also squared norms by block.
            directions: trees over the scope; also inner products with them, from the same pass.

        Raises:
            ValueError: unknown reduction; a padded row whose mask has holes.
            UserError: ``strict`` and a parameter without a rule.
        """
        batch = self.ready(batch)
        plan = self.plan(batch)
        squares = Squares(plan.sites, batch.samples, token_layout(batch).by_sample(batch.input_ids_BT, 0))
        dots = _Dots(directions, batch.samples, self.device)

        def sink(site: Site, saved: Saved, grad: torch.Tensor) -> None:
            squares(site, saved, grad)
            dots(site, saved, grad)

        sums_N, tokens_N = self.sweep(batch, sink, reduction)
        generic: dict[str, list[torch.Tensor]] = {}
        done = 0
        for gradients in self._generic(batch, reduction):
            dots.add_rows(done, gradients)
            done += len(next(iter(gradients.values())))
            for name, rows in gradients.items():
                generic.setdefault(name, []).append(square_norms(rows).double())
        for name, parts in generic.items():
            squares.add(name, torch.cat(parts))
        named = squares.named()
        blocks: dict[str, torch.Tensor] = {}
        if by_block:
            for name, square_N in named.items():
                block = block_of(name)
                blocks[block] = blocks.get(block, 0.0) + square_N.cpu()
        norm_N = squares.total().sqrt().masked_fill(tokens_N == 0, float("nan"))
        found_NK = dots.found_NK.cpu() if directions else None
        return SampleNorms(norm_N.cpu(), (sums_N / tokens_N).cpu(), tokens_N.cpu(), blocks, found_NK)

    def dots(
        self, batch: Batch, directions: Sequence[Mapping[str, torch.Tensor]], reduction: Reduction = "mean"
    ) -> torch.Tensor:
        """Inner product of each sample's gradient with each direction: float64, (N, K), on the CPU."""
        return self.dots_and_losses(batch, directions, reduction)[0]

    def dots_and_losses(
        self, batch: Batch, directions: Sequence[Mapping[str, torch.Tensor]], reduction: Reduction = "mean"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`dots`, and the summed loss of each sample that the same pass gives: nats, float64, N.

        One pass, and one product of a layer's size for each direction; no gradient is formed on covered layers.

        Args:
            batch: as :meth:`norms`.
            directions: trees over the scope.
            reduction: as :meth:`norms`.

        Source: engines.md 3, trick 6: ⟨gᵀx, V⟩ = Σ over tokens of ⟨V x, g⟩.
        """
        batch = self.ready(batch)
        self.plan(batch)
        dots = _Dots(directions, batch.samples, self.device)
        sums_N, _ = self.sweep(batch, dots, reduction)
        dots.add_rows(0, self.generic_rows(batch, reduction))
        return dots.found_NK.cpu(), sums_N.cpu()

    # What the methods above, and the other files of this room, are made of.

    def ready(self, batch: Batch) -> Batch:
        """The batch on the engine's device, right-padded, or packed where this model can take packed rows."""
        batch = batch.to(self.device)
        if batch.segment_BT is None:
            return right_padded(batch)
        return batch if self.plan(unpacked(batch)).packs else unpacked(batch)

    def sweep(self, batch: Batch, sink: Sink, reduction: Reduction = "mean") -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and inputs-only backward of Σ over samples of their losses; covered layers report to ``sink``.

        Returns:
            Summed loss of each sample (nats, float64, N), completion tokens (int64, N), on the device.
        """
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction '{reduction}': use 'mean' or 'sum'")
        plan, where = self.plan(batch), labelled(batch)
        if plan.alone and batch.samples > 1:  # this model's rows feel each other; no layer is covered then
            single = unpacked(batch)
            rows = [right_padded(rows_of(single, k, k + 1)) for k in range(len(single))]
            sums, tokens = zip(*(self.sweep(row, sink, reduction) for row in rows), strict=True)
            return torch.cat(sums), torch.cat(tokens)
        if not len(where.owner_M):
            return torch.zeros(batch.samples, dtype=torch.float64, device=self.device), where.tokens_N
        positions = plan.positions or batch.segment_BT is not None
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with quiet(self.model) as checkpointed:
            capture = Capture(plan.sites, token_layout(batch), where.layout, sink, checkpointed)
            with watching(capture, trainable):
                nll_M = label_nll(labelled_logits(self.model, batch, where, plan.head, positions), where)
                sums_N = per_sample(nll_M, where)
                if plan.sites:
                    capture.backward(_weighted(nll_M, where, reduction))
        return sums_N, where.tokens_N

    def observe(
        self,
        batch: Batch,
        reduction: Reduction = "mean",
        squares: Squares | None = None,
        only: frozenset[str] | None = None,
    ) -> tuple[Ledger, torch.Tensor, torch.Tensor]:
        """One pass over a ready batch with everything kept that later questions need.

        Args:
            batch: from :meth:`ready`.
            reduction: as :meth:`norms`.
            squares: adds up squared norms on the way.
            only: names of the parameters to keep; None keeps all.

        Returns:
            The ledger, and what :meth:`sweep` returns.
        """
        ledger = Ledger(self.plan(batch).sites, squares, only)
        sums_N, tokens_N = self.sweep(batch, ledger, reduction)
        for name, rows in self.generic_rows(batch, reduction).items():
            if only is None or name in only:
                ledger.add_rows(name, rows)
        return ledger, sums_N, tokens_N

    def zeros(self) -> Tree:
        """A tree of zeros over the scope, at least float32."""
        return {name: self.zeros_like(name) for name in self.parameters}

    def zeros_like(self, name: str) -> torch.Tensor:
        """Zeros in the shape of one parameter, at least float32."""
        value = self.parameters[name]
        kind = torch.float32 if value.dtype in (torch.float16, torch.bfloat16) else value.dtype
        return torch.zeros(value.shape, dtype=kind, device=value.device)

    def generic_rows(self, batch: Batch, reduction: Reduction) -> dict[str, torch.Tensor]:
        """Per-sample gradients of the parameters without a rule: (N, *shape) by name."""
        found: dict[str, list[torch.Tensor]] = {}
        for gradients in self._generic(batch, reduction):
            for name, rows in gradients.items():
                found.setdefault(name, []).append(rows)
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _generic(self, batch: Batch, reduction: Reduction) -> Iterator[dict[str, torch.Tensor]]:
        """Gradients of the parameters without a rule, a few samples at a time, in order."""
        names = self.plan(batch).generic
        if not names:
            return
        chosen = {name: self.parameters[name] for name in names}
        alone = unpacked(batch)
        engine = "loop" if self.plan(batch).alone else "auto"
        step = samples_at_a_time(chosen, alone.input_ids_BT.shape[1])
        for start in range(0, len(alone), step):
            part = rows_of(alone, start, start + step)
            yield per_sample_gradients(self.model, chosen, part, reduction, engine)[0]


def _weighted(nll_M: torch.Tensor, where: Labelled, reduction: Reduction) -> torch.Tensor:
    """Σ over samples of their losses, each reduced over its own labels."""
    if reduction == "sum":
        return nll_M.sum()
    return (nll_M / where.tokens_N[where.owner_M].to(nll_M.dtype)).sum()
