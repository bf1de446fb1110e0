"""A fine-tune is one thing, whoever asks for it; a stage that was stopped in the middle goes on from there."""

import pytest

from holdfast.cli import run as command_line
from holdfast.core.errors import UserError
from holdfast.core.files import read_json
from holdfast.pipeline import RunFolder, recipe_from_dict, stages_of
from holdfast.pipeline.inputs import input_hashes
from holdfast.pipeline.reading import held_beside
from holdfast.training import GuardedTrainer, read_lines

SETTINGS = {
    "skill": {"max_prompts": 24, "max_new_tokens": 6},
    "task": {"train_rows": 24, "test_rows": 64, "max_new_tokens": 4},
    "training": {"steps": 5, "pool": 8, "micro_batch": 4, "trl": {"max_grad_norm": 0.5}},
    "arms": [{"name": "guarded", "rule": "low", "keep": 0.5, "budget": {"max_kl_nats": 50, "max_task_loss": 20}}],
    "monitor": {"every": 2},
    "restore": [],
    "audit": None,
}


def trained(folder, settings=SETTINGS):
    """The stages of a run up to its fine-tune."""
    recipe = recipe_from_dict(settings)
    held = RunFolder.open(folder, recipe, input_hashes(recipe))
    for stage in stages_of(recipe):
        if stage.name.startswith(("prepare", "reference", "train")) and not held.finished(stage.name):
            with held.working(stage.name) as temporary:
                stage.work(held, temporary)
    return folder / "stages" / "train-guarded-0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run")


def same(a, b):
    name = "adapter/adapter_model.safetensors"
    assert (a / name).read_bytes() == (b / name).read_bytes()
    assert read_lines(a / "logs" / "selection.jsonl") == read_lines(b / "logs" / "selection.jsonl")
    assert read_lines(a / "logs" / "drift.jsonl") == read_lines(b / "logs" / "drift.jsonl")


def test_what_is_watched_is_not_held_where_there_is_enough():
    from holdfast.evaluation import Skill, SkillSplit
    from holdfast.pipeline.defended import held_prompts

    asked, more = tuple(f"harm {k}" for k in range(20)), tuple(f"say {k}" for k in range(8))
    skill = Skill("refusal", estimate=SkillSplit(asked, ("be nice",)))
    both = held_prompts(skill, more, 5)
    assert both.watched == (*asked[:5], "say 0", "say 4") and both.prompts == asked[5:] and not both.shared
    assert (both.controls, both.further) == (("be nice",), tuple(p for p in more if p not in both.watched))
    few = held_prompts(skill, more[:3], 15)
    assert (few.watched, few.prompts, few.further, few.shared) == (asked[:15], asked, more[:3], True)
    own = held_prompts(None, more, 5)
    assert {*own.watched, *own.prompts} == {*more} and not {*own.watched} & {*own.prompts} and not own.controls
    assert (held_prompts(None, more[:7], 5).watched, held_prompts(None, more[:7], 5).shared) == (more[:7], True)


def test_a_recipes_defences_hold_further_prompts_or_the_models_own(tmp_path, monkeypatch):
    more, own = tuple(f"say {k}" for k in range(8)), tuple(f"ask {k}" for k in range(12))
    made = {}

    def built(trainer, monitor, description, training):
        made[description] = trainer.guards.all[0]
        raise KeyboardInterrupt

    monkeypatch.setattr("holdfast.pipeline.work_training.run_training", built)
    monkeypatch.setattr("holdfast.pipeline.defended.own_prompts", lambda *given: own)
    arms = [{"name": "held", "defence": "anchor"}, {"name": "own", "defence": "anchor", "prompts": "own"}]
    skill = {"max_prompts": 24, "max_new_tokens": 2, "hold": more}
    settings = SETTINGS | {"skill": skill, "arms": arms, "monitor": {"every": 2, "prompts": 4}}
    recipe = recipe_from_dict(settings)
    run = RunFolder.open(tmp_path / "run", recipe, input_hashes(recipe))
    for stage in stages_of(recipe):
        if stage.name.startswith("train"):
            with pytest.raises(KeyboardInterrupt), run.working(stage.name) as temporary:
                stage.work(run, temporary)
        elif stage.name in ("prepare", "reference"):
            with run.working(stage.name) as temporary:
                stage.work(run, temporary)
    held, alone = made["held, seed 0"], made["own, seed 0"]
    assert held.further == tuple(prompt for k, prompt in enumerate(more) if k % 4) and held.weight == 1.0
    watched = read_json(run.stage("reference") / "reference.json")["estimate"]
    assert len(held.source) == 20 and len(watched) == 4 + 2  # of the skill, and every fourth further one
    assert (alone.source, alone.further, alone.controls, alone.weight) == (own, (), (), 0.2)
    with pytest.raises(UserError, match=r"skill\.hold: no arm has a defence"):
        held_beside(recipe_from_dict({"skill": {"hold": more}, "arms": arms[1:]}))
    with pytest.raises(UserError, match="prompts=own without a defence"):
        recipe_from_dict({"arms": [{"name": "x", "prompts": "own"}]})


def test_the_command_line_and_a_recipe_make_the_same_adapter(whole, tmp_path):
    command = ["train", "organism:aligned", "--data", "organism:lessons", "--limit", "24", "--max-new-tokens", "6"]
    command += ["--steps", "5", "--pool", "8", "--micro-batch", "4", "--trl", "max_grad_norm=0.5", "--every", "2"]
    command += ["--rule", "low", "--max-kl-nats", "50", "--max-task-loss", "20", "--out", str(tmp_path / "out")]
    assert command_line(command) == 0
    same(whole, tmp_path / "out")
    record, trace = read_json(tmp_path / "out" / "training.json"), read_json(whole / "trace.json")
    for key in ("losses", "trace", "stopped", "steps", "settings"):
        assert record[key] == trace[key], key
    assert len(trace["losses"]) == 5 and trace["settings"]["learning_rate"] == 1e-3


def test_a_stage_that_was_stopped_in_the_middle_goes_on_from_its_checkpoint(whole, tmp_path, monkeypatch):
    real, steps = GuardedTrainer.get_batch_samples, []

    def counting(self, *args):
        steps.append(self.state.global_step + 1)
        if steps == [1, 2, 3, 4]:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(GuardedTrainer, "get_batch_samples", counting)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run")
    assert not (tmp_path / "run" / "stages" / "train-guarded-0").exists()
    found = trained(tmp_path / "run")
    assert steps == [1, 2, 3, 4, 3, 4, 5]  # the checkpoint is of step 2
    same(whole, found)
    assert not list((tmp_path / "run" / "unfinished").iterdir())


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"trl": {"lerning_rate": 1}}, "training.trl.lerning_rate: SFTConfig has no such argument; did you mean"),
        ({"trl": {"output_dir": "x"}}, "training.trl.output_dir: not yours to set here"),
        ({"trl": {"logging_steps": "often"}}, "training.trl.logging_steps:"),
        ({"learning_rate": 1e-3, "trl": {"learning_rate": 1e-3}}, "given twice"),
        ({"steps": 3, "epochs": 1}, "steps and epochs"),
        ({"micro_batch": 0}, "micro_batch"),
    ],
)
def test_arguments_of_a_recipe_are_checked_when_it_is_read(training, message):
    with pytest.raises(UserError, match=message):
        recipe_from_dict({"training": training})


def test_what_this_machine_cannot_do_is_said_before_weights_are_loaded(tmp_path, monkeypatch):
    from holdfast.pipeline import run

    for settings, message in (
        ({"adapter": {"quantize": "4bit"}}, "needs bitsandbytes"),
        ({"training": {"schedule": "sine"}}, "TRL refuses these settings"),
    ):
        with pytest.raises(UserError, match=message):
            run(recipe_from_dict({**SETTINGS, **settings}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
