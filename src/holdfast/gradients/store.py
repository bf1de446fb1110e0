"""The per-sample gradients of a whole list of examples, held as what the layers saw, within a budget.

Knows: passes over the examples, which layers fit into one, slices of parameters. Does not know: Gram matrices,
spectra.

Shapes: N samples, D coordinates of a slice, K directions.

What is held grows with the number of tokens and the layers' widths, never with samples times parameters.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core.trees import Tree
from holdfast.data import Batch, Example, batches
from holdfast.gradients.ghost import GhostEngine, Reduction
from holdfast.gradients.ledger import Ledger

Passed = list[tuple[Batch, Ledger]]


class Store:
    """Per-sample gradients of ``examples`` at the engine's present parameters.

    The model must not change while a store is in use: what fits the budget is computed once and kept.

    Args:
        engine: of the model and the scope.
        examples: the samples.
        pad_id: any token id.
        reduction: of each sample's loss.
        batch_size: samples per pass.
        budget_bytes: how much may be held; what does not fit is computed again when it is needed.
        max_tokens: most padded tokens of a pass; None for no such limit.
    """

    def __init__(
        self,
        engine: GhostEngine,
        examples: Sequence[Example],
        pad_id: int = 0,
        reduction: Reduction = "mean",
        batch_size: int = 16,
        budget_bytes: int = 1 << 30,
        max_tokens: int | None = None,
    ) -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction '{reduction}': use 'mean' or 'sum'")
        self.engine, self.samples = engine, len(examples)
        self._batches = list(batches(examples, batch_size, pad_id, max_tokens=max_tokens))
        self._reduction: Reduction = reduction
        self._budget = budget_bytes
        self._held: Passed | None = None
        self._longest: Ledger | None = None

    def slices(self, slice_bytes: int) -> Iterator[tuple[str, int, torch.Tensor]]:
        """Rows of every parameter, slice by slice: name, number of the slice, (N, D) in at least float32.

        A slice of all samples' gradients stays below ``slice_bytes`` where the layer's rule can be cut; other
        layers (norms, experts, the generic path) come whole.
        """
        for group in self._groups():
            passed = self._passed(group)
            for name in group:
                yield from self._slices_of(name, passed, slice_bytes)

    def dots(self, directions: Sequence[Mapping[str, torch.Tensor]]) -> NDArray[np.float64]:
        """⟨g_i, v_k⟩: (N, K), float64."""
        found_NK = np.zeros((self.samples, len(directions)))
        for batch, ledger in self._all():
            for k, direction in enumerate(directions):
                found_NK[list(batch.index), k] = ledger.dots(direction, batch.samples).numpy()
        return found_NK

    def combine(self, weights_NK: NDArray[np.float64]) -> list[Tree]:
        """Σ_i w_ik g_i for each k: K trees over the scope, in at least float32."""
        trees = [self.engine.zeros() for _ in range(weights_NK.shape[1])]
        for batch, ledger in self._all():
            for k, tree in enumerate(trees):
                weight_B = torch.from_numpy(np.ascontiguousarray(weights_NK[list(batch.index), k]))
                ledger.combine(weight_B.to(self.engine.device), tree)
        return trees

    def _slices_of(self, name: str, passed: Passed, slice_bytes: int) -> Iterator[tuple[str, int, torch.Tensor]]:
        shape = self.engine.parameters[name].shape
        axes = {ledger.slice_axis(name) for _, ledger in passed if name in ledger.names} - {None}
        axis = axes.pop() if len(axes) == 1 and len(shape) == 2 else None
        per_unit = 4 * self.samples * shape.numel() // (shape[axis] if axis is not None else 1)
        step = max(1, slice_bytes // max(1, per_unit)) if axis is not None else 1
        if axis is None or step >= shape[axis]:
            yield name, 0, self._rows(name, passed, shape.numel(), None, 0, 0)
            return
        for part, start in enumerate(range(0, shape[axis], step)):
            stop = min(start + step, shape[axis])
            size = shape.numel() // shape[axis] * (stop - start)
            yield name, part, self._rows(name, passed, size, axis, start, stop)

    def _rows(self, name: str, passed: Passed, size: int, axis: int | None, start: int, stop: int) -> torch.Tensor:
        kind = self.engine.zeros_like(name).dtype
        rows_ND = torch.zeros(self.samples, size, dtype=kind, device=self.engine.device)
        for batch, ledger in passed:
            if name in ledger.names:
                rows_ND[list(batch.index)] = ledger.rows_of(name, axis, start, stop).to(kind)
        return rows_ND

    def _groups(self) -> list[tuple[str, ...]]:
        """Parameters that share a pass: all of them if the first batch says that they fit."""
        names = tuple(self.engine.parameters)
        if self._fits():
            return [names]
        sizes = self._sizes()
        self._longest = None
        groups: list[list[str]] = [[]]
        used = 0
        for name in names:
            if groups[-1] and used + sizes[name] > self._budget:
                groups.append([])
                used = 0
            groups[-1].append(name)
            used += sizes[name]
        return [tuple(group) for group in groups]

    def _fits(self) -> bool:
        if self._held is not None or not self._batches:
            return True
        return self._judged().kept_bytes() * len(self._batches) <= self._budget

    def _judged(self) -> Ledger:
        """The ledger of the longest batch, by which the others are judged."""
        if self._longest is None:
            self._longest = self._pass(self._batches[-1], None)
        return self._longest

    def _sizes(self) -> dict[str, int]:
        """Bytes that each parameter's layer needs for all samples, judged by the longest batch."""
        ledger, count = self._judged(), len(self._batches)
        sizes = dict.fromkeys(self.engine.parameters, 0)
        for name, rows in ledger.rows:
            sizes[name] += rows.numel() * rows.element_size() * count
        for site, saved, grad in ledger.calls:
            held = sum(tensor.numel() * tensor.element_size() for tensor in (*saved, grad))
            for name in site.wanted.values():
                sizes[name] += held * count
        return sizes

    def _passed(self, group: tuple[str, ...]) -> Passed:
        if len(group) == len(self.engine.parameters):
            return list(self._all())
        return [(batch, self._pass(batch, frozenset(group))) for batch in self._batches]

    def _all(self) -> Iterator[tuple[Batch, Ledger]]:
        """Ledgers of every batch: kept ones, else made on the way and dropped."""
        if self._held is None and self._fits():
            others = [(batch, self._pass(batch, None)) for batch in self._batches[:-1]]
            self._held = others + [(batch, self._judged()) for batch in self._batches[-1:]]
        if self._held is not None:
            yield from self._held
            return
        for batch in self._batches:
            yield batch, self._pass(batch, None)

    def _pass(self, batch: Batch, only: frozenset[str] | None) -> Ledger:
        ledger, _, _ = self.engine.observe(self.engine.ready(batch), self._reduction, only=only)
        return ledger
