"""What the documents say is what the files say."""

import json
import re
from pathlib import Path
from typing import get_args

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
    assert len(verbs) == 11
    for verb in verbs:
        assert run([verb, "--help"]) == 0
    capsys.readouterr()


def test_every_recipe_key_is_documented():
    from holdfast.pipeline import Recipe

    text = (ROOT / "docs" / "recipe.md").read_text()
    rows = {line.split("|")[1] for line in text.splitlines() if line.startswith("| `")}
    for name, field in Recipe.model_fields.items():
        assert f"`{name}" in text, name
        section = next(
            (part for part in (field.annotation, *get_args(field.annotation)) if is_section(part)), None
        )
        for key in section.model_fields if section is not None else ():
            told = any(f"`{name}" in row and f".{key}`" in row for row in rows) or name in ("arms", "restore")
            assert told, f"{name}.{key}"


def is_section(part):
    return hasattr(part, "model_fields")


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


@pytest.mark.slow
def test_the_readmes_python_runs_as_written_but_for_the_model(tmp_path, monkeypatch, capsys):
    from holdfast import organism

    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    short = {
        "Qwen/Qwen2.5-1.5B-Instruct": str(organism.shipped("aligned")),
        "max_steps=200": "max_steps=2",
        "per_device_train_batch_size=32": "per_device_train_batch_size=8",
        "every=20": "every=1",
    }
    for written, run_as in short.items():
        assert written in block
        block = block.replace(written, run_as)
    monkeypatch.chdir(tmp_path)
    rows = organism.task_rows("lessons", "train", 24, 0)
    keep = [{key: row[key] for key in ("prompt", "completion")} for row in rows]
    Path("train.jsonl").write_text("\n".join(map(json.dumps, keep)))
    Path("harmful.txt").write_text("\n".join(organism.proxy_prompts("estimate", "overt", 40, 0)))
    Path("benign.txt").write_text("\n".join(organism.proxy_prompts("estimate", "lookalike", 40, 0)))
    exec(compile(block, "README.md", "exec"), {})
    assert "refusal" in capsys.readouterr().out
    assert (tmp_path / "repaired" / "adapter_model.safetensors").exists()


def test_the_evaluation_pages_python_runs_but_for_the_model(tmp_path, monkeypatch, capsys):
    from holdfast import organism

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("harmful.txt").write_text("\n".join(organism.proxy_prompts("estimate", "overt", 20, 0)))
    Path("benign.txt").write_text("\n".join(organism.proxy_prompts("estimate", "lookalike", 20, 0)))
    for block in blocks:
        run_as = block.replace("Qwen/Qwen2.5-1.5B-Instruct", str(organism.shipped("aligned")))
        exec(compile(run_as, "evaluation.md", "exec"), {})
    told = capsys.readouterr().out
    assert "refusal under past-tense" in told and "text, 1 answer a prompt" in told


def test_the_evaluation_page_names_every_attack_and_judge():
    from holdfast.evaluation.attacks.named import SPELLINGS as attacks
    from holdfast.evaluation.judges.named import SPELLINGS as judges

    text = (ROOT / "docs" / "evaluation.md").read_text()
    for name in (*attacks, *judges):
        if name != "direct":
            assert f"`{name}" in text, name
