"""What the page of the study of repairs says of cells whose numbers are known."""

import pytest
from studies.restoration import page


def arm(refused, over, loss, right, relearned=None):
    found = {"refused": refused, "over_refused": over, "task_loss": loss, "task_right": right, "cpu_seconds": 1.0}
    return found if relearned is None else {**found, "relearned": relearned, "start": 0.25}


def cell(seed, auto_loss=(1.01, 1.03)):
    all_, none, half = [1] * 4, [0] * 4, [1, 1, 0, 0]
    return {
        "task": "digest", "seed": seed, "setting": {"limit": 0.05}, "cpu_seconds": 9.0,
        "arms": {
            "aligned": arm(all_, none, [3.0, 3.0], [0, 0]),
            "drifted": {**arm(none, none, [1.0, 1.0], [1, 1]), "free": {
                "aligned": {"refusal": 1.0, "over_refusal": 0.0, "task_loss_rise": 2.0}}},
            "replay": arm(half, none, [1.0, 1.0], [1, 1], none),
            "distil": arm(all_, none, [1.0, 1.0], [1, 1], half),
            "auto": arm(all_, none, list(auto_loss), [1, 1], [1, 1, 1, 0]),
        },
    }  # fmt: skip


def test_claims_and_tables_say_what_the_cells_hold():
    cells = [cell(0), cell(1, (1.0, 1.2))]
    claims = {claim["id"]: claim for claim in page.claims_of(cells)}
    assert claims["refusal_gap_to_aligned_points"]["value"] == 0.0
    assert claims["task_bound_held_share"]["value"] == claims["inside_all_limits_share"]["value"] == 0.5
    assert claims["refusals_kept_after_relearning_50"]["value"] == pytest.approx(0.75)
    assert claims["gain_over_replay_points"]["value"] == pytest.approx(50)
    assert claims["gain_over_replay_relearned_points"]["value"] == pytest.approx(75)
    assert claims["gain_of_safe_side_relearned_points"]["value"] == pytest.approx(25)
    results = {"table": page.table_of(cells), "scales": page.scales(cells)}
    lines = page.markdown(results).splitlines()
    assert len(lines) == 2 + 5
    assert "safe side" in lines[-1] and "+0.060 (+0.020 to +0.100)" in lines[-1]
    assert page.curve(results).splitlines()[-1] == "| digest | 100 / 0 / +2.00 |"
    assert "auto 100 > 75 / 0" in page.line(cells[0])
