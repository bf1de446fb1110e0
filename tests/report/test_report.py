"""A page that opens without a network, from numbers alone, in which text stays text."""

import json
import re

import pytest

from holdfast.core.errors import UserError
from holdfast.report import print_summary, write_report

RATE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 60, "method": "wilson", "per_seed": [0.4, 0.6]}
ROW = {
    "name": "plain",
    "label": "plain <script>alert(1)</script> [red]",
    "repaired_from": None,
    "refusal": RATE,
    "over_refusal": RATE,
    "unclear": None,
    "task_score": RATE,
    "task_loss_nats": {"value": None, "per_seed": [None, None]},
    "drift_kl_nats": {"value": 1.25, "low": 0.875, "high": 12.34, "n": 40, "per_seed": [1.0, 1.5]},
    "seconds": {"value": 3.0, "low": 2.5, "high": 3.5, "n": 2, "per_seed": [2.5, 3.5]},
}
SUMMARY = {
    "title": "holdfast run: </title><b>x",
    "holdfast": "0",
    "rows": [ROW, {**ROW, "name": "fixed", "label": "fixed", "repaired_from": "plain"}],
    "differences": [{"name": "a minus b", "value": 0.1, "low": -0.1, "high": 0.3, "n": 60}],
    "notes": ["a note"],
    "drift_traces": [{"arm": "plain", "seed": 0, "step": [0, 10], "kl_nats": [0.0, 1.0], "refusal": [1.0, None]}],
    "spectrum": {"eigenvalues": [3.0, 1.0, 0.1, 0.0], "null_edge": 0.5, "rank_above_edge": 2},
    "scores": {
        "grad_norm": [1.0, 2.0, 9.0],
        "kept": [True, True, False],
        "kept_low": 1.0,
        "kept_high": 2.0,
        "rule": "x",
    },
    "audit": None,
    "elasticity": None,
    "setting": {"x": "</script><script>alert(2)</script>"},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    return tmp_path


def test_the_page_has_four_pictures_and_needs_no_network(folder):
    page = write_report(folder).read_text()
    assert page.count('id="picture-') == 4
    without_plotly = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)\s*=\s*["\']?(https?:)?//', without_plotly)
    assert not re.search(r"<script[^>]+src=", page)
    assert len(page) > 1_000_000  # plotly itself is inside


def test_the_page_shows_the_interval_of_every_figure_that_has_one(folder):
    page = write_report(folder).read_text()
    for interval in ("[40, 60]", "[0.88, 12.3]", "[2.5, 3.5]"):
        assert interval in page
    assert "over seeds and prompts" in page and "Wilson" not in page


def test_text_is_never_markup(folder):
    page = write_report(folder).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<title>holdfast: holdfast run: &lt;/title&gt;" in page


def test_the_terminal_says_what_the_page_says(folder, capsys):
    print_summary(folder)
    text = capsys.readouterr().out
    assert "50 %" in text and "[40, 60]" in text and "•• 40-60" in text
    # 80 columns break an interval at its comma, nowhere else
    assert all(part in text for part in ("1.250", "[0.88,", "12.3]", "[2.5,", "3.5]"))
    assert "over seeds and prompts" in text and "Wilson" not in text
    assert "[red]" in text
    assert "a minus b: no difference seen: +10.0 points [-10.0, +30.0] over 60 prompts, the interval" in text


def test_a_folder_without_a_summary_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match=r"summary\.json: no such file"):
        write_report(tmp_path)
