"""A run in progress, followed by what it writes: nothing twice, nothing missed, and an end."""

import json

import pytest
import yaml

from holdfast.cli import run
from holdfast.core.errors import UserError
from holdfast.pipeline.watching import Watch

RECIPE = {"arms": [{"name": "plain"}, {"name": "guarded", "budget": {"max_kl_nats": 2.0}}], "restore": []}


def measured(path, *steps):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"step": s, "kl_nats": s / 10, "kl_nats_low": 0.0, "kl_nats_high": s / 5, "exceeded": None} for s in steps
    ]
    with path.open("a") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def told(watch):
    return [(seen.who, None if seen.row is None else seen.row["step"], seen.used) for seen in watch.news()]


def test_what_happens_is_told_once_also_when_a_stage_moves_to_its_place(folder):
    watch, trace = Watch(folder), folder / "unfinished" / "guarded-0" / "logs" / "drift.jsonl"
    assert told(watch) == [] and not watch.ended
    measured(trace, 0, 10)
    assert told(watch) == [("guarded-0", 0, 0.0), ("guarded-0", 10, 0.5)] and told(watch) == []
    with trace.open("a") as stream:
        stream.write('{"step": 20, "kl_n')  # a line that is being written
    assert told(watch) == []
    stage = folder / "stages" / "train-guarded-0"
    measured(stage / "logs" / "drift.jsonl", 0, 10, 20)
    trace.unlink()
    (stage / "stage.json").write_text("{}")
    assert told(watch) == [("guarded-0", 20, 1.0), ("train-guarded-0", None, None)] and told(watch) == []


def test_a_resumed_fine_tune_tells_its_steps_anew(folder):
    watch, trace = Watch(folder), folder / "unfinished" / "plain-0" / "logs" / "drift.jsonl"
    measured(trace, 0, 10, 20)
    assert len(told(watch)) == 3
    trace.unlink()
    measured(trace, 0, 10)  # back to its checkpoint
    assert told(watch) == []
    measured(trace, 20)
    assert told(watch) == [("plain-0", 20, None)]


def test_it_ends_with_the_run_and_says_so(folder, capsys):
    measured(folder / "stages" / "train-guarded-0" / "logs" / "drift.jsonl", 0, 10)
    (folder / "summary.json").write_text("{}")
    assert run(["watch", str(folder)]) == 0
    *_, last, end = capsys.readouterr().out.splitlines()
    assert "guarded-0 step 10  drift 1.000 [0.000, 2.000] nats" in last and "[######......] 50 %" in last
    assert end.startswith("the run has ended; holdfast report")


def test_a_fine_tune_alone_is_followed_as_well(tmp_path):
    settings = {"selection": {"budget": {"max_kl_nats": 4.0}}}
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "holdfast train", "settings": settings}))
    measured(tmp_path / "logs" / "drift.jsonl", 0, 10)
    watch = Watch(tmp_path)
    assert told(watch) == [("train", 0, 0.0), ("train", 10, 0.25)] and not watch.ended
    (tmp_path / "training.json").write_text("{}")
    assert list(watch.follow()) == [] and watch.ended
    with pytest.raises(UserError, match=r"no manifest\.json here; give the folder of a `holdfast run`"):
        Watch(tmp_path / "elsewhere")
