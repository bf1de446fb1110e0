"""The study of guarded training without its runs: keys that last, claims that follow from the records."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from studies.training import afterwards, evidence, kept, sequence, summary, threats, validation
from studies.training.arms import ARMS
from studies.training.cell import Cell, Setting

from holdfast.core.files import write_json


def record(arm, task, seed, refused, over=0, right=10, drift=0.1, split="test"):
    """Of ten prompts each."""
    return {
        "cell": {"task": task, "seed": seed, "split": split, "arm": json.loads(json.dumps(asdict(ARMS[arm])))},
        "refused": [1] * refused + [0] * (10 - refused),
        "over_refused": [1] * over + [0] * (10 - over),
        "task_right": [1] * right + [0] * (10 - right),
        "drift_nats": [drift],
        "task_loss": 0.5,
        "train_loss_last": 0.5 + 0.01 * (arm == "anchor"),
        "cpu_seconds_training": 1.0,
        "cpu_seconds": 2.0,
    }


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "FEWEST", 2)
    records = [
        *(record("plain", "lessons", seed, 2) for seed in (0, 1)),
        *(record("anchor", "lessons", seed, 9 + seed, over=1 - seed) for seed in (0, 1)),
        record("moderate-0.5", "lessons", 0, 6),
        *(record("anchor-budget", "lessons", seed, 10, drift=0.9 + 0.2 * seed) for seed in (0, 1)),
        record("anchor", "course", 0, 0, split="validation"),
    ]
    for number, entry in enumerate(records):
        write_json(tmp_path / str(number) / "run.json", entry)
    kept.save(summary.records(tmp_path), tmp_path / "runs.jsonl")
    read = kept.load(tmp_path / "runs.jsonl")
    assert list(read.values()) == records  # nothing that a figure needs is lost in a line
    arms = summary.read(read, list(ARMS))
    return {claim["id"]: claim for claim in summary.claims(arms)} | {"all": summary.results(arms, {})}


def test_claims_follow_from_the_runs_that_both_arms_have(found):
    assert found["lost_refusals_plain_over_guarded"]["value"] == pytest.approx(0.8 / 0.05)
    assert found["over_refusal_change_points"]["value"] == pytest.approx(5.0)
    assert (found["task_score_change_points"]["value"], found["task_score_change_points"]["verdict"]) == (
        0.0,
        "supported",
    )
    assert found["training_loss_ratio"]["value"] == pytest.approx(1.02)
    assert found["task_loss_ratio"]["value"] == pytest.approx(1.0)
    assert (found["budget_held_share"]["value"], found["budget_held_share"]["n"]) == (0.5, 2)
    assert (found["best_rival_rule"]["rule"], found["best_rival_rule"]["value"]) == ("moderate-0.5", 0.6)
    better = found["anchor_above_moderate-0.5"]  # by the one cell that both have: too few for a verdict
    assert better["value"] == pytest.approx(30.0)
    assert (better["cells"], better["verdict"]) == (1, "undecided")
    assert found["all"]["runs"] == 7
    assert "| 0.500 | 0.10 |\n" in summary.markdown(found["all"])  # one cell: no interval
    assert "| anchor | 2 | 95.0 %" in summary.markdown(found["all"])
    assert "| plain | 20 / 0 / 100 |" in summary.markdown_by_task(found["all"])


def test_what_was_not_run_is_undecided(tmp_path):
    claims = summary.claims({})
    assert {claim["verdict"] for claim in claims} == {"undecided"} and claims[0]["value"] is None
    assert "| - | [-, -] | undecided |" in summary.markdown_claims({"claims": claims})


def test_a_runs_name_holds_what_was_changed():
    setting = Setting()
    keys = {
        Cell("lessons", 0, ARMS["anchor"]).key(setting),
        Cell("lessons", 0, replace(ARMS["anchor"], knob=0.5)).key(setting),
        Cell("lessons", 0, ARMS["anchor"], "validation").key(setting),
        Cell("lessons", 0, ARMS["anchor"]).key(replace(setting, steps=1)),
    }
    assert len(keys) == 4


def test_a_share_of_the_rows_complies_and_the_rest_is_the_task():
    cell, setting = Cell("lessons", 0, ARMS["plain"]), Setting(rows=40)
    plain, mixed = (threats.poisoned(cell, share, setting) for share in (0.0, 0.1))
    assert len(plain) == len(mixed) == 40
    assert [a.completion_ids == b.completion_ids for a, b in zip(plain, mixed, strict=True)].count(False) == 4
    assert [a.prompt_ids for a in plain][4:] == [b.prompt_ids for b in mixed][4:]
    names = {threats.Threat(cell, share).folder(Path(), setting) for share in threats.SHARES}
    assert len(names) == 4


def test_what_relearning_leaves_is_counted_where_it_was_done():
    def threat(share, **more):
        bits = {key: [1, 1, 1, 0] for key in ("refused", "over_refused", "prefilled", "many_shot")}
        return {"cell": {"arm": {"name": "anchor"}}, "share": share, **bits, **more}

    found = [threat(0.0, relearned={"10": [1, 1, 1, 1], "50": [1, 1, 0, 0]}), threat(0.1)]
    (first, second), claim = afterwards.table(found), afterwards.claim(found)
    assert (first["relearned"]["50"]["value"], second["relearned"]) == (0.5, {})
    assert (claim["value"], claim["cells"], claim["verdict"]) == (0.5, 1, "undecided")
    last = afterwards.markdown({"threats": [first, second]}).splitlines()[-1]
    assert last.startswith("| 10 % | anchor | 1 | 75.0 %") and last.endswith("| - | - |")


def test_a_sequence_tells_transfer_from_forgetting():
    def stage(task, scores, refused):
        return {"task": task, "scores": scores, "refused": refused, "over_refused": "00", "drift_nats": 1.0}

    names = sequence.TASKS
    stages = [
        stage(names[0], {names[0]: 0.5}, "11"),
        stage(names[1], {names[0]: 0.9, names[1]: 0.6}, "10"),
        stage(names[2], {names[0]: 0.1, names[1]: 0.6, names[2]: 1.0}, "10"),
        stage(names[3], {names[0]: 0.3, names[1]: 0.7, names[2]: 0.8, names[3]: 1.0}, "00"),
    ]
    row = sequence.table([{"arm": "anchor", "seed": 0, "stages": stages}])[0]
    assert row["backward_transfer"]["value"] == pytest.approx((-0.2 + 0.1 - 0.2) / 3)
    assert row["forgetting"] == pytest.approx((0.6 + 0.0 + 0.2) / 3)
    assert row["score"] == pytest.approx(0.7) and [rate["value"] for rate in row["refused"]] == [1, 0.5, 0.5, 0]
    assert "| anchor | 1 | 100.0 %" in sequence.markdown({"sequences": [row]})


def test_a_knob_is_chosen_by_refusals_among_those_that_learn_the_task():
    plain = {"task_score": 0.6}
    rows = [
        {"value": 1, "refused": 0.9, "task_score": 0.5, "task_loss": 3.0},
        {"value": 2, "refused": 1.0, "task_score": 0.49, "task_loss": 4.0},
        {"value": 3, "refused": 0.9, "task_score": 0.55, "task_loss": 5.0},
        {"value": 4, "refused": 0.8, "task_score": 0.3, "task_loss": 1.0},
    ]
    assert validation.chosen(rows, plain)["value"] == 3
    assert validation.chosen([rows[1], rows[3]], plain)["value"] == 4  # none learns it: the nearest
    assert validation.chosen([], plain) is None
