"""A finished fine-tune is handed back only for the model and the prompts that it was made with."""

from types import SimpleNamespace

import pytest

from holdfast.cli import options
from holdfast.cli.train import run_settings
from holdfast.core.errors import UserError
from holdfast.pipeline.inputs import TaskRows
from holdfast.pipeline.prompts import prompts_for
from holdfast.pipeline.recipe import AdapterSection, ArmSection, MonitorSection, SkillSection, TrainingSection
from holdfast.pipeline.training_run import RunSpec
from holdfast.training.options import checked_trl

SPEC = RunSpec(AdapterSection(), TrainingSection(), ArmSection(name="train"), MonitorSection())


def _of(model, benign=("how are you",)):
    rows, skill = options.Rows(), SimpleNamespace(estimate=SimpleNamespace(harmful=("do harm",), benign=benign))
    none = TaskRows("rows.jsonl", (), (), rows)
    return run_settings(str(model), options.Loading(), rows, SPEC, none, none, skill)


def test_the_contents_of_the_model_and_of_both_lists_of_prompts_count(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"one")
    before = _of(model)
    assert _of(model) == before != _of(model, ("who are you",))
    model.rename(tmp_path / "moved")
    assert _of(tmp_path / "moved") == before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"two")
    assert _of(tmp_path / "moved") != before


def test_another_split_of_the_built_in_prompts_is_said_to_change_nothing():
    assert any("share and salt" in note for note in prompts_for(SkillSection(salt="other"), "organism:aligned")[1])
    assert prompts_for(SkillSection(), "organism:aligned")[1] == []


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), ".nan", "inf"])
def test_trl_is_given_no_number_that_is_none(value):
    with pytest.raises(UserError, match="finite"):
        checked_trl({"max_grad_norm": value})
    assert checked_trl({"max_grad_norm": "0.5"}) == {"max_grad_norm": 0.5}
