"""A page that opens without a network, from a run folder alone, in which text stays text."""

import base64
import csv
import hashlib
import io
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from holdfast.cli import run
from holdfast.core.errors import UserError
from holdfast.report import print_summary, write_page, write_report
from holdfast.report.story import Story, fitting
from tests.report.conftest import LONG, SUMMARY

VOID = {"meta", "link", "input", "br", "use", "line", "rect", "path", "circle", "polyline", "polygon"}


class Page(HTMLParser):
    """Elements in order, ids, and whether everything that was opened is closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        assert not [name for name in values if name.startswith("on")], attrs
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src", "action") if name in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(folder):
    return write_report(folder).read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_needs_no_network_and_little_room(text, page):
    assert len(text.encode()) < 1_500_000
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"https?:|url\((?!#)|@import", text)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(v["content"] for tag, v in page.tags if tag == "meta" and "http-equiv" in v)
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert text.count("<script") == 1


def test_the_page_can_be_walked_with_a_keyboard_and_a_screen_reader(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    names = [tag for tag, _ in page.tags]
    assert {"main", "nav", "header", "footer", "caption", "figcaption"} <= set(names)
    assert names.count("table") == names.count("caption")
    drawn = [values for tag, values in page.tags if tag == "svg" and values.get("class") == "area"]
    assert len(drawn) == 6 and all(values["role"] == "img" and len(values["aria-label"]) > 20 for values in drawn)
    assert all(values.get("scope") for tag, values in page.tags if tag == "th")
    assert all(
        v.get("tabindex") == "0" and v.get("aria-label") for t, v in page.tags if v.get("class") == "wide box"
    )


def test_the_verdict_comes_first_then_the_chapters_in_order(text):
    order = ("Refusals lost in 1 of 2", "Safety: refuses what it must", "Over-refusal: refuses", "Task: held-out",
             "What happened while training", "Answers before and after", "Rows that pull hardest",
             "What the audit said", "Where the alignment sits", "Safety and task together", "Movement by layer",
             ">Under attack<", "How loosely the", ">All numbers</h2>", ">How this was computed</h2>", "abc123",
             )  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "limit while training 70 %, the value is outside" in text
    assert "learned from 3 of 4 candidates (1 gradient too large); stopped at step 10" in text
    for interval in ("[40, 60]", "[0.88, 12.3]", "[2.5, 3.5]"):
        assert interval in text


def test_hostile_text_is_never_markup_and_never_acts(text, page):
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "&lt;script&gt;alert(&#39;xss&#39;)&lt;/script&gt;⟨U+001B⟩[31mred" in text
    assert "abc⟨U+202E⟩gnp.exe⟨U+2066⟩" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    assert f"{len(LONG) - 2000:,} more characters" in text and LONG not in text
    assert "<title>holdfast run: &lt;/title&gt;" in text


def test_answers_that_differ_come_first_and_a_prompt_asked_twice_is_two(folder):
    asked = Story.read(folder).asked()
    assert [(a.prompt, a.changed) for a in asked] == [("how <b>to</b>", 1), ("twice", 1), ("twice", 0), ("sum", 0)]
    assert [x.verdict for x in asked[0].answers] == ["refused", "complied"]
    assert asked[2].answers[1].text is None  # the same words
    assert asked[3].answers[0].verdict == "right"  # and a card outside the run is not read
    assert fitting("abc", 2, lambda _: 1) == (["a", "b"], 1)


def test_rows_stand_with_their_place_and_how_often_they_were_learned_from(folder):
    first, *_, last = Story.read(folder).training_rows()
    assert (first.where, first.grad_norm, first.fate) == ("mine.jsonl line 3", 9.0, "gradient too large")
    assert first.used == (("plain", 7),) and first.text == "=1+1"
    assert (last.where, last.text) == ("mine.jsonl line 1", "p → c")


def test_the_data_of_every_picture_is_what_is_drawn(page):
    files = {v["download"]: list(csv.reader(io.StringIO(unquote(v["href"].partition(",")[2]))))
             for tag, v in page.tags if tag == "a" and "download" in v}  # fmt: skip
    assert files["kl_nats.csv"][1:] == [["plain", "0", "0", "0", "", ""], ["plain", "0", "10", "1", "", ""]]
    assert files["refusal-held-out.csv"][1] == ["aligned", "0.9", "0.8", "1", "60"]
    assert files["layers.csv"][1:] == [["plain", "0", "1.5"], ["plain", "1", "2"]]
    assert sum(int(n) for row in files["gradient_norms.csv"][1:] for n in row[2:]) == 3
    assert {"spectrum.csv", "plane.csv", "elasticity.csv", "attack-prefill-3.csv", "costs.csv"} <= set(files)


def test_two_runs_on_one_page_share_colours_and_no_id(folder, tmp_path, capsys):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "gate.json").write_text('{"name": "fixed", "status": "passed", "reason": "kept", "checks": []}')
    assert run(["report", str(folder), str(other), "--out", str(tmp_path / "both.html")]) == 0
    assert capsys.readouterr().out.count("a note⟨U+001B⟩[2J") == 2
    text = (tmp_path / "both.html").read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids)) and len(text.encode()) < 1_500_000
    assert text.index("Refusals lost in 1 of 2") < text.index("Gate: passed") < text.index("the details")
    assert set(
        re.findall(r'--of:(var\(--c\d\))"[^>]*>\s*<div class="who"><span>.{0,200}?</svg>plain &lt;', text)
    ) == {"var(--c1)"}
    with pytest.raises(UserError, match="a report needs a run folder"):
        write_page([], tmp_path / "none.html")


def test_the_terminal_tells_the_story_of_the_page_in_its_order(folder, capsys):
    print_summary(folder)
    text = capsys.readouterr().out
    flowing = " ".join(text.split())
    order = (
        "REFUSALS LOST IN 1 OF 2",
        "Refusals were lost: plain",
        "No loss is shown",
        "50 %",
        "40 points of",
        "a note",
    )
    places = [flowing.index(words) for words in order]
    assert places == sorted(places)
    assert "\x1b" not in text and "\u202e" not in text
    assert "[40, 60]" in text and "•• 40-60" in text and "[red]" in text
    # 80 columns break an interval at its comma, nowhere else
    assert all(part in text for part in ("1.250", "[0.88,", "12.3]", "[2.5,", "3.5]"))
    assert "a minus b: no difference seen: +10.0 points [-10.0, +30.0] over 60 prompts, the interval" in text


def test_a_summary_alone_is_enough_and_a_folder_without_one_is_the_users_to_mend(tmp_path):
    few = {"title": "t", "holdfast": "0", "rows": SUMMARY["rows"], "differences": [], "notes": []}
    (tmp_path / "summary.json").write_text(json.dumps(few))
    assert "Not compared" in write_report(tmp_path).read_text()
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(UserError, match="not the summary of a run"):
        write_report(tmp_path)
    (tmp_path / "summary.json").unlink()
    with pytest.raises(UserError, match=r"summary\.json: no such file"):
        write_report(tmp_path)
