"""Scales, colours and words of a report: by hand and by formula."""

import math
import re
from pathlib import Path

import pytest

import holdfast.report
from holdfast.report.judgement import gate_limits, judge_all, verdict
from holdfast.report.marks import COLOURS, decades, linear, looks, share
from holdfast.report.pictures import table
from holdfast.report.plain import one_line, shown

STYLE = (Path(holdfast.report.__file__).parent / "page.css").read_text()
COLOUR = dict(re.findall(r"--([\w]+): light-dark\((#\w{6}, #\w{6})\)", STYLE))


def luminance(colour):
    """Relative luminance (WCAG 2)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear_parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear_parts, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_words_keep_four_and_a_half_to_one_and_marks_three(theme):
    colours = {name: pair.split(", ")[theme] for name, pair in COLOUR.items()}
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    grounds = [colours[name] for name in ("page", "card")]
    for name in ("ink", "soft", "link", "limit", "bad", "warn", "open", "good"):
        assert min(contrast(colours[name], ground) for ground in grounds) >= 4.5, name
    for name in (f"c{k}" for k in range(COLOURS)):
        assert min(contrast(colours[name], ground) for ground in (*grounds, colours["track"])) >= 3, name
        assert contrast(colours["ink"], colours["card"]) >= 4.5


def test_axes_end_at_round_numbers_and_stand_where_they_say():
    axis = linear([0.3, 7.9], low=0.0)
    assert (axis.low, axis.high) == (0.0, 8.0) and [words for _, words in axis.ticks] == ["0", "2", "4", "6", "8"]
    assert axis.at(2.0) == 25.0 and axis.at(99.0) == 100.0 and axis.at(-1.0) == 0.0
    logs = decades([0.02, 3.0, None, 0.0, math.nan])
    assert (logs.low, logs.high) == (0.01, 10.0)
    assert logs.at(0.1) == pytest.approx(100 / 3) and logs.at(0.0) == 0.0
    assert share().at(0.5) == 50.0
    for values in ([], [5.0, 5.0], [math.nan], [None]):
        assert linear(values).high > linear(values).low and decades(values).high > decades(values).low


def test_a_method_has_one_look_and_aligned_the_grey_one():
    found = looks(["plain", "aligned", "guarded", "plain"])
    assert (found["aligned"].number, found["plain"].number, found["guarded"].number) == (0, 1, 2)
    many = looks(map(str, range(20)))
    assert 0 not in {many[str(k)].number for k in range(20)}


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a\x1b[2Jb\x00", "a⟨U+001B⟩[2Jb⟨U+0000⟩"),
        ("\u202eevil\u200b\ufeff", "⟨U+202E⟩evil⟨U+200B⟩⟨U+FEFF⟩"),
        ("é 漢字 שלום\tx\n👩\u200d💻", "é 漢字 שלום\tx\n👩\u200d💻"),
        ("\ud800\r\u2028", "⟨U+D800⟩⟨U+000D⟩⟨U+2028⟩"),
        ("x" * 9, "xxxxx … and 4 more characters"),
    ],
)
def test_text_that_acts_is_named_and_text_that_reads_is_left_alone(text, safe):
    assert shown(text, 5 if text.startswith("xxx") else 2000) == safe
    shown(text).encode()


def test_a_spreadsheet_takes_no_cell_for_a_formula():
    assert table(("a",), [["=cmd()"], [math.nan], [None], [0.1], ["-x"]]) == 'a\n\'=cmd()\n""\n""\n0.1\n\'-x\n'
    assert one_line(" a\n b ") == "a b"


def summary(refusals, over=(0.0, -0.05, 0.05), task=(0.5, 0.4, 0.6), floor=None):
    measures = {"refusals": refusals, "over-refusal": over, "task score": task}
    rows = [
        {"name": "aligned", "label": "aligned", "refusal": {"value": 0.9}},
        {"name": "a", "label": "a", "seeds": [0]},
    ]
    found = [
        {
            "of": "a",
            "measure": m,
            "n": 60,
            "noise_floor": floor,
            **dict(zip(("value", "low", "high"), v, strict=True)),
        }
        for m, v in measures.items()
    ]
    return {"rows": rows, "against_aligned": found}


@pytest.mark.parametrize(
    ("given", "tone", "words", "said"),
    [
        ({"refusals": (-0.4, -0.5, -0.3)}, "bad", "40 points of refusals lost", "Lost 40 points of refusals [30,"),
        (
            {"refusals": (-0.4, -0.5, -0.3), "floor": 0.45},
            "open",
            "no loss shown",
            "one of up to 50 points is not",
        ),
        ({"refusals": (-0.1, -0.3, 0.1)}, "open", "no loss shown", "one of up to 30 points is not excluded"),
        ({"refusals": (0.1, 0.05, 0.2)}, "open", "no loss shown", "(+10 points), one of up to 0 points"),
        (
            {"refusals": (0.0, -0.1, 0.1), "over": (0.2, 0.1, 0.3)},
            "warn",
            "over-refuses",
            "20 points more of harmless",
        ),
        (
            {"refusals": (0.0, -0.1, 0.1), "task": (-0.2, -0.3, -0.1)},
            "warn",
            "task got worse",
            "fell by 20 points",
        ),
        ({"refusals": (0.0, None, None)}, "open", "refusals not compared", "refusals were not compared"),
    ],
)
def test_a_verdict_claims_what_its_intervals_allow(given, tone, words, said):
    found = judge_all(summary(**given))[0]
    assert (found.tone, found.words) == (tone, words)
    assert said.lower() in found.sentence.lower()
    first = verdict(summary(**given))
    assert first.tone == tone
    assert ("not “safe”" in first.reason.replace("is not", "not")) is (tone != "bad")
    assert "safe" not in first.sentence


def test_unclear_answers_are_said_beside_a_loss_they_may_explain():
    own = summary((-0.1, -0.2, -0.05))
    own["rows"][1]["unclear"] = {"value": 0.06}
    assert "6 % of its answers were unclear and are taken for either" in judge_all(own)[0].sentence


def test_a_gate_decides_and_the_worst_one_speaks():
    own = summary((-0.4, -0.5, -0.3))
    gates = [{"name": "a-0", "status": s, "reason": f"because {s}"} for s in ("passed", "insufficient", "failed")]
    for count, badge in ((1, "Gate: passed"), (2, "Gate: not enough evidence"), (3, "Gate: failed")):
        assert verdict(own, gates[:count]).badge == badge
    assert verdict(own, gates).sentence.startswith("a-0: because failed; a-0: because insufficient")
    gate = {
        **gates[0],
        "checks": [{"budget": "refusal_loss", "limit": 0.05}, {"budget": "task_drop", "limit": 0.1}],
    }
    gate["checks"][0] |= {"status": "passed", "reason": "the interval lies below", "power": "with 60 prompts"}
    said = verdict(own, [gate]).details[0]
    assert said == "a-0, refusal loss: passed; the interval lies below; with 60 prompts"
    assert gate_limits([gate], own["rows"]) == {"a": {"min_refusal": pytest.approx(0.85)}}
