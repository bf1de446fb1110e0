"""However a command ends, it ends in one line, and what can be continued says so."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from holdfast import organism
from holdfast.cli import run
from holdfast.cli.endings import users_error
from holdfast.core.files import read_json


def lines(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:")]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "train.jsonl"
    found = organism.task_rows("lessons", "train", 12, 0)
    path.write_text("\n".join(json.dumps({k: row[k] for k in ("prompt", "completion")}) for row in found))
    return path


def interrupted(*_args, **_options):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "target", "said"),
    [
        (["score", "--data", "ROWS"], "holdfast.gradients.offline.score_to_parquet", True),
        (["score", "--data", "ROWS", "--fresh"], "holdfast.gradients.offline.score_to_parquet", "--fresh"),
        (["audit", "--data", "ROWS", "--out", "OUT"], "holdfast.geometry.audit", False),
        (["evaluate", "--limit", "2", "--out", "OUT"], "holdfast.pipeline.evaluating.evaluate_against", False),
        (["evaluate", "--limit", "2", "--cache", "OUT"], "holdfast.pipeline.evaluating.evaluate_against", True),
        (
            ["elasticity", "--base", "organism:base", "--limit", "2", "--out", "OUT"],
            "holdfast.elasticity.probe",
            False,
        ),
        (["doctor"], "holdfast.gradients.doctor.diagnose", False),
    ],
)
def test_control_c_is_one_line_and_leaves_nothing_half_written(
    arguments, target, said, tmp_path, rows, monkeypatch, capsys
):
    monkeypatch.setattr(target, interrupted)
    out = tmp_path / "out"
    words = [{"ROWS": str(rows), "OUT": str(out)}.get(word, word) for word in arguments]
    assert run([words[0], "organism:aligned", *words[1:]]) == 130
    same = "the same command without --fresh" if said == "--fresh" else "the same command"
    assert lines(capsys) == ["holdfast: stopped" + (f"; run {same} to continue" if said else "")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.jsonl"]


def recipe(folder, steps=1):
    settings = {
        "name": "tiny",
        "skill": {"max_prompts": 4, "max_new_tokens": 4},
        "task": {"train_rows": 12, "test_rows": 2, "max_new_tokens": 4},
        "adapter": {"rank": 2, "alpha": 4},
        "training": {"steps": steps, "pool": 4},
        "arms": [{"name": "plain"}],
        "monitor": {"every": 1, "prompts": 2},
        "audit": None,
        "restore": [],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_run_that_is_stopped_says_so_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    from holdfast.pipeline import work_before

    command = ["run", str(recipe(tmp_path)), "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(work_before, "scores", interrupted)
        assert run(command) == 130
    assert lines(capsys) == ["holdfast: stopped; run the same command to continue"]
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "stages").iterdir()}
    assert set(done) == {"prepare", "reference"}
    assert run(command) == 0
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "stages").iterdir()}
    assert {name: again[name] for name in done} == done
    assert (tmp_path / "run" / "report.html").exists()


def test_a_polite_request_to_end_is_control_c(tmp_path):
    endless = recipe(tmp_path, steps=100_000)  # so that the request never comes too late
    command = [sys.executable, "-m", "holdfast", "run", str(endless), "--out", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if name != "HOLDFAST_QUIET"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    try:
        while not (tmp_path / "run" / "stages" / "prepare").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1].splitlines()
    finally:
        process.kill()  # nothing to one that has ended; the run itself would never end
    assert process.returncode == 130
    assert said[-1] == "holdfast: stopped; run the same command to continue"
    assert not [line for line in said if "Traceback" in line]
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert "recipe_hash" in read_json(tmp_path / "run" / "manifest.json")


@pytest.mark.parametrize("verb", [["evaluate", "--attack", "list"], ["run", "RECIPE", "--check"]])
def test_a_reader_that_goes_away_is_no_error(verb, tmp_path):
    words = [str(recipe(tmp_path)) if word == "RECIPE" else word for word in verb]
    arguments = [words[0], "organism:aligned", *words[1:]] if words[0] == "evaluate" else words
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "holdfast", *arguments]
    found = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (found.returncode, found.stderr) == (141, "")


@pytest.mark.parametrize(
    ("make", "arguments", "said"),
    [
        ("folder", ["score", "organism:aligned", "--data", "ROWS", "--out", "PATH"], "folder"),
        ("file", ["audit", "organism:aligned", "--data", "ROWS", "--out", "PATH"], "exists and is not empty"),
        ("file", ["audit", "organism:aligned", "--data", "ROWS", "--out", "PATH/below"], "a file stands where"),
        ("folder", ["run", "PATH"], "cannot be read"),
        ("latin", ["run", "PATH"], "not YAML"),
        ("folder", ["select", "PATH", "--data", "ROWS"], "PATH"),
        ("file", ["select", "PATH", "--data", "ROWS"], "PATH"),
        ("file", ["evaluate", "organism:aligned", "--adapter", "PATH"], "PATH"),
        ("folder", ["evaluate", "organism:aligned", "--adapter", "PATH"], "PATH"),
        ("file", ["doctor", "PATH"], "PATH"),
        ("folder", ["evaluate", "organism:aligned", "--suites", "PATH"], "PATH"),
        ("latin", ["evaluate", "organism:aligned", "--suites", "PATH"], "not YAML"),
        ("folder", ["evaluate", "organism:aligned", "--attack", "template", "--attack-templates", "PATH"], "PATH"),
        ("file", ["evaluate", "organism:aligned", "--harmful", "PATH", "--benign", "PATH"], "PATH"),
        ("folder", ["evaluate", "organism:aligned", "--harmful", "PATH", "--benign", "PATH"], "PATH"),
        (
            "none",
            ["train", "organism:aligned", "--data", "ROWS", "--harmful", "PATH", "--out", "x"],
            "no --benign",
        ),
        ("none", ["evaluate", "organism:aligned", "--judge-rate", "-1", "--limit", "2"], "--judge-rate: "),
    ],
)
def test_a_path_that_cannot_be_used_is_the_users(make, arguments, said, tmp_path, rows, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "given"
    if make == "folder":
        path.mkdir()
    elif make == "file":
        path.write_text("just words\n")
    elif make == "latin":
        path.write_bytes("name: größe\n".encode("latin-1"))
    words = [word.replace("PATH", str(path)).replace("ROWS", str(rows)) for word in arguments]
    assert run(words) == 2
    (line,) = lines(capsys)
    assert line.startswith("holdfast: ") and said.replace("PATH", str(path)) in line


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_an_operating_system_that_names_the_file_names_the_users(number):
    found = users_error(OSError(number, os.strerror(number), "train.jsonl"))
    assert found is not None and str(found).startswith("train.jsonl: ") and found.exit_code == 2


def test_a_fault_of_ours_stays_one():
    assert users_error(OSError(errno.EINVAL, "odd", "train.jsonl")) is None
    assert users_error(ValueError("shapes differ")) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
)
def test_memory_that_runs_out_is_no_fault_of_ours(error, monkeypatch, capsys):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr("holdfast.pipeline.evaluating.evaluate_against", fail)
    assert run(["evaluate", "organism:aligned", "--limit", "2"]) == 2
    (line,) = lines(capsys)
    assert line.startswith("holdfast: out of memory; take fewer rows at once")


def test_an_error_of_several_lines_is_said_in_one(capsys):
    from holdfast.cli.endings import say
    from holdfast.core.errors import UserError

    assert say(UserError("first\n  second\tthird")) == 2
    assert lines(capsys) == ["holdfast: first second third"]


def test_one_row_is_trained_on_and_shown(tmp_path, capsys):
    path = tmp_path / "two.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"say {k}", "completion": "so"}) for k in range(2)))
    command = ["train", "organism:aligned", "--data", str(path), "--limit", "2", "--steps", "1", "--pool", "1"]
    assert run([*command, "--rank", "1", "--max-new-tokens", "2", "--out", str(tmp_path / "out")]) == 0
    assert "not enough" in capsys.readouterr().out


NUMBERS = {"audit": ["--learning-rate"], "train": ["--learning-rate", "--weight-decay", "--epochs", 
           "--max-kl-nats",
           "--max-task-loss"], "restore": ["--learning-rate", "--max-task-loss-increase"]}  # fmt: skip


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
@pytest.mark.parametrize(
    ("verb", "option"), [(verb, option) for verb, found in NUMBERS.items() for option in found]
)
def test_a_number_outside_its_sense_is_refused_by_name(verb, option, value, rows, tmp_path, capsys):
    further = {"audit": [], "train": ["--out", "x"], "restore": ["--out", "x", "--adapter", "y"]}[verb]
    assert run([verb, "organism:aligned", "--data", str(rows), *further, option, value]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--micro-batch", "²"), ("--alpha", "0"), ("--seed", "-1")])
def test_whole_numbers_too(option, value, rows, capsys):
    assert run(["train", "organism:aligned", "--data", str(rows), "--out", "x", option, value]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("learning_rate=-1", "training.trl.learning_rate"),
        ("num_train_epochs=.inf", "training.trl.num_train_epochs"),
        ("warmup_steps=-5", "training.trl.warmup_steps"),
        ("push_to_hub=true", "a run uploads nothing"),
        ("adam_beta1=2.0", "with trl.adam_beta1, TRL or a library below it refuses this run"),
    ],
)
def test_what_trl_or_torch_refuses_is_one_sentence(pair, said, rows, tmp_path, capsys):
    command = ["train", "organism:aligned", "--data", str(rows), "--trl", pair, "--pool", "4", "--limit", "4"]
    steps = [] if pair.startswith("num") else ["--steps", "1"]
    assert run([*command, *steps, "--max-new-tokens", "2", "--out", str(tmp_path / "out")]) == 2
    assert said in [line for line in lines(capsys) if line.startswith("holdfast: ")][-1]
