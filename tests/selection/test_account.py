"""What a reader is told of a selection: both ends, and what is kept of each source and length."""

import numpy as np

from holdfast.selection import select
from holdfast.selection.account import account, length_bins, one_line


def test_ends_and_shares_are_those_of_a_plain_count():
    rng = np.random.default_rng(0)
    norm, tokens = rng.permutation(60) + 1.0, rng.integers(1, 9, 60)
    norm[7] = np.nan
    source = ["a" if k % 3 else "b" for k in range(60)]
    columns = {"grad_norm": norm, "loss_nats": np.ones(60), "completion_tokens": tokens}
    chosen = select(columns, "low", 0.5, "none")
    page = account(chosen, norm, tokens, source, lambda k: (f"line {k}", f"say \x1b[2J{k}\nX: \u202e{k}"))
    assert "\x1b" not in page and "\u202e" not in page and "say [2J3 X: 3" in page
    kept = set(chosen.indices)
    of_b = [k in kept for k in range(0, 60, 3)]
    assert f"b {sum(of_b)} of 20 {100 * sum(of_b) / 20:.1f} %" in " ".join(page.split())
    high, low = page.split("The 20 highest gradient norms")[1].split("The 20 lowest gradient norms")
    for part, order in ((high, np.argsort(-norm)), (low, np.argsort(norm))):
        shown = [int(line.split("line ")[1]) for line in part.splitlines() if "tokens," in line]
        assert shown == [int(k) for k in order if np.isfinite(norm[k])][:20]
    assert "g_high: line" in high and "kept: line" in low


def test_lengths_fall_into_tenths_that_cover_them():
    assert set(length_bins(range(1, 101))) == {f"{10 * k + 1:3d} to {10 * k + 10:3d}" for k in range(10)}
    assert length_bins([4, 4, 4]) == ["4 to 4"] * 3 and length_bins([]) == []


def test_a_long_text_is_cut():
    assert one_line("ab " * 400) == f"{('ab ' * 400)[:300]} ..."
