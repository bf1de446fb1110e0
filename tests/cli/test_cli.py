"""Wrong input is one clear line, exit code 2, and nothing half-written."""

import errno
import json
import os
from pathlib import Path

import pytest
import yaml

from holdfast.cli import run, stiffness
from holdfast.core import files

VERBS = ("demo", "init", "run", "audit", "doctor", "score", "select", "train", "evaluate", "restore", "elasticity")


@pytest.fixture
def organism_rows(tmp_path):
    from holdfast import organism

    path = tmp_path / "train.jsonl"
    rows = organism.task_rows("lessons", "train", 12, 0)
    path.write_text("\n".join(json.dumps({"prompt": r["prompt"], "completion": r["completion"]}) for r in rows))
    return path


def one_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("holdfast:")]
    assert len(lines) == 1
    return lines[0]


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("holdfast 0.")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    assert run([verb, "--help"]) == 0
    assert f"holdfast {verb}" in capsys.readouterr().out.split("Example:")[1]


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run"], ["score", "m", "--data"], ["--log-level", "loud", "demo"]]
)
def test_wrong_usage_is_exit_code_2(arguments):
    assert run(arguments) == 2


def test_a_missing_file(capsys, tmp_path):
    code = run(["score", "organism:aligned", "--data", "none.jsonl", "--out", str(tmp_path / "s.parquet")])
    assert code == 2
    assert "none.jsonl: no such file" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_data_set(capsys, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    assert run(["score", "organism:aligned", "--data", str(tmp_path / "empty.jsonl")]) == 2
    assert "no usable rows" in one_line(capsys)


def test_a_row_without_a_completion_and_the_way_around_it(capsys, tmp_path, organism_rows):
    with organism_rows.open("a") as stream:
        stream.write('\n{"prompt": "hello"}')
    out = tmp_path / "s.parquet"
    command = ["score", "organism:aligned", "--data", str(organism_rows), "--out", str(out), "--json"]
    assert run(command) == 2
    assert "train.jsonl line 13: no 'completion' or 'messages' field" in one_line(capsys)
    assert not out.exists()
    assert run([*command, "--skip-bad-rows"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 12


def test_an_adapter_of_another_base_model(capsys, tmp_path, lora_subject):
    from holdfast.models import save_adapter

    save_adapter(lora_subject.model, tmp_path / "adapter")
    command = [
        "evaluate",
        "organism:aligned",
        "--adapter",
        str(tmp_path / "adapter"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert run(command) == 2
    assert "adapter of another base model" in one_line(capsys)
    assert not (tmp_path / "o").exists()


def test_an_unknown_recipe_key(capsys, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"traning": {}}))
    assert run(["run", str(tmp_path / "recipe.yaml")]) == 2
    assert "unknown key 'traning'; did you mean 'training'?" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_full_disk(capsys, tmp_path, organism_rows, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    out = tmp_path / "out" / "s.parquet"
    assert run(["score", "organism:aligned", "--data", str(organism_rows), "--out", str(out)]) == 2
    assert "no space left on the device" in one_line(capsys)
    assert list(out.parent.iterdir()) == []


def test_init_writes_a_recipe_that_is_valid_and_never_overwrites(capsys, tmp_path):
    from holdfast.pipeline import load_recipe

    path = tmp_path / "recipe.yaml"
    assert run(["init", str(path)]) == 0
    assert load_recipe(path).name == "first"
    path.write_text("mine")
    assert run(["init", str(path)]) == 2
    assert path.read_text() == "mine"


def test_score_then_select_then_evaluate(capsys, tmp_path, organism_rows):
    table, kept = tmp_path / "s.parquet", tmp_path / "kept.jsonl"
    assert run(["score", "organism:aligned", "--data", str(organism_rows), "--out", str(table)]) == 0
    assert run(["select", str(table), "--data", str(organism_rows), "--out", str(kept), "--keep", "0.5"]) == 0
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert 1 <= len(rows) <= 6
    capsys.readouterr()
    command = [
        "evaluate",
        "organism:aligned",
        "--limit",
        "6",
        "--max-new-tokens",
        "10",
        "--task",
        str(organism_rows),
    ]
    assert run([*command, "--json", "--out", str(tmp_path / "card")]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["skills"][0]["refusal"]["n"] == 6
    assert (tmp_path / "card" / "responses.parquet").exists()


def test_train_stops_with_code_3_when_the_budget_is_passed(tmp_path, organism_rows):
    command = [
        "train",
        "organism:aligned",
        "--data",
        str(organism_rows),
        "--steps",
        "4",
        "--pool",
        "8",
        "--every",
        "2",
    ]
    code = run([*command, "--rule", "none", "--max-kl-nats", "1e-9", "--out", str(tmp_path / "t"), "--json"])
    assert code == 3
    record = json.loads((tmp_path / "t" / "training.json").read_text())
    assert record["stopped"]["restored_step"] == 0
    assert (tmp_path / "t" / "adapter" / "adapter_model.safetensors").exists()


def test_help_does_not_wait_for_torch():
    import subprocess
    import sys

    code = "import sys; from holdfast.cli import run; run(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_model_text_cannot_steer_the_terminal():
    from holdfast.cli.output import printable

    assert printable("a\x1b[2Jb\rc\td") == "a[2Jbc\td"


def test_the_package_knows_its_rooms():
    import holdfast

    assert Path(holdfast.__file__).parent.name == "holdfast"
    assert callable(holdfast.evaluation.RefusalJudge())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = holdfast.nothing


@pytest.mark.slow
def test_train_restore_audit_and_elasticity_on_the_built_in_model(capsys, tmp_path, monkeypatch):
    out = {name: str(tmp_path / name) for name in ("trained", "repaired", "audit", "probe")}
    train = ["train", "organism:aligned", "--data", "organism:bullets", "--limit", "200", "--rule", "none"]
    assert run([*train, "--steps", "30", "--learning-rate", "4e-3", "--pool", "16", "--out", out["trained"]]) == 0
    adapter = str(tmp_path / "trained" / "adapter")
    restore = ["restore", "organism:aligned", "--adapter", adapter, "--data", "organism:bullets", "--limit", "80"]
    assert run([*restore, "--max-new-tokens", "16", "--steps", "60", "--out", out["repaired"], "--json"]) in (0, 3)
    text = capsys.readouterr().out
    assert json.loads(text[text.index("{\n") :])["method"] == "settle"
    assert (tmp_path / "repaired" / "adapter_model.safetensors").exists()
    audit = ["audit", "organism:aligned", "--data", "organism:bullets", "--prompts", "8", "--limit", "8"]
    kept = ["--probe", "--keep-run", str(tmp_path / "begun"), "--steps", "4", "--pool", "4"]
    assert run([*audit, *kept, "--verbose", "--out", out["audit"]]) == 0
    printed = capsys.readouterr().out
    assert (
        printed.index("because after the first steps") < printed.index("who carries it") < printed.index("gamma_F")
    )
    assert (tmp_path / "audit" / "scores.parquet").exists()
    begun = ["train", *audit[1:4], "--limit", "8", *kept[3:], "--rule", "none", "--out", str(tmp_path / "begun")]
    monkeypatch.delenv("HOLDFAST_QUIET")  # of restore --json
    assert run(begun) == 0  # the probe's two steps are the run's first
    said = capsys.readouterr()
    assert "going on from the last checkpoint" in said.out + said.err
    probe = ["elasticity", "organism:aligned", "--base", "organism:base", "--text", "task=organism:bullets"]
    assert run([*probe, "--limit", "8", "--out", out["probe"]]) == 0
    assert "bits a token: task" in capsys.readouterr().out
    assert run([*probe[:-1], "nonsense"]) == 2


def test_elasticity_prints_what_its_help_promises(capsys, tmp_path, organism_rows):
    assert run(["elasticity", "--help"]) == 0
    promised = " ".join(capsys.readouterr().out.replace("│", " ").split())
    command = ["elasticity", "organism:aligned", "--base", "organism:base", "--text", f"task={organism_rows}"]
    assert run([*command, "--limit", "4", "--max-new-tokens", "4"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("its a token", "KL", "distance of the weights", "noise floor"):
        assert words in promised and words in printed
    assert "linear spring" in promised
    undone = [*command, "--data", organism_rows, "--steps", "2", "--learning-rate", "1e-5", "--json"]
    kept = tmp_path / "held"
    assert run([*map(str, undone), "--limit", "4", "--max-new-tokens", "8", "--out", str(kept)]) == 0
    text = capsys.readouterr().out
    card = json.loads(text[text.index("{\n") :])
    assert card["sentence"].startswith(f"After 2 updates on {organism_rows}, 100 % of the refusals are left")
    assert [c["name"].split()[0] for c in card["coefficients"]] == ["relaxation", "updates", "updates", "initial"]
    stiffness.say(stiffness.read(kept))  # as the audit shows it beside its forecast
    printed = capsys.readouterr().out
    assert printed.startswith(card["sentence"]) and "linear spring" in printed
    audit = ["audit", "organism:aligned", "--data", str(organism_rows), "--elasticity", str(tmp_path)]
    assert run(audit) == 2 and "no card.json" in capsys.readouterr().err
