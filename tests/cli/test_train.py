"""``holdfast train``: stopped or killed it goes on to the same weights; mistakes are said before a model loads."""

import json
import os
import shutil
import signal

import pytest

from holdfast.cli import run
from holdfast.core.files import read_json
from holdfast.pipeline.training_folder import last_checkpoint
from holdfast.training import GuardedTrainer, read_lines

COMMAND = [
    *("train", "organism:aligned", "--data", "organism:lessons", "--limit", "24", "--max-new-tokens", "6"),
    *("--steps", "7", "--every", "2", "--pool", "8", "--learning-rate", "2e-3", "--max-kl-nats", "50"),
    *("--rule", "moderate"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted fine-tune."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run([*COMMAND, "--out", str(out)]) == 0
    return out


def stop_at(step, how, monkeypatch):
    """Interrupt the ``step``-th update."""
    real = GuardedTrainer.get_batch_samples

    def counting(self, *args):
        if self.state.global_step == step - 1:
            how()
        return real(self, *args)

    monkeypatch.setattr(GuardedTrainer, "get_batch_samples", counting)


def same(a, b):
    for name in ("adapter/adapter_model.safetensors", "training.json", "logs/drift.jsonl", "logs/selection.jsonl"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    steps = [row["step"] for row in read_lines(b / "logs" / "selection.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert [row["step"] for row in read_lines(b / "logs" / "drift.jsonl")] == [0, 2, 4, 6, 7]
    assert not list(b.rglob("checkpoint-*"))


def test_the_record_holds_every_loss_and_every_measurement(whole):
    record = read_json(whole / "training.json")
    assert [row["step"] for row in record["losses"]] == [1, 2, 3, 4, 5, 6, 7]
    assert all(row["loss"] > 0 and row["learning_rate"] == 2e-3 for row in record["losses"])
    assert [row["step"] for row in record["trace"]] == [0, 2, 4, 6, 7]
    for row in record["trace"]:
        assert row["kl_nats_low"] <= row["kl_nats"] <= row["kl_nats_high"]
        assert row["task_loss_low"] < row["task_loss_nats_per_token"] < row["task_loss_high"]
        assert row["refusal_low"] < row["refusal_high"]
    assert record["trace"][-1]["task_loss_nats_per_token"] < record["trace"][0]["task_loss_nats_per_token"]
    assert record["settings"]["schedule"] == "constant"


def interrupt(*_args):
    raise KeyboardInterrupt


def test_killed_stopped_and_killed_again_it_ends_with_the_weights_of_a_whole_run(whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = [*COMMAND, "--out", str(out)]
    child = os.fork()
    if child == 0:  # pragma: no cover
        stop_at(4, lambda: os.kill(os.getpid(), signal.SIGKILL), monkeypatch)
        run(command)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    found = last_checkpoint(out / "logs")
    assert found is not None and found.name == "checkpoint-2"

    with monkeypatch.context() as patch:
        stop_at(6, interrupt, patch)
        assert run(command) not in (0, None)
    assert not (out / "training.json").exists()
    assert [row["step"] for row in read_lines(out / "logs" / "selection.jsonl")] == [1, 2, 3, 4, 5]
    (out / "logs" / "checkpoint-6").mkdir()  # one that was being written when the machine went down
    (out / "logs" / "checkpoint-6" / "adapter_model.safetensors").write_bytes(b"half")

    with monkeypatch.context() as patch:  # after the last step, which must not be made again
        patch.setattr("holdfast.models.save_adapter", interrupt)
        assert run(command) != 0
    assert (out / "logs" / "checkpoint-7").exists() and not (out / "training.json").exists()
    for _ in range(2):  # the second time it is finished and read back
        assert run(command) == 0
        same(whole, out)


def test_other_settings_are_named_and_fresh_begins_anew(whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    other = [*COMMAND, "--learning-rate", "1e-3", "--out", str(out)]
    assert run(other) == 2
    said = capsys.readouterr().err
    assert "training.learning_rate: 0.002 → 0.001" in said and "--fresh" in said
    assert run([*other, "--fresh", "--steps", "1"]) == 0
    assert len(read_json(out / "training.json")["losses"]) == 1


def test_answers_of_a_task_file_may_be_numbers(tmp_path):
    from holdfast.cli import options, train

    for name, answer in (("train", "five"), ("test", 5)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": "two and three", "target": answer}))
    spec = train.run_spec(
        "some/model", {"adapter": {}, "training": {}, "arm": {"name": "x", "budget": {}}, "monitor": {}}, 0, 8
    )
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("train", "test")]
    kept, held = train.rows_of(*paths, "some/model", options.Rows(), spec)
    assert [row.values["target"] for row in (*kept.rows, *held.rows)] == ["five", "5"]


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for fresh in ([], ["--fresh"]):
        assert run([*COMMAND, *fresh, "--out", str(out)]) == 2
        assert "not empty" in capsys.readouterr().err
    assert (out / "thesis.txt").read_text() == "mine"


def test_a_folder_in_which_nothing_was_saved_takes_other_settings(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_at(1, interrupt, patch)
        run([*COMMAND, "--out", str(out)])
    assert run([*COMMAND, "--steps", "1", "--rule", "none", "--out", str(out)]) == 0
    assert not (out / "logs" / "selection.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trl", "lerning_rate=1e-3"], "did you mean 'learning_rate'?"),
        (["--trl", "output_dir=elsewhere"], "output_dir: not yours to set here"),
        (["--trl", "packing=true"], "packing: not yours to set here"),
        (["--trl", "gradient_accumulation_steps=4"], "set pool and micro_batch"),
        (["--trl", "max_grad_norm=lots"], "trl.max_grad_norm:"),
        (["--trl", "optim"], "give KEY=VALUE"),
        (["--trl", "lr_scheduler_type=sine"], "sine"),
        (["--schedule", "sine"], "sine"),
        (["--trl", "learning_rate=1e-3"], "given twice"),
        (["--epochs", "2"], "steps and epochs"),
        (["--pool", "0"], "--pool:"),
        (["--micro-batch", "few"], "--micro-batch:"),
        (["--rule", "best"], "--rule:"),
        (["--rule", "none", "--keep", "0.3"], "keep=0.3 without a rule"),
        (["--min-refusal", "2"], "--min-refusal:"),
        (["--quantize", "4bit"], "bitsandbytes"),
        (["--quantize", "3bit"], "--quantize:"),
        (["--every", "0"], "--every:"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(options, message, tmp_path, capsys, monkeypatch):
    import holdfast.models

    def loads(*_args, **_kwargs):
        raise AssertionError("loaded")

    monkeypatch.setattr(holdfast.models, "load", loads)
    monkeypatch.setattr("holdfast.pipeline.inputs.load", loads)
    assert run([*COMMAND, *options, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said
    assert not (tmp_path / "out").exists()


def test_the_line_of_chosen_values(tmp_path, capsys, monkeypatch):
    """A real model gets the field's defaults, the organism its own, and what is given wins."""
    from holdfast.pipeline.recipe import TrainingSection
    from holdfast.pipeline.training_run import definite, described

    real = definite(TrainingSection(), "someone/model", 320)
    assert (real.steps, real.learning_rate, real.schedule, real.warmup) == (30, 2e-4, "cosine", 0.03)
    assert described(real, 320).startswith(
        "30 steps of 32 rows (3 epochs of 320 rows), learning rate 0.0002, cosine"
    )
    own = definite(TrainingSection(), "organism:aligned", 320)
    assert (own.steps, own.learning_rate, own.schedule, own.warmup) == (60, 1e-3, "constant", 0.0)
    given = definite(TrainingSection(epochs=1, trl={"learning_rate": "1e-5", "warmup_steps": 5}), "x/y", 640)
    assert (given.steps, given.learning_rate, given.warmup) == (20, 1e-5, 0.25)
    assert given.trl == {}
    assert definite(TrainingSection(trl={"max_steps": 9}), "x/y", 640).steps == 9
    assert definite(given, "x/y", 640) == given


def test_a_user_file_holds_out_every_fifth_row_and_any_argument_reaches_the_trainer(tmp_path, capsys, monkeypatch):
    from holdfast import organism

    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in organism.task_rows("lessons", "train", 20, 0)))
    monkeypatch.delenv("HOLDFAST_QUIET", raising=False)
    seen, real = {}, GuardedTrainer.train

    def train(self, **kwargs):
        seen.update(args=self.args, rows=len(self.train_dataset))
        return real(self, **kwargs)

    monkeypatch.setattr(GuardedTrainer, "train", train)
    command = ["train", "organism:aligned", "--data", str(data), "--out", str(tmp_path / "out"), "--pool", "6"]
    command += ["--epochs", "1", "--micro-batch", "4", "--trl", "max_grad_norm=5e-1", "--trl", "optim=sgd"]
    assert run([*command, "--rule", "none", "--max-new-tokens", "4"]) == 0
    said = capsys.readouterr().err
    assert "3 steps of 6 rows" in said and "4 rows are held out" in said
    assert "step 0 of 3, task loss" in said and "step 3 of 3, loss" in said
    assert seen["rows"] == 16
    assert (seen["args"].per_device_train_batch_size, seen["args"].gradient_accumulation_steps) == (3, 2)
    assert seen["args"].max_grad_norm == 0.5 and seen["args"].optim == "sgd"
