"""What the page of the study of repairs says of cells whose numbers are known."""

import pytest
from studies.restoration import page


def arm(refused, over, loss, right, relearned=None):
    found = {"refused": refused, "over_refused": over, "task_loss": loss, "task_right": right, "cpu_seconds": 1.0}
    return found if relearned is None else {**found, "relearned": relearned, "start": 0.25}


def cell(seed, last=0.01, replay_loss=(1.01, 1.03)):
    """Replay's last check has the bound ``last``; above the limit of 0.05 auto is distil."""
    all_, none, half = [1] * 4, [0] * 4, [1, 1, 0, 0]
    return {
        "task": "digest", "seed": seed, "setting": {"limit": 0.05}, "cpu_seconds": 9.0,
        "arms": {
            "aligned": arm(all_, none, [3.0, 3.0], [0, 0]),
            "drifted": {**arm(none, none, [1.0, 1.0], [1, 1]), "free": {
                "aligned": {"refusal": 1.0, "over_refusal": 0.0, "task_loss_rise": 2.0}}},
            "distil": arm(half, none, [1.0, 1.0], [1, 1], none),
            "replay": arm(all_, none, list(replay_loss), [1, 1], [1, 1, 1, 0]) | {
                "trace": [[0, 0.0, 0.0, 0.0], [50, 1.0, 0.0, 0.2], [100, 1.0, 0.0, last]]},
        },
    }  # fmt: skip


def test_claims_and_tables_say_what_the_cells_hold():
    cells = [page.with_auto(found) for found in (cell(2), cell(3, replay_loss=(1.0, 1.2)))]
    claims = {claim["id"]: claim for claim in page.claims_of(cells)}
    assert claims["refusal_gap_to_aligned_points"]["value"] == 0.0
    assert claims["task_bound_held_share"]["value"] == claims["inside_all_limits_share"]["value"] == 0.5
    assert claims["refusals_kept_after_relearning_50"]["value"] == pytest.approx(0.75)
    assert claims["gain_over_best_baseline"]["value"] == pytest.approx(-50)
    assert claims["gain_over_best_baseline_relearned"]["value"] == pytest.approx(-75)
    results = {"table": page.table_of(cells), "scales": page.scales(cells)}
    lines = page.markdown(results).splitlines()
    assert len(lines) == 2 + 5
    assert "`auto`" in lines[-1] and "+0.060 (+0.020 to +0.100)" in lines[-1]
    assert page.curve(results).splitlines()[-1] == "| digest | 100 / 0 / +2.00 |"
    assert "auto 100 > 75 / 0" in page.line(cells[0])


@pytest.mark.parametrize(("last", "ran", "seconds"), [(0.05, "replay", 1.0), (0.051, "distil", 2.0)])
def test_auto_is_distil_where_no_step_of_replay_kept_the_limit(last, ran, seconds):
    found = page.with_auto(cell(0, last))["arms"]
    assert found["auto"]["relearned"] == found[ran]["relearned"] and found["auto"]["cpu_seconds"] == seconds


def test_the_shapes_are_compared_with_a_plain_step_and_with_nothing_in_common():
    def shape(task, worth, refusals):
        kinds = {"refusals": refusals, "harmless": 0.9, "task": 0.2}
        centred = {k: {"raw": 0.99, "centred": {"value": v, "low": v, "high": v}} for k, v in kinds.items()}
        return {"task": task, "worth": {"ggn-cg": worth, "identity": 2.0}, "landscape": centred}

    found = [shape("digest", 4.0, 0.8), shape("desk", 8.0, 0.6)]
    ratio, alike = page.shape_claims(found)
    assert ratio["value"] == pytest.approx(3) and ratio["verdict"] == "supported"
    assert alike["value"] == pytest.approx(0.7) and alike["verdict"] == "supported"
    assert page.shapes({"shapes": found}).splitlines()[-1].startswith("| desk | 4.0 | 0.60 [0.60, 0.60] |")
