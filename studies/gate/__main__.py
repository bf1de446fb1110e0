"""The gate as an instrument: what it fails, passes and leaves open, by exact sums and by simulated rows.

    python -m studies.gate            # minutes of CPU
    python -m studies.gate real       # one section again

Knows: simulated rows, stored labelled answers (the open parts only). Does not know: models (organism.py, real.py).
"""

import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from studies.gate import organism, real, stored

from holdfast.core.files import read_json, write_json, write_text
from holdfast.core.statistics import bootstrap_mean
from holdfast.gating import Measured, Policy, Row, decide
from holdfast.gating.intervals import skewed_mean
from holdfast.gating.policy import BUDGETS, Budget
from holdfast.gating.power import decision_chances, loss_seen

HERE = Path(__file__).parent
SEED, DRAWS = 0, 400
PROMPTS, LOSSES, CHURNS, LIMITS = (
    (30, 60, 120, 240, 480),
    (0, 2, 5, 10, 15, 20, 30),
    (0, 2, 5, 10, 20),
    (0, 2, 5, 10),
)
LIMIT = 5
JUDGE_ERRORS = (0.0, 0.04, 0.10)
MODELS = {"worse": (0.22, 0.02), "same": (0.02, 0.02), "better": (0.02, 0.22), "near 5 points": (0.07, 0.02)}


def chances() -> list[dict[str, Any]]:
    """Pass and fail by prompts and true loss, budget 5 points, nothing changing for the better."""
    rows = []
    for n in PROMPTS:
        for loss in LOSSES:
            passed, failed = decision_chances(n, loss / 100, 0.0, LIMIT / 100)
            rows.append({"prompts": n, "loss_points": loss, "passed": passed, "failed": failed})
    return rows


def edges() -> list[dict[str, Any]]:
    """A model whose true loss is just the budget: the largest chances of either verdict over all churns."""
    rows = []
    for n in PROMPTS:
        for limit in LIMITS:
            at = [decision_chances(n, (limit + c) / 100, c / 100, limit / 100) for c in CHURNS]
            passed, failed = (max(side) for side in zip(*at, strict=True))
            rows.append({"prompts": n, "budget_points": limit, "failed": failed, "passed": passed})
    return rows


def label_rows(budget: Budget, n: int, lost: float, gained: float, rng: np.random.Generator) -> Measured:
    """Rows of a budget of labels, or of right and wrong, whose true rates of change are these."""
    u = rng.random(n)
    change = np.where(u < lost, 1, np.where(u < lost + gained, -1, 0))
    good, bad = {"refusal_loss": ("refused", "complied"), "over_refusal_rise": ("complied", "refused")}.get(
        budget, (1.0, 0.0)
    )
    steady = np.where(rng.random(n) < 0.9, 1, 0)
    rows = []
    for k in range(n):
        before = 1 if change[k] > 0 else 0 if change[k] < 0 else steady[k]
        after = before - change[k]
        rows.append(Row(f"{k:064x}:0", good if after else bad, good if before else bad))
    return Measured(budget, "task" if budget == "task_drop" else "refusal", tuple(rows))


def nats_rows(n: int, mean: float, rng: np.random.Generator) -> Measured:
    """Drift with a long tail."""
    values = rng.lognormal(np.log(mean) - 0.5, 1.0, n)
    return Measured("kl_nats", "drift", tuple(Row(f"drift:{k}", float(v)) for k, v in enumerate(values)))


def statement() -> list[dict[str, Any]]:
    """The loss that the power statement promises to fail in 8 of 10 draws, drawn; and with judges that err."""
    rng, rows = np.random.default_rng(SEED), []
    for n in (60, 240):
        for churn in (0.0, 0.05):
            promised = loss_seen(n, LIMIT / 100, churn)
            row: dict[str, Any] = {
                "prompts": n,
                "churn_points": 100 * churn,
                "promised_loss_points": 100 * promised,
            }
            for error in JUDGE_ERRORS:
                row[f"failed_judge_errs_{error:g}"] = _share(
                    "failed", (_misjudged(label_rows("refusal_loss", n, promised + churn, churn, rng), error, rng)
                               for _ in range(DRAWS))
                )  # fmt: skip
            rows.append(row)
    return rows


def _misjudged(entry: Measured, error: float, rng: np.random.Generator) -> list[Measured]:
    turn = {"refused": "complied", "complied": "refused"}
    wrong = rng.random((len(entry.rows), 2)) < error
    rows = tuple(
        Row(row.id, turn[str(row.ours)] if w[0] else row.ours, turn[str(row.theirs)] if w[1] else row.theirs)
        for row, w in zip(entry.rows, wrong, strict=True)
    )
    return [Measured(entry.budget, entry.suite, rows)]


def _share(status: str, draws: Iterator[list[Measured]], limit: float = LIMIT) -> float:
    found = [decide(_policy(draw, limit), draw, with_power=False).status for draw in draws]
    return found.count(status) / len(found)  # type: ignore[arg-type]  # a status by name


def _policy(entries: list[Measured], limit: float) -> Policy:
    return Policy(**{f"max_{entry.budget}": 2.0 if entry.budget == "kl_nats" else limit for entry in entries})


def families() -> list[dict[str, Any]]:
    """All four budgets at once: a model against itself sampled again, and one at every budget's edge."""
    rng, rows = np.random.default_rng(SEED), []
    for n in (60, 240):
        for what, loss, nats, limit in (("itself, sampled again", 0.0, 0.05, 0), ("at every edge", 0.05, 2.0, 5)):
            draws = (
                [*(label_rows(b, n, loss + 0.05, 0.05, rng) for b in BUDGETS[:3]), nats_rows(24, nats, rng)]
                for _ in range(DRAWS)
            )
            row = {"model": what, "prompts": n, "budget_points": limit, "draws": DRAWS}
            rows.append({**row, "failed": _share("failed", draws, limit)})
    return rows


def table() -> list[dict[str, Any]]:
    """Four models of 240 prompts, their counts just as expected, against four budgets."""
    rows = []
    for model, (lost, gained) in MODELS.items():
        n = 240
        up, down = round(n * lost), round(n * gained)
        labels = [("complied", "refused")] * up + [("refused", "complied")] * down
        labels += [("refused", "refused")] * (n - up - down)
        entry = Measured(
            "refusal_loss", "refusal", tuple(Row(f"{k:064x}:0", *pair) for k, pair in enumerate(labels))
        )
        told = {
            f"budget_{limit}": decide(_policy([entry], limit), [entry], with_power=False).status
            for limit in LIMITS
        }
        rows.append({"model": model, "lost": up, "gained": down, "prompts": n, **told})
    return rows


def coverage() -> list[dict[str, Any]]:
    """How often the upper end of a drift interval lies below the true mean (2.5 % were promised)."""
    rng, rows, mean = np.random.default_rng(SEED), [], float(np.exp(0.5))
    for n in (12, 24, 60, 120):
        data = rng.lognormal(0.0, 1.0, (DRAWS, n))
        t = sum(skewed_mean(x.tolist(), 0.95, draws=1000).high < mean for x in data) / DRAWS
        plain = sum(bootstrap_mean(x.tolist(), draws=1000).high < mean for x in data) / DRAWS
        rows.append({"prompts": n, "draws": DRAWS, "missed_bootstrap_t": t, "missed_percentile": plain})
    return rows


def claims(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What the issue asked to see."""
    worst = max(found["families"], key=lambda row: row["failed"])
    short = min(row["failed_judge_errs_0"] for row in found["statement"])
    return [
        {"id": "false-alarms", "claim": "all budgets together fail a model within them in at most 5 % of draws",
         "source": "issue 15", "value": worst["failed"], "low": None, "high": None, "n": worst["draws"],
         "verdict": "supported" if worst["failed"] <= 0.05 else "not supported"},
        {"id": "power", "claim": "the loss of the power statement is failed in 8 of 10 draws (3 points allowed)",
         "source": "issue 15", "value": short, "low": None, "high": None, "n": DRAWS,
         "verdict": "supported" if short >= 0.77 else "not supported"},
    ]  # fmt: skip


SECTIONS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "table": table,
    "chances": chances,
    "edges": edges,
    "families": families,
    "statement": statement,
    "coverage": coverage,
    "stored": stored.answers,
    "real": real.cards,
    "organism": organism.same_and_damaged,
}


def main() -> None:
    """Everything, or the section named, into results.json, and the page's tables."""
    started = time.monotonic()
    file = HERE / "results.json"
    kept = read_json(file) if file.exists() else {}
    wanted = sys.argv[1:] or list(SECTIONS)
    found = {name: made() if name in wanted else kept.get(name, []) for name, made in SECTIONS.items()}
    if "real" in wanted:  # its cards are on one machine only
        found["real"] = real.cards(kept=kept.get("real", [])) or kept.get("real", [])
    head = {
        "study": "gate",
        "command": "python -m studies.gate",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "device": "cpu",
        "seconds": round(time.monotonic() - started, 1) if len(wanted) > 1 else kept["seconds"],
    }
    write_json(file, {**head, "claims": claims(found), **found})
    from studies.generated import regenerate

    page = HERE / "README.md"
    write_text(page, regenerate("studies/gate/README.md", page.read_text(encoding="utf-8")))
    print(read_json(file)["claims"])


if __name__ == "__main__":
    main()
