"""Fits the two storeys of the offline judge's model: logistic regression, and trees by gradient boosting.

Knows: sparse rows of hashed features, dense rows of measures, labels as numbers.
Does not know: texts, files, or how a model is validated (train.py).
"""

import numpy as np
import torch

from holdfast.evaluation.judges.offline.features import BUCKETS, Features
from holdfast.evaluation.judges.offline.model import LABELS, PLACES, VIEWS, Linear, Trees, softmax

LOOSENESS = 3.0  # C of the logistic regressions: loss = |w|^2 / 2 + C * sum of cross-entropies
STEPS = 60
FORESTS, TREES, DEPTH, RATE, SHRINKAGE = 3, 250, 5, 0.06, 5.0
SHARE_OF_SPLITS, SHARE_OF_ROWS = 0.3, 0.7
LEAST = 8  # rows on either side of a split


def sparse_rows(view: int, found: list[Features], measured: np.ndarray) -> torch.Tensor:
    """Rows of one linear reader's view: [examples, BUCKETS + measures], compressed by row."""
    columns: list[np.ndarray] = []
    values: list[np.ndarray] = []
    ends = [0]
    for features, row in zip(found, measured, strict=True):
        fields = [features.buckets[place] for place in PLACES[view]]
        weights = [np.full(len(rows), 1 / np.sqrt(max(1, len(rows)))) for rows in fields]
        there = np.flatnonzero(row) if VIEWS[view][1] else np.zeros(0, np.int64)
        columns += [*fields, BUCKETS + there]
        values += [*weights, VIEWS[view][1] * row[there]]
        ends.append(ends[-1] + sum(map(len, fields)) + len(there))
    return torch.sparse_csr_tensor(
        torch.tensor(ends),
        torch.from_numpy(np.concatenate(columns)),
        torch.from_numpy(np.concatenate(values).astype(np.float32)),
        size=(len(found), BUCKETS + measured.shape[1]),
    )


def fit_linear(rows: torch.Tensor, labels: np.ndarray) -> Linear:
    """Multinomial logistic regression with a squared penalty, by L-BFGS from zero."""
    weights = torch.zeros(rows.shape[1], len(LABELS), requires_grad=True)
    bias = torch.zeros(len(LABELS), requires_grad=True)
    wanted, transposed = torch.from_numpy(labels), rows.to_sparse_coo().t().to_sparse_csr()
    search = torch.optim.LBFGS([weights, bias], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> float:
        with torch.no_grad():  # the gradient of a sparse product is written out: autograd's is slow
            score = rows @ weights + bias
            value = torch.nn.functional.cross_entropy(score, wanted, reduction="sum")
            left = torch.softmax(score, 1) - torch.nn.functional.one_hot(wanted, len(LABELS))
            weights.grad = (weights + LOOSENESS * (transposed @ left)) / len(labels)
            bias.grad = LOOSENESS * left.sum(0) / len(labels)
            return float((weights.square().sum() / 2 + LOOSENESS * value) / len(labels))

    search.step(loss)
    found = weights.detach().numpy()
    return Linear(found[:BUCKETS].astype(np.float16), found[BUCKETS:].copy(), bias.detach().numpy().copy())


def fit_forest(seen: np.ndarray, labels: np.ndarray, seed: int = 0) -> Trees:
    """The mean of FORESTS fits that differ in their random choices."""
    parts = [fit_trees(seen, labels, seed + k) for k in range(FORESTS)]
    leaves = np.concatenate([part.leaves for part in parts]).astype(np.float32) / FORESTS
    return Trees(
        parts[0].base,
        np.concatenate([part.feature for part in parts]),
        np.concatenate([part.threshold for part in parts]),
        leaves.astype(np.float16),
    )


def fit_trees(seen: np.ndarray, labels: np.ndarray, seed: int = 0) -> Trees:
    """Newton boosting of the softmax loss; each tree asks one question a level, chosen among a random share."""
    rng = np.random.default_rng(seed)
    feature, threshold = _splits(seen)
    above = np.ascontiguousarray((seen[:, feature] > threshold).T).astype(np.float32)  # [splits, rows]
    wanted = np.eye(len(LABELS), dtype=np.float32)[labels]
    base = np.log(wanted.mean(0))
    score = np.tile(base, (len(seen), 1))
    chosen, leaves = [], []
    for _ in range(TREES):
        chances = softmax(score)
        kept = (rng.random(len(seen)) < SHARE_OF_ROWS).astype(np.float32)[:, None]
        slopes = np.concatenate([(wanted - chances) * kept, chances * (1 - chances) * kept], 1)
        offered = rng.choice(len(above), int(SHARE_OF_SPLITS * len(above)), replace=False)
        splits, node = _grow(above[offered], slopes)
        sums = np.zeros((2**DEPTH, 2 * len(LABELS)), np.float32)
        np.add.at(sums, node, slopes)
        leaf = (RATE * sums[:, :3] / (sums[:, 3:] + SHRINKAGE)).astype(np.float16)
        score += leaf[node].astype(np.float32)
        chosen.append(offered[splits])
        leaves.append(leaf)
    picked = np.array(chosen)
    return Trees(base, feature[picked].astype(np.int32), threshold[picked].astype(np.float32), np.stack(leaves))


def _splits(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Questions worth asking: between the values of a column that has few, at eight quantiles otherwise."""
    feature, threshold = [], []
    for column, values in enumerate(seen.T):
        distinct = np.unique(values)
        cuts = (distinct[1:] + distinct[:-1]) / 2
        if len(distinct) > 9:
            cuts = np.unique(np.quantile(values, np.linspace(0.08, 0.92, 8)))
        for cut in cuts:
            if LEAST <= int((values > np.float32(cut)).sum()) <= len(values) - LEAST:
                feature.append(column)
                threshold.append(cut)
    return np.array(feature), np.array(threshold, np.float32)


def _grow(above: np.ndarray, slopes: np.ndarray) -> tuple[list[int], np.ndarray]:
    """One tree: the split of each level, and the leaf of each row. Gain: sum of G^2 / (H + SHRINKAGE)."""
    rows, width = slopes.shape
    node, splits = np.zeros(rows, np.int64), []
    for level in range(DEPTH):
        spread = np.zeros((rows, 2**level, width), np.float32)
        spread[np.arange(rows), node] = slopes
        right = (above @ spread.reshape(rows, -1)).reshape(len(above), 2**level, width)
        left = spread.sum(0) - right
        gain = sum(side[..., :3] ** 2 / (side[..., 3:] + SHRINKAGE) for side in (left, right))
        splits.append(int(np.asarray(gain).sum((1, 2)).argmax()))
        node = node * 2 + above[splits[-1]].astype(np.int64)
    return splits, node
