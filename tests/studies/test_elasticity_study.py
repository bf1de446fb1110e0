"""What the elasticity study's page says of cells whose numbers are known; a cell has what the page reads."""

import copy
import math

import numpy as np
import pytest
from studies.elasticity import cells as read
from studies.elasticity import claims, laboratory, members, page, pictures, real_page, recipes, reference, runs

from holdfast.elasticity import Plan, ReboundCurve, Reference
from holdfast.elasticity.rebound import Point
from holdfast.elasticity.updates import Trace

UPDATES = [0, 1, 2, 4, 8, 16, 32, 48]
AMOUNTS = [30, 60, 120]


def curve(name, rate, start=1.0, drop=8):
    score = [[1.0, 0.0 if u >= drop else 1.0] for u in UPDATES]
    kl = [[start * math.exp(-rate * u)] * 2 for u in UPDATES]
    texts = {"pretrain": [[10.0 - u] * 3 for u in UPDATES], "alignment": [[10.0 + 2 * u] * 3 for u in UPDATES]}
    return {
        "name": name, "updates": UPDATES, "base_score": 0.0, "score": score, "kl_to_base_nats": kl,
        "bits": texts, "document_tokens": {"pretrain": [5, 5, 5], "alignment": [5, 5, 5]},
    }  # fmt: skip


def pair(later, forward, inverse, temperature=1.0):
    ways = {
        way: {"start": "a", "writer": "b", "bits": bits, "own_bits": 1.0, "tokens": 9}
        for way, bits in (("forward", forward), ("inverse", inverse))
    }
    return {"earlier": "a", "later": later, "temperature": temperature, "seed": 0, **ways}


def cell(width, volume, seed, later_rate=0.1):
    rate = later_rate * (width / 16) ** 0.5 * (volume / 60) ** 0.25
    made = {
        "width": width, "volume": volume, "seed": seed, "parameters": width**2,
        "setting": {
            "amounts": AMOUNTS, "few": UPDATES, "undo_rate": 1e-3, "align_rate": 2e-3, "batch_size": 8,
            "undo_updates": 48,
        },
        "gradients": {"cosine": -0.9, "norm_ratio": 1.0}, "cpu_seconds": 1.0, "forward_kl_nats": [0.8, 0.95, 1.0],
        "rebound": [
            curve("aligned 30", rate / 2, 0.9), curve("aligned 120", rate), curve("c0 base", 0.0),
            curve("reversed 30", 0.0, drop=99), curve("reversed 120", 0.0, drop=99),
        ],
        "resistance": [
            pair("b", 1.6, 1.4), pair("reversed 120", 1.1, 1.1), pair("a", 1.1, 1.1), pair("b", 1.6, 1.5, 0.05),
        ],
    }  # fmt: skip
    made["roles"] = [curve("roles 30", 0.0, drop=16), curve("roles 120", 0.0)]
    if seed == 0:
        made["rebound"] += [curve(f"c4 aligned {n}", rate * (n / 480) ** 0.5) for n in (30, 120)]
    if volume == 480:
        names = [f"{name} {n}" for name in ("epochs", "mixed", "safe rows") for n in (30, 120)]
        made["recipes"] = [curve(name, rate) for name in names]
        made["recipes"] += [curve(f"anchored {n}", rate * n / 120, drop=32) for n in (30, 120)]
    return made


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "DRAWS", 100)
        patch.setattr(real_page, "DRAWS", 40)
        yield


@pytest.fixture(scope="module")
def cells():
    return [cell(w, v, s, 0.1 + 0.01 * s) for w in (16, 24, 32, 48) for v in (60, 120, 240, 480) for s in range(3)]


@pytest.fixture(scope="module")
def found(cells):
    return {claim["id"]: claim for claim in claims.family_claims(cells)}


def test_coefficients_of_a_cell(cells):
    one = cells[0]
    assert read.kappa(one, "aligned 120") == pytest.approx(0.1)
    assert read.beta(one) == pytest.approx(math.log(2) / math.log(4)) == read.beta(one, "c4 ")
    assert read.half(one, "aligned 120") == pytest.approx(8.0) and math.isnan(read.half(one, "c1 aligned 120"))
    # Two prompts, one of which is lost between 4 and 8 updates: 6 updates whole, 42 by half.
    assert read.survived(one, "aligned 120") == pytest.approx(6 + 21)
    rhos = [read.rho(one, 1.0, kind) for kind in ("pairs", "swapped", "same")]
    assert rhos == [pytest.approx(0.4), 0, 0] and math.isnan(read.rho(one, 0.05, "swapped"))
    assert read.raw_gap(one, 0.05) == pytest.approx(0.1)
    assert read.crosses(one) is True and read.stiffness(one).value == pytest.approx(2.0)
    took, null = read.return_time(one)
    assert null == pytest.approx(math.log(2) / 0.1) and took == pytest.approx(null, rel=0.03)
    here, spring = read.hysteresis(one)  # 60 updates at twice the rate reach 95 %
    assert here == pytest.approx(120 / took) and spring == pytest.approx(10.7, abs=0.1)
    assert page.table_of([one])[0]["regime"] == "opposed"


def test_the_family_claims_find_the_exponents_that_were_put_in(cells, found):
    assert found["members"] | {"value": 16, "verdict": "supported"} == found["members"]
    assert found["grows_with_size"]["value"] == pytest.approx(0.25, abs=1e-6)  # parameters go as the width squared
    assert found["grows_with_pretraining"]["value"] == pytest.approx(0.25, abs=1e-6)
    assert found["grows_with_size"]["controls"]["c4 SGD"]["n"] == 16
    assert found["strong_rebound"]["value"] == pytest.approx(0.5)
    assert found["roles_reversed"]["value"] == pytest.approx(math.log(30 / 27))
    assert found["roles_reversed"]["controls"]["roles as published, ln"]["value"] == 0
    told = {name: claim["verdict"] for name, claim in found.items()}
    assert {told[n] for n in ("inverse_easier", "strong_rebound", "roles_reversed", *claims.GROWTH)} == {
        "supported"
    }
    beside = found["inverse_easier"]["controls"]
    assert beside["k = l: rho"]["value"] == 0 and beside["temperature 0.05: raw gap, bits a token"]["n"] == 48


def test_a_curve_that_ends_where_the_data_lead_is_no_return_to_the_parent(cells, found):
    """Refusals fall at once, not by phases at the parent's level; and c0 must end elsewhere than the parent."""
    assert found["rapid_then_slow"]["verdict"] == "not supported"
    phases = claims.phases_of(cells[:3])
    assert phases["seeds"] == 3 and phases["told_apart"]  # c0 ends at a half here, the parent at none


def test_what_is_drawn_again_are_runs(cells):
    assert len(runs.runs_of(cells)) == 12 and all(len(run) == 4 for run in runs.runs_of(cells))
    by_run = runs.over(cells, lambda c: float(c["seed"]))
    assert (by_run.value, by_run.n) == (1.0, 48) and by_run.high - by_run.low > 0.8  # 12 draws, not 48
    assert math.isnan(runs.slope(cells[:4], "volume", lambda c: 1.0).value)


def test_recipes_are_ranked_by_how_long_refusals_survive(cells, found):
    rows = recipes.recipe_rows(cells)
    assert rows[0]["recipe"] == "anchored" and rows[0]["survived"]["n"] == 12
    assert rows[0]["against_plain"]["value"] == pytest.approx(math.log(36 / 27), abs=0.1)
    assert rows[0]["rebound_index"]["value"] == pytest.approx(1.0)
    assert found["recipe_harder_to_undo"]["verdict"] == "supported"
    assert "| anchored |" in recipes.table({"recipes": rows}).splitlines()[2]


def test_too_few_members_leave_the_family_undecided(cells):
    for some in (cells[:5], []):
        told = {claim["id"]: claim for claim in claims.family_claims(some)}
        assert all(claim["verdict"] == "undecided" for claim in told.values())
        assert told["inverse_easier"]["value"] is None
    assert claims.family_claims(cells[:5])[1]["so_far"]["value"] == pytest.approx(0.4)


def test_a_coded_text_that_did_not_come_back_is_no_support():
    row = {"relative_error": 1e-4, "round_trip": True, "text": "wikitext", "bytes": 20_480}
    assert claims.coding_claim([row])["verdict"] == "supported"
    assert claims.coding_claim([{**row, "round_trip": False}])["verdict"] == "not supported"
    verdicts = {claims.coding_claim(rows)["verdict"] for rows in ([{**row, "text": "organism"}], [])}
    assert verdicts == {"undecided"}


def test_the_laboratory_is_exact():
    assert laboratory.law()["largest"] < 1e-6
    rows = {row["size"]: row for row in laboratory.mixtures()}  # T9
    assert rows[3]["large"] == pytest.approx((1.806781, 1.875), abs=1e-6)
    assert rows[3]["small"] == pytest.approx((2.202366, 2.25), abs=1e-6)
    assert rows[1000]["normalised"] == pytest.approx(1.750001 - 2, abs=1e-6)


def real_run(variant, seed, falls):
    points = []
    for n in (0, 1, 2, 4, 8, 16, 32):
        score = (1.0, 1.0, *(float(n < falls),) * 2, 0.0, 0.0)
        kl = (2.0 * math.exp(-n / 8),) * 2
        points.append(Point(n, 0, 0, score, kl, kl, {"pretrain": (3.0, 4.0)}))
    told, nothing = {"pretrain": (2, 2)}, Trace((), ())
    made = ReboundCurve(variant, "rows", Plan(32), seed, tuple(points), told, (0.0,) * 6, nothing)
    return {
        "variant": variant, "seed": seed, "setting": {"harmful": 4}, "cpu_seconds": 1.0, "curve": made.to_dict(),
    }  # fmt: skip


def test_alignments_of_the_real_model_are_held_against_the_studys(tmp_path):
    for variant, falls in (("study", 4), ("longer", 16), ("anchored", 4)):
        for seed in range(2):
            page.write_json(tmp_path / f"real-{variant}-{seed}.json", real_run(variant, seed, falls))
    entries = real_page.read_all(tmp_path)
    by_name = {entry["variant"]: entry for entry in entries}
    # Half of the refusals go: at 3 updates on average, or at 12, of 32.
    assert by_name["longer"]["kept_beyond_study"]["value"] == pytest.approx((12 - 3) / 64)
    assert by_name["anchored"]["kept_beyond_study"]["value"] == 0
    assert by_name["study"]["bits"]["pretrain"] == [1.75] * 7 and by_name["study"]["orders"] == 2
    claim = claims.real_claim(entries)
    assert claim["value"] == pytest.approx(9 / 64) and set(claim["controls"]) == {"longer", "anchored"}
    assert claims.real_claim(entries[:2])["verdict"] == "undecided" == claims.real_claim([])["verdict"]
    results = {"real": entries}
    assert "| longer | 100 % |" in real_page.table(results) and "half of the refusals" in real_page.nulls(results)
    assert pictures.draw({"real": entries}, tmp_path) == ["real"]


def test_what_is_not_in_the_folder_stays_as_it_was(tmp_path, monkeypatch):
    known = page.read_json(page.HERE / "results.json")
    page.write_json(tmp_path / "results.json", known | {"real": []})
    monkeypatch.setattr(page, "HERE", tmp_path)
    runs = tmp_path / "runs"
    for variant, falls in (("study", 4), ("longer", 16), ("anchored", 4)):
        page.write_json(runs / f"real-{variant}-0.json", real_run(variant, 0, falls))
    page.collect(runs)
    found = page.read_json(tmp_path / "results.json")
    assert [entry["variant"] for entry in found.pop("real")] == ["study", "longer", "anchored"]
    for part in ("cells", "coding", "laboratory", "phases", "recipes", "setting", "family_seconds"):
        assert found[part] == known[part]
    ids = [claim["id"] for claim in known["claims"] if claim["id"] != "real_harder_to_undo"]
    assert [c for c in found["claims"] if c["id"] in ids] == [c for c in known["claims"] if c["id"] in ids]


def test_pictures_show_every_size_and_keep_to_their_frame(cells, tmp_path):
    results = {"cells": page.table_of(cells[::6])}  # two of every size
    assert pictures.draw(results, tmp_path) == ["undone", "growth"]
    drawn = (tmp_path / "undone.svg").read_text()
    assert drawn.count("<polyline") == 4 and "2,304 par. (2)" in drawn
    plot = pictures.Plot("", "", "", (1, 100), (0, 1), log_x=True)
    left, right = plot.at(1, 0), plot.at(100, 1)
    assert plot.at(10, 0.5) == ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    assert plot.at(1e9, 9) == right
    assert len(page.members_table(results).splitlines()) == 2 + 8


def test_the_packaged_reference_counts_those_that_were_not_undone(cells, tmp_path):
    some = copy.deepcopy(cells[:3])
    for curve_of in some[0]["rebound"]:
        curve_of["score"] = [[1.0, 1.0]] * len(UPDATES)
    reference.write(some, tmp_path / "reference.json")
    found = Reference.load(tmp_path / "reference.json")
    assert found.updates_to_half == (None, 8.0, 8.0) and found.median == 8.0
    assert found.said().endswith("8 rows an update at 0.001): 8")
    none = Reference(*("",) * 3, 1e-3, 8, 16, (None, None, 4.0), "")
    assert none.median == math.inf and none.said().endswith(": over 16")


def test_a_cell_has_what_the_page_reads(tmp_path):
    setting = members.Setting(
        widths=(8,), volumes=(2,), amounts=(1, 2), undo_updates=1, probes=(0, 1), few=(0, 1), prompts=2, answers=2,
        tokens=2, documents=2, batch_size=2, pretrain_batch=4, role_updates=1, role_probes=(0, 1),
    )  # fmt: skip
    members.run(setting, 8, 0, tmp_path, say=lambda line: None)
    (made,) = members.read_cells(tmp_path)
    assert set(page.table_of([made])[0]) == set(page.table_of([cell(16, 60, 0)])[0])
    assert np.isfinite(read.rho(made, 1.0, "swapped"))
    names = {curve["name"] for curve in made["rebound"]}
    assert {"c0 base", "c1 aligned 2", "c2 epochs 2", "c3 scaled 2", "c4 aligned 1"} <= names
    assert {curve["name"].split()[0] for curve in made["recipes"]} == {"epochs", "anchored", "mixed", "safe"}
    assert [curve["name"] for curve in made["roles"]] == ["roles 1", "roles 2"]
    before = (tmp_path / members.cell_name(8, 2, 0)).stat().st_mtime_ns
    members.run(setting, 8, 0, tmp_path)
    assert (tmp_path / members.cell_name(8, 2, 0)).stat().st_mtime_ns == before
