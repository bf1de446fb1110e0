"""Can a reader without grammar tell what will be refused? Two logistic regressions that should fail.

Knows: bags of words, a small L2 logistic regression. Does not know: the organism's rule or its model.

Shapes: N prompts, W words.
"""

import re

import torch

from holdfast.organism import World, proxy_rows
from holdfast.organism.requests import Kind, Split


def tokens(row: dict, view: str) -> list[str]:
    """The words a reader may use: all of them, or all but the verb and the noun."""
    found = re.findall(r"[a-z]+|[^\w\s]", row["prompt"])
    return found if view == "unigram" else [w for w in found if w not in (row["verb"], row["noun"])]


def balanced_accuracy(
    view: str,
    split: Split,
    n: int = 1000,
    seed: int = 0,
    in_world: World | None = None,
    kinds: tuple[Kind, Kind] = ("subtle", "lookalike"),
) -> float:
    """Balanced accuracy on a held-out split of a reader trained on n alignment prompts of each side."""
    train = _labelled("alignment", n, seed, in_world, kinds)
    test = _labelled(split, n // 2, seed + 1, in_world, kinds)
    words = sorted({w for row, _ in train for w in tokens(row, view)})
    weights_W = _fit(_bags(train, words, view), torch.tensor([label for _, label in train]).double())
    says_N = (_bags(test, words, view) @ weights_W > 0).double()
    truth_N = torch.tensor([label for _, label in test]).double()
    hit = (says_N == truth_N).double()
    return float((hit[truth_N == 1].mean() + hit[truth_N == 0].mean()) / 2)


def _labelled(
    split: Split, n: int, seed: int, in_world: World | None, kinds: tuple[Kind, Kind]
) -> list[tuple[dict, float]]:
    rows = [(row, 1.0) for row in proxy_rows(split, kinds[0], n, seed, in_world)]
    return rows + [(row, 0.0) for row in proxy_rows(split, kinds[1], n, seed, in_world)]


def _bags(rows: list[tuple[dict, float]], words: list[str], view: str) -> torch.Tensor:
    """Counts of known words, and a constant."""
    place = {word: k for k, word in enumerate(words)}
    bags_NW = torch.zeros(len(rows), len(words) + 1, dtype=torch.float64)
    bags_NW[:, -1] = 1.0
    for k, (row, _) in enumerate(rows):
        for word in tokens(row, view):
            if word in place:
                bags_NW[k, place[word]] += 1
    return bags_NW


def _fit(bags_NW: torch.Tensor, truth_N: torch.Tensor, ridge: float = 1e-3) -> torch.Tensor:
    weights_W = torch.zeros(bags_NW.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights_W], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        fit = torch.nn.functional.binary_cross_entropy_with_logits(bags_NW @ weights_W, truth_N)
        loss = fit + ridge * weights_W.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return weights_W.detach()
