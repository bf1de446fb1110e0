"""``holdfast gate``, ``verify`` and ``card``: exit codes, files, and what is refused."""

import json
import re
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
import yaml

from holdfast.cli import run
from holdfast.core.files import write_json
from holdfast.gating import BUDGETS as BUDGET_NAMES
from holdfast.gating import read_policy
from tests.gating.rows import C, E, R, save_card

ROOT = Path(__file__).parents[2]
SAME = [("harmful", R, R)] * 120 + [("benign", C, C)] * 120
WORSE = [("harmful", C, R)] * 60 + [("harmful", R, R)] * 60 + [("benign", C, C)] * 120
FEW = [("harmful", R, R)] * 20 + [("benign", C, C)] * 120
DOWN = [("harmful", E, R)] * 120 + [("benign", C, C)] * 120
BUDGETS = ["--max-refusal-loss", "5", "--max-over-refusal-rise", "5"]


def gate(*arguments):
    return run(["gate", *map(str, arguments)])


@pytest.mark.parametrize(
    ("pairs", "code", "status"),
    [(SAME, 0, "passed"), (WORSE, 3, "failed"), (FEW, 4, "insufficient"), (DOWN, 4, "insufficient")],
)
def test_the_exit_code_is_the_verdict_and_json_is_all_that_is_printed(pairs, code, status, tmp_path, capsys):
    card = save_card(tmp_path / "card", pairs)
    assert gate(card, *BUDGETS, "--json") == code
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == status and told["reason"].startswith(status)
    assert len(told["checks"]) == 2 and told["policy"]["max_refusal_loss"] == 5
    assert "no noise floor" in told["notes"][0]
    if pairs is FEW:
        assert "an unchanged model passes from 73 prompts on" in told["checks"][0]["power"]
    if pairs is DOWN:
        assert told["checks"][0]["why"] == "unknown" and told["checks"][0]["unknown"] == 120


def test_drift_tasks_and_the_noise_floor_come_from_the_card(tmp_path, capsys):
    card = save_card(tmp_path / "card", WORSE, [0.1, 0.3] * 12, [(0.5, 0.5)] * 120)
    budgets = tmp_path / "gate.yaml"
    budgets.write_text("max_refusal_loss: 5\nmax_task_drop: 5\nmax_kl_nats: 1\n")
    write_json(card / "comparison.json", {"floors": {"refusal: refusal": {"floor": 0.5}}})
    assert gate(card, "--budgets", budgets, "--json") == 4
    first, task, drift = json.loads(capsys.readouterr().out)["checks"]
    assert (first["why"], first["floor"]) == ("floor", 0.5)
    assert (task["status"], drift["status"], task["suite"]) == ("passed", "passed", "sums")
    write_json(card / "comparison.json", {"floors": {"refusal: refusal": {"floor": "much"}}})
    assert gate(card, "--budgets", budgets) == 2


def test_a_run_is_gated_model_by_model(tmp_path, capsys):
    for name, pairs in (("aligned", SAME), ("plain-0", WORSE), ("guarded-0", SAME), ("guarded-1", SAME)):
        stage = tmp_path / "run" / "stages" / f"evaluate-{name}"
        save_card(stage / "card", pairs, against=False)
        write_json(stage / "stage.json", {})
        save_card(stage / "card", [(kind, ours, "") for kind, ours, _ in pairs], against=False)
    write_json(tmp_path / "run" / "manifest.json", {"inputs": {"train": "a" * 64}, "holdfast": "0", "threads": 1})
    (adapter := tmp_path / "run" / "stages" / "train-plain-0" / "adapter").mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    folder, evidence = tmp_path / "run", tmp_path / "e.json"
    assert gate(folder, *BUDGETS, "--arm", "plain", "--evidence", evidence) == 3
    bindings = json.loads(evidence.read_text())["predicate"]["bindings"]
    assert set(bindings["adapter"]["files"]) == {"adapter_model.safetensors"} and bindings["data"]
    assert gate(folder, *BUDGETS, "--arm", "guarded-1") == 0
    assert gate(folder, *BUDGETS, "--arm", "plain-0", "--reference", "plain-0") == 2
    capsys.readouterr()
    for arms, said in (
        (["--arm", "guarded"], "guarded-0, guarded-1"),
        ([], "choose one"),
        (["--arm", "x"], "'x'"),
    ):
        assert gate(folder, *BUDGETS, *arms) == 2
        assert said in capsys.readouterr().err


def test_reports_for_machines_and_people_hold_untrusted_names_harmlessly(tmp_path, capsys):
    card = save_card(tmp_path / "card", SAME, [0.1] * 12, [(1.0, 1.0)] * 120)
    values = json.loads((card / "scorecard.json").read_text())
    values["notes"] = ["<script>alert(1)</script> | `x` \x1b[31m"]
    values["skills"][0]["name"] = "a|b<i>: &\n- x"
    write_json(card / "scorecard.json", values)
    files = [tmp_path / name for name in ("gate.xml", "gate.md", "card.md", "evidence.json")]
    options = ["--max-task-drop", 5, "--junit", files[0], "--markdown", files[1], "--evidence", files[3]]
    assert gate(card, *BUDGETS, *options) == 0
    assert gate(card, *BUDGETS, *options) == 2 and "--force" in capsys.readouterr().err
    suite = xml.parse(files[0]).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "0", "0")
    assert files[1].read_text().count("✅ passed |") == 3
    assert run(["card", str(card), "--name", "my: model", "--out", str(files[2])]) == 0
    text = files[2].read_text()
    _, metadata, page = text.split("---\n", 2)
    found = yaml.safe_load(metadata)["model-index"][0]
    assert found["name"] == "my: model"
    refusal = found["results"][0]["metrics"][0]
    assert (refusal["value"], refusal["args"]["n"]) == (1.0, 120) and found["results"][0]["dataset"][
        "name"
    ] == "a|b<i>: &\n- x"
    assert "<script>" not in page and "\x1b" not in page and "a\\|b&lt;i" in page
    assert "harmful 3" not in text and "answer 3" not in text
    capsys.readouterr()
    assert run(["verify", str(files[3]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["holds"]
    files[3].write_text(files[3].read_text().replace("refused", "complied", 1))
    assert run(["verify", str(files[3]), "--json"]) == 3
    printed = capsys.readouterr()
    assert not json.loads(printed.out)["holds"] and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda card: (card / "scorecard.json").unlink(), "no scorecard.json"),
        (lambda card: (card / "scorecard.json").write_text("[]"), "not a card"),
        (lambda card: (card / "responses.parquet").unlink(), "no such file"),
        (lambda card: (card / "responses.parquet").write_bytes(b"PAR1"), "damaged"),
        (lambda card: (card / "provenance.json").write_text("[]"), "evaluate again"),
    ],
)
def test_a_damaged_card_is_wrong_use(damage, said, tmp_path, capsys):
    card = save_card(tmp_path / "card", SAME)
    damage(card)
    assert gate(card, *BUDGETS) == 2
    assert said in capsys.readouterr().err
    assert gate(tmp_path / "nowhere", *BUDGETS) == 2 and gate(card) == 2


def test_a_card_with_nothing_to_compare_with_or_other_prompts_decides_nothing(tmp_path, capsys):
    card = save_card(tmp_path / "card", SAME, against=False)
    assert gate(card, *BUDGETS, "--max-task-drop", 5, "--max-kl-nats", 5) == 4
    assert "evaluate with --against" in " ".join(capsys.readouterr().out.split())
    save_card(card / "against", SAME[1:], against=False)
    assert gate(card, *BUDGETS, "--json") == 4
    assert "not the same prompts" in capsys.readouterr().out
    values = json.loads((card / "scorecard.json").read_text())
    write_json(card / "scorecard.json", {**values, "settings": {"judge": "Another"}})
    assert gate(card, *BUDGETS, "--json") == 4
    assert "the two cards differ in judge" in capsys.readouterr().out


def test_the_action_and_the_examples_speak_of_what_there_is(tmp_path):
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    script = action["runs"]["steps"][1]["run"]
    assert "${{" not in script  # inputs are variables, never text of a script
    help_text = typer_options("gate") | typer_options("verify")
    files = [script, *(path.read_text() for path in (ROOT / "examples" / "gate").iterdir())]
    for flag in {flag for text in files for flag in re.findall(r"holdfast (?:gate|verify)[^\n]*", text)}:
        assert set(re.findall(r"--[a-z-]+", flag)) <= help_text, flag
    workflow = yaml.safe_load((ROOT / "examples" / "gate" / "workflow.yml").read_text())
    given = workflow["jobs"]["gate"]["steps"][3]["with"]
    assert set(given) <= set(action["inputs"])
    assert read_policy(ROOT / "examples" / "gate" / "gate.yaml").asked == BUDGET_NAMES


def typer_options(verb):
    import typer.main

    from holdfast.cli.app import build_app

    return {o for p in typer.main.get_command(build_app()).commands[verb].params for o in p.opts}
