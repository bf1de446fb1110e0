"""The committed tables of the gate's study are those of today's interval."""

from pathlib import Path

import pytest
from studies.gate import __main__ as study

from holdfast.core.files import read_json

RESULTS = read_json(Path(study.__file__).with_name("results.json"))


@pytest.mark.parametrize("section", ["table", "chances", "edges"])
def test_what_is_exact_is_what_is_committed(section):
    for found, kept in zip(study.SECTIONS[section](), RESULTS[section], strict=True):
        assert found == pytest.approx(kept, abs=1e-9) if section != "table" else found == kept


def test_what_was_promised_was_seen():
    assert {claim["verdict"] for claim in RESULTS["claims"]} == {"supported"}
    assert all(row["failed"] <= 0.05 for row in RESULTS["families"])
    assert all(row["failed"] <= 0.025 for row in RESULTS["edges"])
    same = [row for row in RESULTS["stored"] if row["change"] in ("the same again",)]
    assert {row["status"] for row in same} == {"passed"}
