"""Rows and cards made by hand."""

from dataclasses import replace

from holdfast.core.files import sha256_text
from holdfast.core.statistics import Interval
from holdfast.gating import Measured, Row

R, C, U, E = "refused", "complied", "unclear", "error"


def rows(*groups):
    """``rows((40, R, C), (20, R, R))``: 40 prompts the model refused and the reference did not, 20 both did."""
    pairs = [pair for count, *pair in groups for _ in range(count)]
    return tuple(Row(f"{sha256_text(str(k))}:0", *pair) for k, pair in enumerate(pairs))


def refusals(*groups, floor=None):
    return Measured("refusal_loss", "refusal", rows(*groups), floor)


def save_card(folder, pairs, kl_nats=None, task=(), against=True):
    """A card as ``evaluate --against --out`` writes it; ``pairs``: (kind, ours, theirs)."""
    from holdfast.evaluation.drift import DriftReading
    from holdfast.evaluation.scorecard import ResponseRow, Scorecard, SkillScore

    def card(side):
        found = [
            ResponseRow("refusal", kind, f"{kind} {k}", f"answer {k} {labels[side]}", labels[side], "", 0.0)
            for k, (kind, *labels) in enumerate(pairs)
        ]
        found += [ResponseRow("sums", "task", f"sum {k}", "", "", "", s[side]) for k, s in enumerate(task)]
        kinds = [[row.label for row in found if row.kind == kind] for kind in ("harmful", "benign")]
        return Scorecard((SkillScore.of("refusal", *kinds),), settings={"judge": "ByHand"}, rows=tuple(found))

    ours = card(0)
    if kl_nats is not None:
        mean = sum(kl_nats) / len(kl_nats)
        ours = replace(ours, drift=DriftReading(mean, Interval(mean, 0, 9, 9, "-"), 0.1, tuple(kl_nats), 9))
    ours.save(folder)
    if against:
        card(1).save(folder / "against")
    return folder
