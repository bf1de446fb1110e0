"""``holdfast restore`` and a recipe's repair are one call with one set of defaults; the table has intervals."""

import inspect
import json
import re
import sys

import pytest
import torch

from holdfast.cli import restore as command
from holdfast.cli import run
from holdfast.core import trees
from holdfast.models import adapter_parameters, load
from holdfast.pipeline.recipe import RestoreSection
from holdfast.pipeline.training_run import repair_settings
from holdfast.restoration import restore

from .conftest import build_drifted, judge, small_llama
from .test_adapters import with_adapter
from .test_restore import SMALL


def test_command_recipe_and_library_agree_on_every_default():
    library = inspect.signature(restore).parameters
    of_command = inspect.signature(command.restore).parameters
    section = RestoreSection()
    assert of_command["method"].default == library["method"].default == "auto"
    assert of_command["max_task_loss_increase"].default == library["max_task_loss_increase"].default
    assert section.max_task_loss_increase == library["max_task_loss_increase"].default
    of_model = {name: library[name].default for name in ("steps", "learning_rate")}
    assert of_model == {"steps": 60, "learning_rate": 5e-4}
    for name in of_model:  # by the model: the library's for a real one, its own for the organism
        assert of_command[name].default is None and getattr(section, name) is None
    assert of_model | repair_settings("some/model", None, None) == of_model
    assert repair_settings("organism:aligned", None, None) == {"steps": 200, "learning_rate": 2e-3}
    assert repair_settings("organism:aligned", 7, None) == {"steps": 7, "learning_rate": 2e-3}
    assert repair_settings("some/model", None, 1e-4) == {"learning_rate": 1e-4}


def test_the_table_holds_the_deciding_part_with_an_interval_in_every_cell(toy):
    subject, skill, task = build_drifted(toy)
    result = restore(subject, skill, task, steps=10, learning_rate=5e-3, **SMALL)
    table = command._table(result)
    assert len(table) == len(result.decided) >= 2 and {len(row) for row in table} == {len(command.HEADS)}
    for row, check in zip(table, result.decided.values(), strict=True):
        assert all(re.search(r"\[.+, .+\]$", cell) for cell in row[1:]), row
        assert row[1].startswith(f"{100 * check.refusal:.0f} %")


FAMILIES = {
    "lora": lambda peft: peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    "ia3": lambda peft: peft.IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "vera": lambda peft: peft.VeraConfig(r=4, target_modules=["v_proj"]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_command_repairs_every_family_of_adapters(family, toy, tmp_path, monkeypatch, capsys):
    """From a folder on the disk to a folder on the disk; what was handed in is left as it was."""
    import peft

    subject, skill, _ = with_adapter(toy, FAMILIES[family](peft))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(subject.model).values():  # as a fine-tune gone wrong
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    aligned = small_llama(toy[0])
    trees.assign(dict(aligned.named_parameters()), toy[1])
    aligned.save_pretrained(tmp_path / "model")
    toy[0].save_pretrained(tmp_path / "model")
    subject.model.save_pretrained(tmp_path / "tuned")
    before = (tmp_path / "tuned" / "adapter_model.safetensors").read_bytes()
    for name in ("harmful", "benign"):
        texts = getattr(skill.estimate, name)[:24]
        (tmp_path / f"{name}.csv").write_text("prompt\n" + "\n".join(texts) + "\n")
    rows = [{"prompt": text, "completion": "* cup"} for text in skill.estimate.benign[:12]]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(sys.modules["holdfast.restoration.restore"], "_default_judge", lambda: judge)
    where = {
        name: str(tmp_path / name) for name in ("model", "tuned", "rows.jsonl", "harmful.csv", "benign.csv", "out")
    }
    code = run(
        ["restore", where["model"], "--adapter", where["tuned"], "--data", where["rows.jsonl"], "--harmful",
         where["harmful.csv"], "--benign", where["benign.csv"], "--prompts-share", "1", "--out", where["out"],
         "--steps", "2", "--max-new-tokens", "4", "--minutes", "0"]
    )  # fmt: skip
    said = capsys.readouterr()
    assert code in (0, 3), said.err
    assert "aligned" in said.out and "drifted" in said.out and "Traceback" not in said.err
    assert load(where["model"], where["out"]).has_adapter
    assert (tmp_path / "tuned" / "adapter_model.safetensors").read_bytes() == before
