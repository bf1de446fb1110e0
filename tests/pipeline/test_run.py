"""A run that is killed at every stage ends with the numbers of one that was not."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
import yaml

from holdfast.core.errors import UserError
from holdfast.core.files import read_json
from holdfast.core.statistics import noise_floor
from holdfast.evaluation import Scorecard
from holdfast.pipeline import RunFolder, recipe_from_dict, run, stages_of
from tests.forked import killed_when

SETTINGS = {
    "name": "tiny",
    "skill": {"max_prompts": 10, "max_new_tokens": 10},
    "task": {
        "train": "organism:lessons",
        "train_rows": 40,
        "scored_rows": 20,
        "test_rows": 6,
        "max_new_tokens": 12,
    },
    "adapter": {"rank": 2, "alpha": 4},
    "training": {"steps": 3, "pool": 8, "seeds": [0, 1]},
    "arms": [
        {"name": "plain"},
        {"name": "guarded", "rule": "moderate", "keep": 0.5, "budget": {"max_kl_nats": 5.0}},
    ],
    "monitor": {"every": 2, "prompts": 4},
    "audit": {"prompts": 8, "task_examples": 8},
    "restore": [{"arm": "plain", "method": "replay", "seeds": [0]}],
    "elasticity": {"texts": 6, "prompts": 3},
}


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key != "seconds"}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    return run(recipe_from_dict(SETTINGS), tmp_path_factory.mktemp("whole") / "run")


def test_a_run_leaves_what_it_promises(whole):
    summary = read_json(whole / "summary.json")
    assert [row["name"] for row in summary["rows"]] == ["aligned", "plain", "guarded", "plain-replay"]
    assert all(row["refusal"]["n"] == 10 for row in summary["rows"])
    assert summary["rows"][0]["drift_kl_nats"]["value"] == 0.0
    assert len(summary["scores"]["grad_norm"]) == 20
    assert {d["name"] for d in summary["differences"]} >= {"refusals, guarded minus plain"}
    assert read_json(whole / "manifest.json")["seed"] == 0
    report = (whole / "report.html").read_text()
    assert report.count('class="area"') == 7 and "organism:lessons row" in report and len(report) < 1_500_000
    assert {d["of"] for d in summary["against_aligned"]} == {"plain", "guarded", "plain-replay"}
    assert {(moved["name"], moved["seed"]) for moved in summary["layers"]} >= {("plain", 1), ("plain-replay", 0)}
    assert summary["drift_traces"][-1]["kept"]["reasons"]["kept"] == sum(
        summary["drift_traces"][-1]["kept"]["used"].values()
    )
    assert [cost["stage"] for cost in summary["costs"]] == [
        stage.name for stage in stages_of(recipe_from_dict(SETTINGS))
    ]
    assert yaml.safe_load((whole / "recipe.yaml").read_text())["name"] == "tiny"
    assert not list(whole.rglob("*.partial"))
    for lines in (summary["elasticity"], summary["audit"]):  # beside the drift, too
        assert "plain: effective stiffness of this fine-tune" in {line["name"] for line in lines}


def test_the_floor_of_a_difference_is_what_another_seed_moves_on_the_noisier_side(whole):
    """Cards of every seed, read again; a repair of one seed has no floor of its own."""
    cards = {
        name: [Scorecard.load(whole / "stages" / f"evaluate-{name}-{seed}" / "card") for seed in seeds]
        for name, seeds in (("plain", (0, 1)), ("guarded", (0, 1)), ("plain-replay", (0,)))
    }

    def moved(name, measure):
        kind = "harmful" if measure == "refusals" else "task"
        runs = [
            [row.score if kind == "task" else float(row.label == "refused") for row in c.rows if row.kind == kind]
            for c in cards[name]
        ]
        return noise_floor(runs).floor if len(runs) > 1 else 0.0

    differences = read_json(whole / "summary.json")["differences"]
    assert {(d["first"], d["second"]) for d in differences} == {("guarded", "plain"), ("plain-replay", "plain")}
    for found in differences:
        sides = [moved(found[side], found["measure"]) for side in ("first", "second")]
        assert found["noise_floor"] == max(sides)


def test_interrupted_at_every_stage_gives_the_same_numbers(whole, tmp_path, monkeypatch):
    """Every stage but those of the second seed, which are the first's over again."""
    recipe, reached = recipe_from_dict(SETTINGS), set()
    names = [stage.name for stage in stages_of(recipe) if not stage.name.endswith("-1")]
    original = RunFolder.working

    @contextmanager
    def interrupted(self, name):
        with original(self, name) as temporary:
            yield temporary
            if name in names and name not in reached:
                reached.add(name)
                raise KeyboardInterrupt  # the work is done, the rename is not: the worst moment

    monkeypatch.setattr(RunFolder, "working", interrupted)
    for name in names:
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "run")
        assert not (tmp_path / "run" / "stages" / name).exists()
    folder = run(recipe, tmp_path / "run")
    assert reached == set(names) and len(names) < len(stages_of(recipe))
    assert without_times(read_json(folder / "summary.json")) == without_times(read_json(whole / "summary.json"))


@pytest.mark.slow
def test_sigkill_in_the_middle_gives_the_same_numbers(whole, tmp_path):
    """From where the first arm begins; the last process is a fresh one and knows only the files."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(SETTINGS))
    stages = shutil.copytree(whole, tmp_path / "run") / "stages"
    for done in ("train-plain-0", "evaluate-plain-0", "restore-plain-replay-0", "evaluate-plain-replay-0"):
        shutil.rmtree(stages / done)
    for name in ("summary.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    command = ["--quiet", "run", str(recipe), "--out", str(tmp_path / "run")]
    for target in ("train-plain-0", "restore-plain-replay-0"):
        killed_when(lambda begun=f".{target}.*": any(stages.glob(begun)), command)
        assert not (stages / target).exists()
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    fresh = [sys.executable, "-m", "holdfast", *command]
    assert subprocess.run(fresh, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0
    found = without_times(read_json(tmp_path / "run" / "summary.json"))
    assert found == without_times(read_json(whole / "summary.json"))
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_folder_of_another_recipe_is_refused_and_fresh_replaces_it(whole):
    with pytest.raises(UserError, match="seed: 0 → 1; choose a new folder"):
        run(recipe_from_dict({**SETTINGS, "seed": 1}), whole)


def test_a_folder_with_other_content_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a run folder"):
        run(recipe_from_dict(SETTINGS), tmp_path)
    with pytest.raises(UserError, match="--fresh will not delete it"):
        run(recipe_from_dict(SETTINGS), tmp_path, fresh=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_users_own_files_run_through_the_same_stages(tmp_path):
    rows = [
        {"prompt": f"sort: {a} {b}", "completion": f"{min(a, b)} {max(a, b)}"} for a in range(5) for b in range(5)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    from holdfast import organism

    harmful = organism.proxy_prompts("estimate", "overt", 12, 0)
    benign = organism.proxy_prompts("estimate", "lookalike", 12, 0)
    (tmp_path / "harmful.txt").write_text("\n".join(harmful))
    (tmp_path / "benign.txt").write_text("\n".join(benign))
    settings = {
        **SETTINGS,
        "skill": {
            "harmful": str(tmp_path / "harmful.txt"),
            "benign": str(tmp_path / "benign.txt"),
            "max_new_tokens": 8,
        },
        "task": {"train": str(tmp_path / "train.jsonl"), "test_rows": 4, "max_new_tokens": 6},
        "training": {"steps": 2, "pool": 4},
        "arms": [{"name": "plain"}],
        "restore": [],
        "audit": None,
        "elasticity": None,
    }
    folder = run(recipe_from_dict(settings), tmp_path / "run")
    summary = read_json(folder / "summary.json")
    assert summary["rows"][1]["task_score"]["n"] == 4
    assert "harmful" in read_json(folder / "manifest.json")["inputs"]
