"""What the page of the study of repairs says of cells whose numbers are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from studies.restoration import kept, page, rivals, tables


def arm(refused, over, loss, right, relearned=None, **more):
    found = {"refused": refused, "over_refused": over, "task_loss": loss, "task_right": right, "cpu_seconds": 1.0}
    return found | ({} if relearned is None else {"relearned_50": relearned}) | more


def cell(seed, settle_loss=(1.01, 1.03), weights="adapter"):
    """Settle refuses all, replay half."""
    all_, none, half = [1] * 4, [0] * 4, [1, 1, 0, 0]
    trace = [[0, 0.0, 0.0, 0.0], [50, 0.5, 0.0, 0.004], [100, 1.0, 0.25, 0.03]]
    return {
        "task": "digest", "seed": seed, "weights": weights, "setting": {"limit": 0.05}, "cpu_seconds": 9.0,
        "arms": {
            "aligned": arm(all_, none, [3.0, 3.0], [0, 0], prefilled=half, many_shot=all_),
            "drifted": arm(none, none, [1.0, 1.0], [1, 1], prefilled=none, many_shot=none, seconds_a_row=0.01),
            "replay": arm(half, none, [1.0, 1.0], [1, 1], none, trace=trace, prefilled=half, many_shot=half),
            "settle": arm(
                all_, none, list(settle_loss), [1, 1], [1, 1, 1, 0], trace=trace, prefilled=none, many_shot=all_
            ),
            "settle, overt alone": arm([1, 1, 1, 0], none, [1.0, 1.0], [1, 1]),
        },
    }  # fmt: skip


def test_claims_and_tables_say_what_the_cells_hold():
    cells = [cell(5), cell(6, settle_loss=(1.0, 1.2))]
    cells[0]["arms"]["settle"]["relearned_200"] = [1, 1, 0, 0]
    real = [{"id": "real_model_refusal_gap_points", "value": 3.0, "low": 1.0, "high": 5.0, "n": 3, "verdict": "x"}]
    claims = {claim["id"]: claim for claim in page.claims_of(cells, [], real)}
    values = {name: claim["value"] for name, claim in claims.items()}
    assert values["refusal_gap_to_aligned_points"] == values["prefilled_loss_points"] - 50 == 0.0
    assert values["task_bound_held_share"] == values["inside_all_limits_share"] == 0.5
    assert values["refusals_kept_after_relearning_50"] == pytest.approx(0.75)
    assert values["refusals_kept_after_relearning_200"] == pytest.approx(0.5)
    assert claims["refusals_kept_after_relearning_10"]["verdict"] == "undecided"
    assert values["gain_over_best_baseline"] == pytest.approx(50)
    assert values["gain_over_best_baseline_relearned"] == pytest.approx(75)
    assert values["unseen_kind_refusals"] == 0.5 and values["many_shot_loss_points"] == 0.0
    assert values["time_over_refusal_epoch"] == pytest.approx(1 / 24.83)
    assert values["real_model_refusal_gap_points"] == 3.0
    assert values["gain_over_ceiling"] is None
    assert claims.keys() == page.CLAIMS.keys() == {c["id"] for c in page.claims_of([], [])}
    table = page.table_of([*cells, cell(0, weights="all")])
    lines = tables.markdown({"table": table}).splitlines()
    assert len(lines) == 2 + 4 and "`settle`" in lines[-1] and "| 2 |" in lines[-1]
    assert "+0.060 (+0.020 to +0.100)" in lines[-1]
    assert "+0.020 (+0.020 to +0.020)" in tables.markdown({"table": table}, weights="all").splitlines()[-1]
    assert "settle 100 > 75 / 0" in page.line(cells[0])


def test_a_limit_holds_what_stays_inside_it():
    """Half of the refusals cost 0.004 nats; all of them 0.03, and a quarter of over-refusals."""
    free = {
        name: {"refusal": refusal, "over_refusal": 0.0, "task_loss_rise": bound, "task_loss_bound": bound}
        for name, refusal, bound in (("drifted", 0.1, 0.0), ("RESTA 1", 0.7, 0.015), ("RESTA 0.5", 0.9, 0.3))
    }
    found = {(row["name"], row["limit"]): row["value"] for row in page.plane_of([cell(0)], [{"free": free}])}
    ours = [found[page.LABELS["settle"], limit] for limit in page.BUDGETS]
    assert ours == [0.5, 0.5, 0.5, 0.75, 0.75]
    assert [found["RESTA", limit] for limit in page.BUDGETS] == [0.1, 0.1, 0.7, 0.7, 0.7]
    assert found["Antidote", 0.1] == 0.1
    assert "| RESTA | 10 [10, 10] | 10" in tables.plane({"plane": page.plane_of([], [{"free": free}] * 2)})


def test_rivals_stand_beside_the_arms_of_their_own_cell():
    ceiling = arm([1] * 4, [0] * 4, [1.1, 1.1], [1, 1], [1] * 4)
    every = {"digest-adapter-2": cell(2), "digest-adapter-3": cell(3)}
    cells = page.with_rivals(every, {"digest-adapter-3": {"arms": {"ceiling": ceiling}}})
    rows = {row["arm"]: row for row in page.table_of(cells)}
    assert rows["ceiling"]["seeds"] == 1 and rows["replay"]["seeds"] == 2
    assert rows["ceiling"]["task_loss_rise"]["value"] == pytest.approx(0.1)


def test_what_comes_after_is_a_mean_over_the_cells_that_have_it():
    found = page.afterwards_of([cell(0), cell(5), cell(3)])
    assert found["settle"] == {
        "prefilled": 0.0, "many_shot": 1.0, "relearned_10": None, "relearned_50": 0.75, "relearned_200": None,
        "unseen": 0.5,
    }  # fmt: skip
    assert tables.attacks({"afterwards": found}).splitlines()[-1].endswith("| 0 | 100 |  | 75 |  | 50 |")


def test_a_cell_is_kept_short_and_read_back_whole(tmp_path):
    (tmp_path / "digest-adapter-2.json").write_text(json.dumps(cell(2)))
    kept.keep(tmp_path, tmp_path / "cells.jsonl")
    assert '"refused": "1111"' in (tmp_path / "cells.jsonl").read_text()
    (tmp_path / "digest-adapter-2.json").unlink()
    assert kept.keep(tmp_path, tmp_path / "cells.jsonl") == {"digest-adapter-2": cell(2)}


def test_what_trains_nothing_is_a_row_a_way():
    free = {"RESTA 1 + DARE": {"refusal": 0.5, "over_refusal": 0.1, "task_loss_rise": 0.25}}
    other = {"RESTA 1 + DARE": {"refusal": 0.7, "over_refusal": 0.1, "task_loss_rise": 0.35}}
    found = page.free_table([{"task": "digest", "free": free}, {"task": "digest", "free": other}])
    assert tables.curve({"free": found}).splitlines()[-1] == "| RESTA 1 + DARE | 60 / 10 / +0.30 |"


def test_a_rollback_switches_off_what_is_cheap_until_the_limit(monkeypatch):
    damage, task = (0.5, 0.5, 0.0), (0.0, 0.04, 0.02)  # what each of three matrices holds
    update = {f"l{k}.lora_B": torch.ones(1, 1) for k in range(3)}
    adapter = {name: value.clone() for name, value in update.items()}
    pairs = {f"l{k}": (torch.ones(1, 1), adapter[f"l{k}.lora_B"], 1.0) for k in range(3)}

    def off():
        return [float(value) == 0 for value in adapter.values()]

    def loss(*_):
        costs, harms = zip(
            *((c * gone, d * (1 - gone)) for c, d, gone in zip(task, damage, off(), strict=True)), strict=True
        )
        return SimpleNamespace(mean_N=np.array([sum(costs)] * 2), nats_per_example=sum(harms))

    choose = SimpleNamespace(part=SimpleNamespace(refusals=(), task=()), task_loss_start_N=np.zeros(2))
    bench = SimpleNamespace(subject=SimpleNamespace(model=None), choose=choose, original=update)
    monkeypatch.setattr(rivals, "adapter_parameters", lambda model: adapter)
    monkeypatch.setattr(rivals, "lora_pairs", lambda model: pairs)
    monkeypatch.setattr(rivals, "mean_loss", loss)
    monkeypatch.setattr(rivals, "put_adapter", lambda model, tensors: None)
    found = rivals.rolled_back(bench, limit=0.05)  # type: ignore[arg-type]
    assert [float(value) for value in found.values()] == [0.0, 0.0, 1.0]


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
    assert tables.shapes({"shapes": found}).splitlines()[-1].startswith("| desk | 4.0 | 0.60 [0.60, 0.60] |")
