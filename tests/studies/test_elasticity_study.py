"""What the elasticity study's page says of cells whose numbers are known; a cell has what the page reads."""

import math

import numpy as np
import pytest
from studies.elasticity import laboratory, members, page

UPDATES = [0, 1, 2, 4, 8, 16, 32, 48]


def curve(name, rate, start=1.0, falls=True):
    score = [[1.0, 1.0 if not falls or u < 8 else 0.0] for u in UPDATES]
    kl = [[start * math.exp(-rate * u)] * 2 for u in UPDATES]
    return {"name": name, "updates": UPDATES, "base_score": 0.0, "score": score, "kl_to_base_nats": kl}


def pair(later, forward, inverse):
    ways = {"forward": {"bits": forward, "own_bits": 1.0}, "inverse": {"bits": inverse, "own_bits": 1.0}}
    return {"earlier": "a", "later": later, "temperature": 1.0, **ways}


def cell(width, volume, seed, later_rate=0.1):
    rate = later_rate * (width / 16) ** 0.5 * (volume / 60) ** 0.25
    return {
        "width": width, "volume": volume, "seed": seed, "parameters": width**2,
        "setting": {"amounts": [30, 60, 120]},
        "gradients": {"cosine": -0.9, "norm_ratio": 1.0}, "cpu_seconds": 1.0,
        "rebound": [
            curve("aligned 30", rate / 2), curve("aligned 120", rate), curve("c0 base", 0.0),
            curve("c1 aligned 120", 0.0),
            curve("c4 aligned 120", 0.01), curve("reversed 30", 0.1, falls=False), curve("reversed 120", 0.1),
        ],
        "resistance": [
            pair("b", 1.6, 1.4), pair("reversed 120", 1.1, 1.1), pair("a", 1.1, 1.1),
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def cells():
    return [cell(w, v, s, 0.1 + 0.01 * s) for w in (16, 24, 32, 48) for v in (60, 120, 240, 480) for s in range(3)]


def test_coefficients_of_a_cell(cells):
    one = cells[0]
    assert page.kappa(one, "aligned 120") == pytest.approx(0.1)
    assert page.beta(one) == pytest.approx(math.log(2) / math.log(4))
    assert page.half(one, "aligned 120") == pytest.approx(8.0)
    assert page.half(one, "reversed 30") == math.inf and math.isnan(page.lost_faster(one, "reversed"))
    assert (page.rho(one, 1.0), page.rho(one, 1.0, "swapped"), page.rho(one, 1.0, "same")) == (
        pytest.approx(0.4),
        0,
        0,
    )
    assert math.isnan(page.rho(one, 0.05))
    assert page.table_of([one])[0]["regime"] == "opposed"


def test_the_family_claims_find_the_exponents_that_were_put_in(cells):
    found = {claim["id"]: claim for claim in page.family_claims(cells)}
    assert found["members"] | {"value": 16, "verdict": "supported"} == found["members"]
    assert found["grows_with_size"]["value"] == pytest.approx(0.25, abs=1e-6)  # parameters go as the width squared
    assert found["grows_with_pretraining"]["value"] == pytest.approx(0.25, abs=1e-6)
    assert found["strong_rebound"]["value"] == pytest.approx(0.5)
    assert found["inverse_easier"]["verdict"] == found["strong_rebound"]["verdict"] == "supported"
    assert found["roles_reversed"]["verdict"] == "undecided"
    results = {"claims": list(found.values()), "cells": page.table_of(cells)}
    assert "undecided" in page.claims_table(results) and len(page.members_table(results).splitlines()) == 2 + 48


def test_too_few_members_leave_the_family_undecided(cells):
    for some in (cells[:5], []):
        found = {claim["id"]: claim for claim in page.family_claims(some)}
        assert all(claim["verdict"] == "undecided" for claim in found.values())
        assert found["inverse_easier"]["value"] is None
    assert page.family_claims(cells[:5])[1]["so_far"]["value"] == pytest.approx(0.4)


def test_a_coded_text_that_did_not_come_back_is_no_support():
    row = {"relative_error": 1e-4, "round_trip": True, "text": "wikitext", "bytes": 20_480}
    assert page.coding_claim([row])["verdict"] == "supported"
    assert page.coding_claim([{**row, "round_trip": False}])["verdict"] == "not supported"
    assert (
        page.coding_claim([{**row, "text": "organism"}])["verdict"]
        == page.coding_claim([])["verdict"]
        == "undecided"
    )


def test_the_law_of_the_laboratory():
    assert laboratory.law()["largest"] < 1e-6


def test_a_cell_has_what_the_page_reads(tmp_path):
    setting = members.Setting(
        widths=(8,), volumes=(2,), amounts=(1, 2), undo_updates=1, probes=(0, 1), prompts=2, answers=2,
        tokens=2, documents=2, batch_size=4,
    )  # fmt: skip
    members.run(setting, 8, 0, tmp_path, say=lambda line: None)
    made = page.read_json(tmp_path / members.cell_name(8, 2, 0))
    assert set(page.table_of([made])[0]) == set(page.table_of([cell(16, 60, 0)])[0])
    assert np.isfinite(page.rho(made, 1.0, "swapped"))
    before = (tmp_path / members.cell_name(8, 2, 0)).stat().st_mtime_ns
    members.run(setting, 8, 0, tmp_path)
    assert (tmp_path / members.cell_name(8, 2, 0)).stat().st_mtime_ns == before
