"""A person's own model and files: everything is read and checked before a weight is loaded."""

import json
import os

import pytest
import yaml

from holdfast import organism
from holdfast.cli import run as command_line
from holdfast.core.errors import UserError
from holdfast.core.files import check_name, read_json
from holdfast.models import loading
from holdfast.pipeline import RunFolder, check, load_recipe, recipe_from_dict, run
from holdfast.pipeline.places import located
from tests.conftest import build_llama, build_tokenizer

ROWS = [{"prompt": f"add {k} and two", "completion": f"the sum is {k}"} for k in range(10)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that speaks another language than the organism."""
    folder = tmp_path_factory.mktemp("real") / "model"
    tokenizer = build_tokenizer()
    build_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path, model):
    """A folder with a model, data and prompts beside each other, and somebody standing somewhere else."""
    (tmp_path / "mine").mkdir()
    os.symlink(model, tmp_path / "mine" / "model")
    (tmp_path / "mine" / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    for name in ("bad", "good"):
        (tmp_path / "mine" / f"{name}.txt").write_text(
            "\n".join(f"{name} request number {k} please" for k in range(24))
        )
    return tmp_path / "mine"


def recipe(here, **changes):
    settings = {
        "name": "own",
        "model": {"source": "./model"},
        "skill": {"harmful": "bad.txt", "benign": "good.txt", "max_new_tokens": 4},
        "task": {"train": "rows.jsonl", "max_new_tokens": 4},
        "adapter": {"rank": 2, "alpha": 4},
        "training": {"steps": 1, "pool": 4},
        "arms": [{"name": "plain"}],
        "monitor": {"every": 1, "prompts": 2},
        "audit": None,
        "restore": [],
    }
    for name, value in changes.items():
        settings[name] = {**settings.get(name, {}), **value} if isinstance(value, dict) else value
    path = here / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, request):
    """Whatever is tested here happens before weights are read, unless a test says otherwise."""
    if "weights" not in request.keywords:
        monkeypatch.setattr(loading, "read_model", lambda *a, **k: pytest.fail("weights were loaded"))


# Prompts and rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"skill": {"harmful": None, "benign": None}}, "no skill.harmful and no skill.benign prompts"),
        ({"skill": {"benign": None}}, "no skill.benign prompts"),
        ({"evaluate": {"judge": ["guard:llama-gourd:some/model"]}}, "guard format 'llama-gourd': unknown"),
        ({"evaluate": {"judge": ["guard:llama-guard-3"]}}, "no model named; write guard:FORMAT:SOURCE"),
        ({"evaluate": {"judge": ["classifier"]}}, "no model named; write classifier:SOURCE"),
        ({"adapter": {"targets": ["query"]}}, "adapter.targets 'query': no layer of this model is called so"),
        (
            {"training": {"trl": {"loss_type": "dft"}}, "arms": [{"name": "g", "rule": "low", "keep": 0.5}]},
            "arm 'g': ",
        ),
        ({"task": {"train": "organism:lessons", "train_rows": 10**24}}, "at most 100000 are drawn"),
        ({"skill": {"harmful": "organism"}}, "must both be yours"),
        ({"skill": {"harmful": "none.txt"}}, "none.txt: no such file"),
        ({"task": {"train": None}}, "no rows to learn from; name a file or a hub id at task.train"),
        ({"elasticity": {"texts": 4}}, "needs model.base"),
        ({"evaluate": {"attacks": ["jailbreak"]}}, "attack 'jailbreak': unknown"),
        ({"evaluate": {"attacks": ["relearn:2"]}}, "harmless rows"),
        ({"evaluate": {"judge": ["oracle"]}}, "'oracle': unknown"),
        ({"evaluate": {"suites": "none.yaml"}}, "none.yaml"),
        ({"model": {"device": "cuda:77"}}, "device 'cuda:77'"),
        ({"model": {"source": "./nothing"}}, "no such folder"),
        ({"task": {"prompt_column": "question", "completion_column": "answer"}}, "question"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_loaded_or_written(changes, words, here):
    with pytest.raises(UserError, match=words):
        check(recipe(here, **changes))
    with pytest.raises(UserError, match=words):
        run(recipe(here, **changes), here / "run")
    assert not (here / "run").exists()


@pytest.mark.parametrize("verb", ["audit", "train", "evaluate", "restore", "elasticity"])
def test_no_verb_judges_a_real_model_by_the_organisms_prompts_unasked(verb, here, capsys):
    more = {
        "audit": ["--data", "ROWS"],
        "train": ["--data", "ROWS", "--out", "OUT", "--rule", "none"],
        "restore": ["--data", "ROWS", "--adapter", "A", "--out", "OUT"],
        "elasticity": ["--base", "organism:base"],
    }.get(verb, [])
    words = [{"ROWS": str(here / "rows.jsonl"), "OUT": str(here / "out"), "A": str(here)}.get(w, w) for w in more]
    assert command_line([verb, str(here / "model"), *words]) == 2
    assert "no --harmful and no --benign prompts" in capsys.readouterr().err
    assert not (here / "out").exists()


def test_the_organisms_prompts_and_rows_on_a_real_model_are_said_loudly(here):
    changes = {
        "skill": {"harmful": "organism", "benign": "organism"},
        "task": {"train": "organism:lessons", "train_rows": 8},
    }
    notes = check(recipe(here, **changes)).inputs.notes
    assert any("refusal figures mean nothing" in note for note in notes)
    assert any("organism:lessons holds sentences of an invented language" in note for note in notes)
    assert check(recipe_from_dict({"task": {"train_rows": 8}})).inputs.notes == ()


def test_a_copy_of_the_organism_under_another_name_is_the_organism(tmp_path):
    os.symlink(organism.shipped("aligned"), tmp_path / "copy")
    settings = {"model": {"source": str(tmp_path / "copy")}, "task": {"train_rows": 8}}
    assert check(recipe_from_dict(settings)).inputs.notes == ()


# Rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "no answer"}', "rows.jsonl line 3: "),
        ("not json", "rows.jsonl line 3: not JSON"),
        ('{"prompt": "a", "completion": true}', "rows.jsonl line 3: "),
    ],
)
@pytest.mark.parametrize("key", ["train", "test"])
def test_an_error_names_the_users_file_and_line(key, line, words, here):
    (here / "other.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    lines = [json.dumps(row) for row in ROWS]
    (here / "rows.jsonl").write_text("\n".join([*lines[:2], line, *lines[2:]]))
    files = {"train": "other.jsonl", "test": "other.jsonl", key: "rows.jsonl"}
    with pytest.raises(UserError, match=words):
        run(recipe(here, task=files), here / "run")
    found = check(recipe(here, task={**files, "skip_bad_rows": True})).inputs.examples[key]
    assert [bad.where for bad in found.bad_rows] == ["rows.jsonl line 3"] and len(found) == 10


CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "add two"}]


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"prompt": "two and three", "completion": 5}, "two and three", "5"),
        ({"prompt": "two and three", "completion": 5.0}, "two and three", "5"),
        ({"question": "two and three", "answer": "five"}, "two and three", "five"),
        ({"question": "two and three", "target": 5}, "two and three", "5"),
        ({"instruction": "add", "input": "", "output": "five"}, "add", "five"),
        ({"messages": [*CHAT, {"role": "assistant", "content": "five"}]}, CHAT, "five"),
        ({"messages": [CHAT[1], {"role": "assistant", "content": "five"}]}, "add two", "five"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "five"}]}, "q", "five"),
    ],
)
def test_held_out_rows_of_every_shape_are_scored(row, prompt, answer, here):
    from holdfast.pipeline.reading import build_task

    (here / "test.jsonl").write_text(json.dumps(row))
    plan = check(recipe(here, task={"test": "test.jsonl"}))
    task = build_task(plan.recipe.task, plan.inputs.test.rows, plan.inputs.examples["test"])
    asked = task.prompts[0] if isinstance(prompt, str) else [dict(turn) for turn in task.prompts[0]]
    assert (asked, task.answers) == (prompt, (answer,))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "just words"}, "metric 'exact_match' needs rows with a prompt and an answer"),
        ({"prompt": "a", "completion": None}, "test.jsonl line 1: "),
        ({"prompt": "a", "completion": False}, "test.jsonl line 1: "),
        ({"prompt": "a", "completion": ["b", "c"]}, "test.jsonl line 1: "),
    ],
)
def test_held_out_rows_that_cannot_be_scored_are_refused(row, words, here):
    (here / "test.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=words):
        check(recipe(here, task={"test": "test.jsonl"}))


def test_rows_that_are_not_held_out_are_all_learned_from(here):
    counts = check(recipe(here, task={"test_rows": 1})).inputs.counts()
    assert (counts["train"]["examples"], counts["test"]["examples"]) == (9, 1)


# Places and names -----------------------------------------------------------------------------------------------


def test_paths_start_where_the_recipe_stands(here, monkeypatch, tmp_path):
    path = recipe(here)
    monkeypatch.chdir(tmp_path)
    found = load_recipe(path.relative_to(tmp_path))
    assert found.task.train == str(here / "rows.jsonl")
    assert found.model.source == str(here / "model")
    assert check(path.relative_to(tmp_path)).inputs.counts()["train"]["examples"] == 8


@pytest.mark.parametrize(
    ("source", "leads"),
    [
        ("rows.jsonl", "HERE/rows.jsonl"),
        ("sub/rows.jsonl", "HERE/sub/rows.jsonl"),
        ("xstest.csv:label=safe", "HERE/xstest.csv:label=safe"),
        ("../above.csv:type!=safe", "HERE/../above.csv:type!=safe"),
        ("./model", "HERE/model"),
        ("taken", "HERE/taken"),
        ("owner/name", "owner/name"),
        ("owner/name:train", "owner/name:train"),
        ("xstest", "xstest"),
        ("xstest@lists", "xstest@HERE/lists"),
        ("organism:lessons", "organism:lessons"),
        ("organism", "organism"),
        ("/abs/rows.jsonl", "/abs/rows.jsonl"),
        ("~/rows.jsonl", "HOME/rows.jsonl"),
    ],
)
def test_what_is_a_path_and_what_is_not(source, leads, tmp_path, monkeypatch):
    for name in ("taken", "xstest"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", "/home/somebody")
    found = located(source, tmp_path, ("xstest",))
    assert os.path.normpath(found) == os.path.normpath(
        leads.replace("HERE", str(tmp_path)).replace("HOME", "/home/somebody")
    )


@pytest.mark.parametrize(
    "name",
    [
        "../../escape",
        "/etc/x",
        "a/b",
        "a\\b",
        "..",
        ".",
        "",
        " ",
        "a ",
        "-rf",
        "nul",
        "CON.txt",
        "a\nb",
        "x" * 101,
    ],
)
def test_a_name_that_becomes_a_file_stays_where_it_is_put(name):
    for values in ({"name": name}, {"arms": [{"name": name}], "restore": []}):
        with pytest.raises(UserError, match="becomes a file name"):
            recipe_from_dict(values)
    with pytest.raises(UserError, match="--text"):
        check_name(name, "--text")


@pytest.mark.parametrize("name", ["run", "Qwen3-0.6B", "first run", "größe", "a+b@2", "1"])
def test_ordinary_names_are_names(name):
    assert recipe_from_dict({"name": name}).name == name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"arms": [{"name": "a"}, {"name": "A"}]}, "two have the same name"),
        ({"arms": [{"name": "Aligned"}]}, "is the untouched model"),
        (
            {"arms": [{"name": "plain"}, {"name": "plain-auto"}], "restore": [{"arm": "plain"}]},
            "two have the same",
        ),
        ({"training": {"seeds": [1, 1]}}, "stands twice"),
        ({"training": {"seeds": []}}, "give at least one"),
        ({"arms": []}, "give at least one"),
        ({"arms": [{"name": "plain"}], "restore": [{"arm": "plain"}, {"arm": "plain"}]}, "asked for twice"),
    ],
)
def test_nothing_shares_a_folder(values, words):
    with pytest.raises(UserError, match=words):
        recipe_from_dict({"restore": [], **values})


# Run folders ----------------------------------------------------------------------------------------------------


def begun(here, stages=()):
    """A run folder that was opened, with some stages finished."""
    loaded = load_recipe(here / "recipe.yaml")
    from holdfast.pipeline.inputs import input_hashes

    held = RunFolder.open(here / "run", loaded, input_hashes(loaded))
    for stage in stages:
        with held.working(stage):
            pass
    return held


def test_a_folder_in_which_nothing_is_finished_takes_the_corrected_recipe(here):
    recipe(here, training={"steps": 60})
    begun(here)
    recipe(here, training={"steps": 80})
    assert begun(here).recipe.training.steps == 80
    assert yaml.safe_load((here / "run" / "recipe.yaml").read_text())["training"]["steps"] == 80


def test_otherwise_the_key_that_changed_is_named(here):
    recipe(here, training={"steps": 60})
    begun(here, ["prepare"])
    recipe(here, training={"steps": 80}, arms=[{"name": "gentle"}])
    with pytest.raises(UserError, match=r"training\.steps: 60 → 80; arms\.0\.name: plain → gentle; choose"):
        begun(here)
    assert yaml.safe_load((here / "run" / "recipe.yaml").read_text())["training"]["steps"] == 60


def test_content_counts_and_not_where_it_stands(here):
    recipe(here)
    begun(here, ["prepare"])
    (here / "moved.jsonl").write_text((here / "rows.jsonl").read_text())
    (here / "rows.jsonl").write_text("{}")
    recipe(here, task={"train": "moved.jsonl"})
    assert begun(here).finished("prepare")
    recipe(here, task={"train": "rows.jsonl"})
    with pytest.raises(UserError, match="input 'train' has other content"):
        begun(here)


@pytest.mark.parametrize(
    ("before", "words"),
    [(True, "was set when this run began and is not"), (False, "was not set when this run began")],
)
def test_a_local_copy_of_a_published_list_that_comes_or_goes_is_named(before, words, here, monkeypatch):
    (here / "lists").mkdir()
    (here / "lists" / "advbench.csv").write_text("prompt\nbad request\n")
    recipe(here, skill={"harmful": "advbench"})
    for done, present in ((["prepare"], before), ([], not before)):
        monkeypatch.delenv("HOLDFAST_PROMPTS", raising=False)
        if present:
            monkeypatch.setenv("HOLDFAST_PROMPTS", str(here / "lists"))
        if done:
            begun(here, done)
    with pytest.raises(UserError, match=f"input 'harmful': HOLDFAST_PROMPTS {words}.*advbench is the same copy"):
        begun(here)


def test_fresh_with_a_mistake_deletes_nothing(here):
    recipe(here)
    begun(here, ["prepare"])
    with pytest.raises(UserError, match="no such file"):
        run(recipe(here, task={"train": "typo.jsonl"}), here / "run", fresh=True)
    assert (here / "run" / "stages" / "prepare").exists()


def test_check_says_what_would_run_and_writes_nothing(here, capsys):
    path = recipe(here)
    before = sorted(here.rglob("*"))
    assert command_line(["run", str(path), "--check"]) == 0
    said = capsys.readouterr().out
    assert "train-plain-0" in said and "train: 8 examples" in said and "prompts, evaluate:" in said
    assert command_line(["run", str(path), "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["test"]["examples"] == 2
    assert sorted(here.rglob("*")) == before


# Rendering ------------------------------------------------------------------------------------------------------

DATED = "{{ '<|im_start|>today is ' + strftime_now('%Y-%m-%d') + '\n' }}"


def dated(here, tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = DATED + tokenizer.chat_template
    folder = tmp_path / "dated"
    build_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_run_keeps_to_the_day_it_began_on(here, tmp_path, monkeypatch):
    import datetime

    from holdfast.pipeline import reading

    class Tomorrow(datetime.date):
        @classmethod
        def today(cls):
            return cls(2031, 5, 6)

    path = recipe(here, model={"source": dated(here, tmp_path)})
    monkeypatch.setattr(reading.datetime, "date", Tomorrow)
    inputs = check(path).inputs
    monkeypatch.undo()
    assert inputs.today == "2031-05-06" and any("2031-05-06" in note for note in inputs.notes)
    pinned = check(recipe(here, model={"source": dated(here, tmp_path / "b"), "today": "2031-05-06"})).inputs
    assert pinned.counts() == inputs.counts()
    other = check(recipe(here, model={"source": dated(here, tmp_path / "c"), "today": "2031-05-07"})).inputs
    assert other.counts()["train"]["rendering"] != inputs.counts()["train"]["rendering"]


def test_a_template_that_raises_is_the_users(here, tmp_path, capsys):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    build_llama(len(tokenizer)).save_pretrained(tmp_path / "odd")
    tokenizer.save_pretrained(tmp_path / "odd")
    with pytest.raises(UserError, match="roles must alternate"):
        check(recipe(here, model={"source": str(tmp_path / "odd")}))


@pytest.mark.weights
def test_a_users_own_model_runs_to_the_report(here):
    path = recipe(here, evaluate={"attacks": ["prefill:2"], "judge": ["offline", "keyword"]})
    folder = run(path, here / "run")
    card = read_json(folder / "stages" / "evaluate-plain-0" / "card" / "scorecard.json")
    assert [attack["attack"] for attack in card["attacks"]] == ["prefill-2"]
    assert (folder / "stages" / "evaluate-plain-0" / "card" / "agreement.json").exists()
    assert (folder / "report.html").exists()
    places = read_json(folder / "stages" / "prepare" / "places.json")
    assert places["train.jsonl"][0] == ["rows.jsonl line 2", 1]
