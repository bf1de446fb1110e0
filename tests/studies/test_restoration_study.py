"""What the page of the study of repairs says of cells whose numbers are known."""

import json

import pytest
from studies.restoration import kept, page


def arm(refused, over, loss, right, relearned=None):
    found = {"refused": refused, "over_refused": over, "task_loss": loss, "task_right": right, "cpu_seconds": 1.0}
    return found if relearned is None else {**found, "relearned_50": relearned, "prefilled": relearned}


def cell(seed, settle_loss=(1.01, 1.03)):
    """Settle refuses all, replay half."""
    all_, none, half = [1] * 4, [0] * 4, [1, 1, 0, 0]
    return {
        "task": "digest", "seed": seed, "setting": {"limit": 0.05}, "cpu_seconds": 9.0,
        "arms": {
            "aligned": arm(all_, none, [3.0, 3.0], [0, 0]),
            "drifted": arm(none, none, [1.0, 1.0], [1, 1]),
            "replay": arm(half, none, [1.0, 1.0], [1, 1], none),
            "settle": arm(all_, none, list(settle_loss), [1, 1], [1, 1, 1, 0]),
        },
    }  # fmt: skip


def test_claims_and_tables_say_what_the_cells_hold():
    cells = [cell(2), cell(3, settle_loss=(1.0, 1.2))]
    cells[0]["arms"]["settle"]["relearned_200"] = [1, 1, 0, 0]
    claims = {claim["id"]: claim for claim in page.claims_of(cells)}
    assert claims["settle_refusal_gap_to_aligned_points"]["value"] == 0.0
    assert (
        claims["settle_task_bound_held_share"]["value"] == claims["settle_inside_all_limits_share"]["value"] == 0.5
    )
    assert claims["settle_refusals_kept_after_relearning_50"]["value"] == pytest.approx(0.75)
    assert claims["settle_refusals_kept_after_relearning_200"]["value"] == pytest.approx(0.5)
    assert claims["settle_refusals_kept_after_relearning_10"]["verdict"] == "undecided"
    assert claims["settle_gain_over_best_baseline"]["value"] == pytest.approx(50)
    assert claims["settle_gain_over_best_baseline_relearned"]["value"] == pytest.approx(75)
    assert claims["settle_gain_over_best_baseline_prefilled"]["value"] == pytest.approx(75)
    assert {c["id"] for c in page.claims_of([])} == claims.keys()
    table = page.table_of(cells)
    before = [{**row, "task": "desk"} for row in table if row["arm"] == "replay"]
    lines = page.markdown({"table": table, "earlier": {"table": before}}).splitlines()
    assert len(lines) == 2 + 4 + 1
    assert "`settle`" in lines[-2] and "+0.060 (+0.020 to +0.100)" in lines[-2]
    assert lines[-1].startswith("| desk | `replay`, five earlier seeds |")
    assert "settle 100 > 75 / 0" in page.line(cells[0])


def test_the_ceiling_stands_beside_the_arms_of_its_own_cell():
    ceiling = arm([1] * 4, [0] * 4, [1.1, 1.1], [1, 1], [1] * 4)
    cells = page.with_ceiling(
        {"digest-2": cell(2), "digest-3": cell(3)}, {"digest-3": {"arms": {"ceiling": ceiling}}}
    )
    rows = {row["arm"]: row for row in page.table_of(cells)}
    assert rows["ceiling"]["seeds"] == 1 and rows["replay"]["seeds"] == 2
    assert rows["ceiling"]["task_loss_rise"]["value"] == pytest.approx(0.1)


def test_a_cell_is_kept_short_and_read_back_whole(tmp_path):
    (tmp_path / "digest-2.json").write_text(json.dumps(cell(2)))
    kept.keep(tmp_path, tmp_path / "cells.jsonl")
    assert '"refused": "1111"' in (tmp_path / "cells.jsonl").read_text()
    (tmp_path / "digest-2.json").unlink()
    assert kept.keep(tmp_path, tmp_path / "cells.jsonl") == {"digest-2": cell(2)}


def test_what_trains_nothing_is_a_row_a_task():
    free = {"RESTA 1 + DARE": {"refusal": 0.5, "over_refusal": 0.1, "task_loss_rise": 0.25}}
    results = {"rivals": page.rivals([{"task": "digest", "seed": 0, "free": free}])}
    assert page.free_rivals(results).splitlines()[-1] == "| digest | 50 / 10 / +0.25 |"


def test_the_shapes_are_compared_with_a_plain_step_and_with_nothing_in_common():
    def shape(task, worth, refusals):
        kinds = {"refusals": refusals, "harmless": 0.9, "task": 0.2}
        centred = {
            k: {"raw": 0.99, "examples": 0.5, "centred": {"value": v, "low": v, "high": v}}
            for k, v in kinds.items()
        }
        return {"task": task, "worth": {"ggn-cg": worth, "identity": 2.0}, "landscape": centred}

    found = [shape("digest", 4.0, 0.8), shape("desk", 8.0, 0.6)]
    ratio, alike = page.shape_claims(found)
    assert ratio["value"] == pytest.approx(3) and ratio["verdict"] == "supported"
    assert alike["value"] == pytest.approx(0.7) and alike["verdict"] == "supported"
    assert page.shapes({"shapes": found}).splitlines()[-1].startswith("| desk | 4.0 | 0.60 [0.60, 0.60] |")
