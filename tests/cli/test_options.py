"""One flag, one meaning, on every verb."""

import inspect
import os
import subprocess
import sys
from typing import Annotated, get_args, get_origin

import pytest

from holdfast.cli import run
from holdfast.cli.app import build_app
from holdfast.cli.options import GROUPS, Loading, Prompts, Rows
from holdfast.core.progress import QUIET_VARIABLE

PLAIN = {
    "init",
    "run",
    "demo",
    "select",
    "report",
    "watch",
    "gate",
    "verify",
    "card",
}  # verbs that load no model themselves


def verbs():
    return {command.name: command.callback for command in build_app().registered_commands}


def flags():
    """verb -> flag -> (type, help, all names of it)."""
    found = {}
    for verb, callback in verbs().items():
        found[verb] = {}
        for parameter in inspect.signature(callback).parameters.values():
            assert get_origin(parameter.annotation) is Annotated, f"{verb} {parameter.name}"
            kind, info = get_args(parameter.annotation)
            names = tuple(info.param_decls or ()) or (f"--{parameter.name.replace('_', '-')}",)
            bare = [part for part in get_args(kind) if part is not type(None)] or [kind]
            found[verb][names[0].split("/")[0]] = (str(bare[0]), info.help, names)
    return found


def test_a_flag_of_one_name_has_one_type_and_one_help_text_everywhere():
    found, different = flags(), []
    for name in sorted({flag for options in found.values() for flag in options if flag.startswith("--")}):
        meanings = {options[name] for options in found.values() if name in options}
        if len(meanings) > 1:
            different.append((name, meanings))
    assert different == []


def options_of(group):
    return {f"--{name.replace('_', '-')}" for name in group.__dataclass_fields__}


@pytest.mark.parametrize("verb", sorted(set(verbs()) - PLAIN))
def test_every_verb_that_loads_a_model_takes_every_option_of_loading(verb):
    assert options_of(Loading) | {"--adapter"} <= set(flags()[verb])


@pytest.mark.parametrize("verb", sorted(set(verbs()) - PLAIN))
def test_every_verb_that_reads_rows_takes_every_option_of_reading(verb):
    assert options_of(Rows) <= set(flags()[verb])


@pytest.mark.parametrize("verb", ["audit", "train", "evaluate", "restore", "elasticity"])
def test_every_verb_that_asks_prompts_takes_every_option_of_them(verb):
    assert options_of(Prompts) <= set(flags()[verb])


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_made_of_options(group):
    assert all(get_origin(hint) is Annotated for hint in inspect.get_annotations(group).values())


def test_quiet_and_the_log_level_stand_on_either_side_of_the_verb(tmp_path, monkeypatch, capsys):
    import logging

    for number, place in enumerate(([], ["-q"])):
        monkeypatch.delenv(QUIET_VARIABLE, raising=False)
        before, after = (place, []) if number else ([], ["--quiet"])
        assert run([*before, "init", str(tmp_path / f"{number}.yaml"), *after]) == 0
        assert os.environ[QUIET_VARIABLE] == "1"
    level = logging.getLogger().level
    try:
        assert run(["init", str(tmp_path / "c.yaml"), "--log-level", "debug"]) == 0
        assert logging.getLogger().level == logging.DEBUG
        assert run(["--log-level", "debug", "init", str(tmp_path / "d.yaml"), "--log-level", "error"]) == 0
        assert logging.getLogger().level == logging.ERROR
    finally:
        logging.getLogger().setLevel(level)
    assert run(["init", str(tmp_path / "e.yaml"), "--log-level", "loud"]) == 2
    assert "'loud' is not one of" in capsys.readouterr().err
    assert not (tmp_path / "e.yaml").exists()


def test_the_shell_completes_verbs_and_options():
    environment = {
        **os.environ,
        "_HOLDFAST_COMPLETE": "complete_bash",
        "COMP_WORDS": "holdfast ev",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-m", "holdfast"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["evaluate"]


@pytest.mark.parametrize("entry", ["enable_thinking", "=false", "two words=1"])
def test_a_template_value_without_a_name_is_refused(entry, capsys):
    assert run(["doctor", "organism:aligned", "--template-kwarg", entry]) == 2
    assert "give NAME=VALUE" in capsys.readouterr().err


def test_template_values_are_read_as_a_recipe_reads_them():
    from holdfast.cli.output import template_values

    given = ["enable_thinking=false", "depth=3", "name=a=b", "empty="]
    assert template_values(given) == {"enable_thinking": False, "depth": 3, "name": "a=b", "empty": None}


ROWS_AND_OUT = ("--data", "ROWS", "--out", "OUT")
NAMED = ("--prompt-column", "q", "--completion-column", "a")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", *ROWS_AND_OUT], "rows.jsonl line 2: "),
        (["audit", *ROWS_AND_OUT], "rows.jsonl line 2: "),
        (["train", *ROWS_AND_OUT], "rows.jsonl line 2: "),
        (["restore", *ROWS_AND_OUT, "--adapter", "OUT"], "rows.jsonl line 2: "),
        (["doctor", "--data", "ROWS"], "rows.jsonl line 2: "),
        (["elasticity", "--base", "organism:base", "--text", "mine=ROWS"], "rows.jsonl line 2: "),
        (
            ["score", *ROWS_AND_OUT, "--prompt-column", "q", "--completion-column", "a"],
            "no column 'q'; columns are",
        ),
        (["elasticity", "--text", "mine=ROWS"], "give its parent with --base, or an adapter of it"),
    ],
)
def test_rows_and_columns_are_checked_before_a_model_is_loaded(words, message, tmp_path, capsys, monkeypatch):
    def loads(*_args, **_kwargs):
        raise AssertionError("loaded")

    monkeypatch.setattr("holdfast.pipeline.inputs.load", loads)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "answers": 3}\n')
    names = {"ROWS": str(rows), "OUT": str(tmp_path / "out")}
    assert (
        run(
            [
                words[0],
                "organism:aligned",
                *(names.get(word, word.replace("ROWS", str(rows))) for word in words[1:]),
            ]
        )
        == 2
    )
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said
    assert str(rows.name) in said or "--base" in said
    assert not (tmp_path / "out").exists()


def test_a_note_names_the_file_once(tmp_path, capsys, monkeypatch):
    from holdfast.cli.output import report_rows
    from holdfast.data import Examples

    monkeypatch.delenv(QUIET_VARIABLE, raising=False)
    report_rows(
        Examples([], source=str(tmp_path / "a.csv"), recognised="text rows", notes=["a.csv: separator ';'"])
    )
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path / 'a.csv'}: text rows",
        f"{tmp_path / 'a.csv'}: separator ';'",
    ]


@pytest.mark.parametrize(
    ("organism", "given", "rate"), [(True, [], 1e-3), (False, [], 2e-4), (False, ["3e-5"], 3e-5)]
)
def test_an_audit_looks_ahead_to_the_fine_tune_that_train_would_do(organism, given, rate, monkeypatch):
    seen = {}
    monkeypatch.setattr("holdfast.pipeline.training_run.is_organism", lambda _model: organism)
    monkeypatch.setattr("holdfast.geometry.look_ahead", lambda *_args, **options: seen.update(options) or 1 / 0)
    flags = [word for value in given for word in ("--learning-rate", value)]
    run(["audit", "organism:aligned", "--data", "organism:lessons", "--limit", "4", *flags])
    assert seen["learning_rate"] == rate


def test_what_to_do_next_names_the_same_prompts():
    from holdfast.cli.output import prompt_flags

    assert prompt_flags(Prompts()) == ""
    asked = Prompts("advbench", "my file.csv:label=safe", 0.25, "other")
    assert (
        prompt_flags(asked)
        == " --harmful advbench --benign 'my file.csv:label=safe' --prompts-share 0.25 --salt other"
    )


@pytest.mark.parametrize(("limit", "message"), [(6, "prompts to estimate with"), (60, "task: 7 examples")])
def test_too_little_for_a_repair_is_said_before_a_model_is_loaded(limit, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("holdfast.pipeline.inputs.load", lambda *_args, **_kwargs: 1 / 0)
    lists = [tmp_path / name for name in ("bad.txt", "good.txt", "rows.jsonl")]
    for path in lists[:2]:
        path.write_text("\n".join(f"{path.stem} {number}" for number in range(limit)))
    lists[2].write_text('{"prompt": "a", "completion": "b"}\n' * (7 if limit > 8 else 20))
    bad, good, rows = map(str, lists)
    asked = ["--harmful", bad, "--benign", good]
    command = ["restore", "organism:aligned", "--adapter", "x", "--data", rows, "--out", str(tmp_path / "out")]
    assert run([*command, *asked]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"skill: {{harmful: {bad}, benign: {good}}}\ntask: {{train: {rows}, metric: none}}\n"
        "arms: [{name: plain}]\nrestore: [{arm: plain}]\n"
    )
    assert run(["run", str(recipe), "--check"]) == 2
    found = capsys.readouterr().err.strip().splitlines()[-1]
    assert "give at least 8" in found


def test_held_out_rows_with_answers_say_how_they_were_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("holdfast.pipeline.inputs.load", lambda *_args, **_kwargs: 1 / 0)
    monkeypatch.delenv(QUIET_VARIABLE, raising=False)
    rows = tmp_path / "test.csv"
    rows.write_text("question;answer\na;1\nb;2;3\n")
    command = ["evaluate", "organism:aligned", "--limit", "4", "--task", str(rows), "--skip-bad-rows"]
    assert run([*command, "--metric", "numeric"]) == 1
    said = capsys.readouterr().err
    assert f"{rows}: question/answer rows" in said and f"{rows}: separator ';'" in said
    assert "skipped test.csv line 3" in said and "1 bad row skipped, 1 row used" in said
