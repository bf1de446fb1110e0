"""What the documents say is what the files say."""

import re
from pathlib import Path

import pytest

import holdfast
from holdfast.core.files import read_json

ROOT = Path(__file__).parents[1]


def test_the_readmes_table_is_the_demos_evidence():
    import sys

    sys.path.insert(0, str(ROOT / "studies" / "demo"))
    try:
        from collect import markdown  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    results = read_json(ROOT / "studies" / "demo" / "results.json")
    assert markdown(results) in (ROOT / "README.md").read_text()


def test_the_readmes_verbs_exist(capsys):
    from holdfast.cli import run

    verbs = set(re.findall(r"^\| `holdfast (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert len(verbs) == 10
    for verb in verbs:
        assert run([verb, "--help"]) == 0
    capsys.readouterr()


def test_every_recipe_key_is_documented():
    from holdfast.pipeline import Recipe

    text = (ROOT / "docs" / "recipe.md").read_text()
    for name in Recipe.model_fields:
        assert f"`{name}" in text, name


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
