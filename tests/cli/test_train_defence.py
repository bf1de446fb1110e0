"""``holdfast train --defence``: killed it goes on to the same weights; mistakes are said before a model loads."""

import pytest

from holdfast.cli import run
from holdfast.core.files import read_json
from holdfast.pipeline import recipe_from_dict
from holdfast.training import GuardedTrainer, read_lines
from tests.cli.test_train import stop_at

COMMAND = [
    *("train", "organism:aligned", "--data", "organism:lessons", "--limit", "24", "--max-new-tokens", "4"),
    *("--steps", "6", "--every", "3", "--pool", "4", "--learning-rate", "2e-3", "--defence", "anchor"),
]


def test_killed_it_ends_with_the_weights_of_a_whole_run_and_holds_the_budget(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    budget = ("--max-kl-nats", "2")
    assert run([*COMMAND, *budget, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:

        def die():
            raise KeyboardInterrupt

        stop_at(5, die, patch)
        assert run([*COMMAND, *budget, "--out", str(cut)]) != 0
    assert (cut / "logs" / "checkpoint-3" / "defences.json").is_file()
    assert run([*COMMAND, *budget, "--out", str(cut)]) == 0
    for name in ("adapter/adapter_model.safetensors", "training.json", "logs/drift.jsonl"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    result = read_json(whole / "training.json")
    assert (result["rule"], result["defence"], result["stopped"]) == ("none", "anchor", None)
    assert read_lines(whole / "logs" / "drift.jsonl")[-1]["kl_nats"] < 2
    assert run([*COMMAND, "--defence-weight", "0.5", "--out", str(whole)]) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        (["--defence", "anker"], "none of that name; use one of adversarial-kl, anchor"),
        (["--defence-weight", "0"], "greater than 0"),
        (["--defence", "mixing", "--hold", "x.txt"], "'mixing' holds no further prompts"),
        (["--rule", "none", "--hold", "x.txt"], "x.txt: "),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(GuardedTrainer, "__init__", None)
    assert run([*COMMAND, *options, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_recipes_arm_names_a_defence():
    recipe = recipe_from_dict({"arms": [{"name": "plain"}, {"name": "held", "defence": "anchor", "weight": 0.1}]})
    assert (recipe.arms[1].defence, recipe.arms[1].weight, recipe.arms[0].defence) == ("anchor", 0.1, None)
    for arm, message in (({"weight": 1.0}, "without a defence"), ({"defence": "x"}, "none of that name")):
        with pytest.raises(Exception, match=message):
            recipe_from_dict({"arms": [{"name": "plain"}, {"name": "held", **arm}]})


def test_without_prompts_the_model_holds_its_own_words_and_no_refusals_are_claimed(tmp_path, capsys, monkeypatch):
    from holdfast.defences import Anchor
    from holdfast.evaluation import own_prompts
    from holdfast.organism import shipped

    monkeypatch.delenv("HOLDFAST_QUIET", raising=False)
    monkeypatch.setattr("holdfast.pipeline.defended.OWN_PROMPTS", 12)
    monkeypatch.setattr("holdfast.pipeline.inputs.is_organism", lambda _: False)
    made, held = [], []
    real, begin = own_prompts.own_prompts, Anchor.begin
    monkeypatch.setattr(own_prompts, "own_prompts", lambda *a: made.append(real(*a)) or made[-1])
    monkeypatch.setattr(Anchor, "begin", lambda self, subject: held.append(self) or begin(self, subject))
    command = [COMMAND[0], str(shipped("aligned")), *COMMAND[2:], "--steps", "2"]
    assert run([*command, "--out", str(tmp_path / "own")]) == 0
    said = capsys.readouterr()
    assert "whether it still refuses is neither measured nor promised" in said.err and "refusals" not in said.out
    assert held[0].source == tuple(prompt for k, prompt in enumerate(made[0]) if k % 4) and not held[0].controls
    (tmp_path / "own.txt").write_text("".join(f"say {k}\n" for k in range(8)))
    assert run([*command, "--hold", str(tmp_path / "own.txt"), "--out", str(tmp_path / "listed")]) == 0
    assert len(made) == 1 and held[1].source == tuple(f"say {k}" for k in range(8) if k % 4)
    assert run([*command, "--min-refusal", "0.5", "--out", str(tmp_path / "x")]) == 2
    assert "no prompts to measure them on" in capsys.readouterr().err
