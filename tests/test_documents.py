"""What the documents say is what the files say."""

import importlib
import json
import re
from pathlib import Path

import pytest
import yaml
from docs.making import formats, pictures
from studies import prose
from studies.demo import collect

import holdfast
from holdfast.core.files import read_json
from holdfast.pipeline import sections

ROOT = Path(__file__).parents[1]


def test_every_number_in_prose_and_every_table_comes_from_a_file():
    problems = prose.check_all()
    assert not problems, "\n".join(map(str, problems))
    readme = (ROOT / "README.md").read_text()
    assert collect.markdown(read_json(ROOT / "studies" / "demo" / "results.json")) in readme


@pytest.fixture
def said(tmp_path, monkeypatch):
    """``said(text, checked, given)``: the problems of a text, and the text put right; beside a file of results."""
    (tmp_path / "studies" / "x").mkdir(parents=True)
    results = {"rows": [{"name": "a", "rate": 0.0724}, {"name": "b", "rate": 0.125, "nats": -2.5}], "n": 1200}
    (tmp_path / "studies" / "x" / "results.json").write_text(json.dumps(results))
    monkeypatch.setattr(prose, "ROOT", tmp_path)

    def ask(text, checked=(), given=()):
        problems, right = prose.check("page", text, {"checked": checked, "given": given})
        return [str(problem) for problem in problems], right

    return ask


RATE = "falls to {x: rows>a>rate %} %"


def test_a_number_agrees_in_the_digits_it_prints(said):
    for text in ("it falls to 7 %.", "it falls to\n7.2 %.", "it falls to 7.24 %"):
        assert said(text, [RATE]) == ([], text)
    problems, right = said("one\nit falls to 1 %.", [RATE])
    assert problems == ["page:2: says 1, {x: rows>a>rate %} says 7"]
    assert right == "one\nit falls to 7 %."
    assert said("it falls to 7.3 %", [RATE])[1] == "it falls to 7.2 %"
    for tie in ("12", "13"):  # 12.5
        assert not said(f"x is {tie} %", ["is {x: rows>name=b>rate %} %"])[0]
    assert not said("fell by 2.5 nats", ["by {x: rows>1>nats -} nats"])[0]
    assert said("was +3 nats", ["was {x: rows>1>nats} nats"])[1] == "was -2 nats"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("falls to 1 % there", ["1"]),
        ("from 12 % to 7 %, or 3 to 5 points", ["12", "7", "3", "5"]),
        ("takes 40 seconds and 3.5 GB, 2 times as much", ["40", "3.5", "2"]),
        ("kappa 0.00, over 2 nats [1, 15]", ["0.00", "2", "1", "15"]),
        ("107 of 107 pairs", ["107", "107"]),
        ("task scores 0.65, 1.00 and 0.65", ["0.65", "1.00", "0.65"]),
        ("three of 120 prompts in 2026, seeds 0, 1 and 2", []),
        ("`0.5` and\n\n    x = 0.5\n\n```\n5 %\n``` and <!-- 5 % --> and [x](y-0.5.md) and Qwen2.5", []),
        ("<!-- t -->\n| 5 % |\n<!-- end of t -->", []),
    ],
)
def test_which_numbers_need_a_source(said, text, numbers):
    assert [match.group() for match in prose.numbers_in(prose.prose_of(text))] == numbers
    assert len(said(text)[0]) == len(numbers)


def test_a_number_without_a_file_needs_a_reason_and_a_reference_must_lead_somewhere(said):
    text = "a budget of 2 nats"
    assert "nothing vouches for 2" in said(text)[0][0]
    assert said(text, given=[{"text": "budget of 2 nats", "why": "a setting"}])[0] == []
    assert "without a reason" in said(text, given=[{"text": "budget of 2 nats"}])[0][0]
    assert "not in the text" in said("nothing", given=[{"text": "budget of 2 nats", "why": "a setting"}])[0][0]
    assert "not in the text" in said("nothing", [RATE])[0][0]
    assert "no entry 'c'" in said("falls to 7 %", ["falls to {x: rows>c>rate %} %"])[0][0]
    assert "'rats'" in said("falls to 7 %", ["falls to {x: rows>a>rats %} %"])[0][0]


def test_the_readmes_verbs_exist(capsys):
    from holdfast.cli import run

    verbs = set(re.findall(r"^\| `holdfast (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert len(verbs) == 16
    for verb in verbs:
        assert run([verb, "--help"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("page", formats.TABLES)
def test_tables_of_formats_are_those_of_the_models(page):
    text = (ROOT / "docs" / page).read_text()
    assert formats.regenerate(page, text) == text, "python -m docs.making.formats"


def test_a_key_without_a_meaning_is_an_error():
    class Part(sections.Section):
        told: int = 1  # how often
        untold: int = 2

    with pytest.raises(LookupError, match=r"Part\.untold"):
        formats.table(Part)


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_are_those_of_the_results(name):
    assert pictures.PICTURES[name]() == (ROOT / "docs" / "methods" / f"{name}.svg").read_text()


def test_the_site_has_every_page_and_every_public_name():
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.SafeLoader)
    in_menu = re.findall(r"[\w/-]+\.md", json.dumps(site["nav"]))
    assert sorted(in_menu) == sorted(
        p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")
    )
    shown = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "reference" / "index.md").read_text(), re.MULTILINE)
    assert {name.rpartition(".")[2] for name in shown} == {*holdfast.__all__} - {"__version__"}
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE):
            room, _, thing = name.rpartition(".")
            assert hasattr(importlib.import_module(room), thing), name


def test_links_of_the_site_lead_to_files():
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_every_name_in_the_readmes_python_exists():
    names = set(re.findall(r"holdfast\.(\w+)\(", (ROOT / "README.md").read_text()))
    assert names >= {"load", "read_examples", "GuardedTrainer", "restore", "evaluate"}
    for name in names:
        assert hasattr(holdfast, name), name


@pytest.mark.parametrize("name", holdfast.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(holdfast, name) is not None


def test_no_file_of_a_study_holds_prompts():
    for path in ROOT.glob("studies/*/results.json"):
        results = read_json(path)
        assert {"study", "command", "versions", "device", "seconds", "claims"} <= results.keys(), path
        for claim in results["claims"]:
            assert claim["verdict"] in ("supported", "not supported", "undecided"), (path, claim["id"])


def test_the_evaluation_page_names_every_attack_and_judge():
    from holdfast.evaluation.attacks.named import SPELLINGS as attacks
    from holdfast.evaluation.judges.named import SPELLINGS as judges

    text = (ROOT / "docs" / "evaluation.md").read_text()
    for name in (*attacks, *judges):
        if name != "direct":
            assert f"`{name}" in text, name
