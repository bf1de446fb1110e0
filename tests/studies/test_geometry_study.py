"""The forecasts' study: planted runs whose answer is known; its projections at their first step."""

import copy
import itertools

import numpy as np
import pytest
import torch
from studies.geometry import onset, predict, projections, records, summary, tunes

from holdfast.core import trees
from holdfast.core.files import write_json
from holdfast.data import encode_rows
from holdfast.defences import Projection
from holdfast.geometry.calibration import calibrated
from holdfast.models import Subject, load
from holdfast.organism import proxy_prompts, refusal_entropy_nats_per_token, shipped, task_rows


def planted(part="slower", tasks=("a", "b", "c", "d", "e", "f", "a+b"), **values):
    """Excess loss and drift grow with the score of a task; larger scores lose more."""
    rows = []
    for method, (k, task) in itertools.product(("full", "lora"), enumerate(tasks)):
        score = float(np.exp(k))
        predictors = dict.fromkeys(("task_loss", "gradient_norm", "length", "representation_similarity"), 1.0)
        predictors |= {"form_x_loss": score, "line_x_loss": score} | values
        loss = refusal_entropy_nats_per_token() + score / 10 / summary.REFUSAL_TOKENS
        outcome = {"refusal_loss": loss, "kl_nats": score, "refusals_left": 1 - k / 10}
        rows.append({"part": part, "task": task, "method": method, "learning_rate": 1e-3, "steps": 60,
                     "predictors": predictors, "outcome": outcome, "cpu_seconds": 1.0})  # fmt: skip
    return rows


def test_a_forecast_that_is_the_outcome_ranks_it_and_one_that_says_nothing_does_not():
    """Groups are a thousand times apart: only ranks inside them count."""
    rows = summary.joined([*planted("first"), *planted("slower")])
    for row in rows:
        row["line_x_loss"] *= 1000.0 if row["part"] == "first" else 1.0
    assert summary.within(rows, "line_x_loss", "kl_nats") == pytest.approx(1.0)
    assert summary.within(rows, "task_loss", "kl_nats") == 0.0
    draws = summary.resampled(rows)
    assert summary.gain(rows, draws, "line_x_loss", "task_loss")["low"] > 0.9
    rows[0]["alignment_risk"] = 1.0
    assert np.isnan(summary.within(rows, "alignment_risk", "kl_nats"))  # one run has it
    with_excess = {row["task"]: row["excess_nats"] for row in rows}
    assert with_excess["c"] == pytest.approx(np.exp(2) / 10)


def test_a_run_is_read_without_every_run_that_shares_a_task():
    rows = summary.joined([*planted("first"), *planted("slower")])
    runs = summary.reference(rows)
    read = summary.left_out(rows, "prior")
    for run, found in zip(runs, read, strict=True):
        mine = set(run.task.split("+"))
        others = [other for other in runs if not mine & set(other.task.split("+"))]
        assert {"a", "b"} & mine == set() or all("+" not in other.task for other in others)
        again = calibrated("prior", run.prior, 60, None, others, summary.GROWTH)
        assert found["chance"] == again.chance(10.0)
        assert found["covered"] == (again.kl_low <= run.kl_nats <= again.kl_high)


def test_claims_are_over_all_runs_and_over_fresh_ones():
    rows = summary.joined([*planted("first"), *planted("slower", line_x_loss=1.0)])
    read = {"probe": summary.left_out(rows, "probe"), "probe_fresh": summary.shipped(rows[:3], "probe")}
    found = {claim["id"]: claim for claim in summary.claims(rows, read)}
    assert found["fine_tunes"]["value"] == 28 and found["fine_tunes"]["verdict"] == "not supported"
    assert found["forecast_spearman_probe_full"]["value"] == pytest.approx(0.5)  # the fresh half says nothing
    assert found["forecast_spearman_probe_full_fresh"]["value"] == 0.0
    assert found["forecast_spearman_prior_lora_fresh"]["value"] == pytest.approx(1.0)
    assert found["interval_coverage_90"]["n"] == 28 and found["interval_coverage_90_fresh"]["n"] == 3


def test_records_outlive_their_folder(tmp_path):
    file = tmp_path / "kept.jsonl"
    write_json(tmp_path / "b.json", {"value": {"x": 1.23456789, "list": [0.1234567]}})
    first = records.kept(file, {"b": tmp_path / "b.json", "none": tmp_path / "none.json"})
    write_json(tmp_path / "a.json", {"value": 2})
    records.kept(file, {"a": tmp_path / "a.json"})
    assert records.kept(file, {}) == {"a": {"value": 2}, "b": {"value": {"x": 1.23457, "list": [0.123457]}}}
    assert first == {"b": records.load(file)["b"]}


def test_every_fine_tune_has_a_name_and_a_mixture_takes_turns():
    everything = list(tunes.all_of_them())
    assert len({tune.name for tune in everything}) == len(everything) == 3 * 38 + 2 * 24
    mixed = next(tune for tune in everything if tune.part == "mixtures")
    first, second = mixed.task.split("+")
    rows = mixed.rows()
    assert len(rows) == tunes.ROWS
    alone = [[(row["prompt"], row["completion"]) for row in task_rows(task, "train", tunes.ROWS // 2, mixed.seed)]
             for task in (first, second)]  # fmt: skip
    assert [(row["prompt"], row["completion"]) for row in rows[:4]] == [
        alone[0][0], alone[1][0], alone[0][1], alone[1][1],
    ]  # fmt: skip
    rates = {(tune.part, tune.method): tune.setting.learning_rate for tune in everything}
    assert rates["slow mixtures", "lora"] == rates["slower", "lora"] < rates["again", "lora"]


def test_a_probe_leaves_the_model_where_it_was_and_similar_prompts_are_similar():
    base = predict.organism()
    rows = encode_rows(tunes.Tune("x", "lessons", "full", 0).rows()[:64], base.tokenizer)
    subject = Subject(copy.deepcopy(base.model), base.tokenizer, "all")
    start = trees.clone(subject.parameters())
    found = predict.after(subject, rows, tunes.Tune("first", "lessons", "full", 0).setting, 0)
    assert trees.norm(trees.subtract(trees.clone(subject.parameters()), start)) == 0.0
    assert found["line"] > found["kl"] > 0 and found["update_norm"] > 0
    said = predict.answers()
    assert predict.representation_similarity(base, said, said) == pytest.approx(1.0)
    assert predict.representation_similarity(base, list(rows)[:16], said) < 0.9


def test_drift_is_read_at_equal_loss_and_compared_with_plain():
    readings = [[0, 4.0, 0.01], [3, 2.0, 1.0], [6, 1.0, 4.0], [9, 1.5, 9.0]]
    assert projections.drift_at(readings, 2.0) == pytest.approx(1.0)
    assert projections.drift_at(readings, 1.5) == pytest.approx(2.0)  # between 1 and 4, in logarithms
    with pytest.raises(ValueError, match="not reached"):
        projections.drift_at(readings, 0.5)
    rows = [
        {"task": "a", "arm": arm, "seed": seed, "readings": [[0, 4.0, 0.1], [3, 1.0 + (arm == "anchor"), nats]]}
        for seed in range(5)
        for arm, nats in zip(projections.ARMS, (8.0, 8.0, 2.0, 0.2 + seed / 100), strict=True)
    ]
    found = {row["arm"]: row for row in projections.ratios(rows)}
    # the anchor reaches 2.0 only: two thirds of the way of the others
    assert found["static"]["value"] == pytest.approx(1.0)
    assert found["refreshed"]["value"] == pytest.approx((2 / 8) ** (2 / 3))
    assert found["anchor"]["low"] < found["anchor"]["value"] < found["anchor"]["high"] < 0.5
    verdicts = {claim["id"]: claim["verdict"] for claim in projections.claims(list(found.values()))}
    assert verdicts["static_projection_drift_ratio"] == "supported"
    assert verdicts["anchor_drift_ratio"] == "supported"


def test_projection_anew_at_the_start_is_the_static_one():
    """Where the model has not moved, both subspaces are one; the static one comes from another decomposition."""
    prompts = proxy_prompts("estimate", "overt", 8, 3)
    found = []
    for kind in (Projection, projections.Refreshed):
        subject = load(str(shipped("aligned")), device="cpu")
        defence = kind(prompts, directions=3, seed=1)
        defence.begin(subject)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            gradients = {name: torch.randn_like(p) for name, p in subject.model.named_parameters()}
        before = {name: tensor.clone() for name, tensor in gradients.items()}
        defence.update(1, gradients)
        found.append(torch.cat([(before[name] - gradients[name]).flatten() for name in gradients]))
    assert float(found[0].norm()) > 0.5
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 1e-2  # float32 differences of whole gradients


def test_the_quartic_coefficient_of_the_toy():
    assert max(onset.toy_errors()) < 1e-5
