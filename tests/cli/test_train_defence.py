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
        (["--defence", "anker"], "none of that name; use one of anchor"),
        (["--defence-weight", "0"], "greater than 0"),
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
