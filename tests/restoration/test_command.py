"""``holdfast restore`` and a recipe's repair are one call with one set of defaults; the table has intervals."""

import inspect
import re

from holdfast.cli import restore as command
from holdfast.pipeline.recipe import RestoreSection
from holdfast.pipeline.training_run import repair_settings
from holdfast.restoration import restore

from .conftest import build_drifted
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
    assert len(table) == len(result.decided) >= 5 and {len(row) for row in table} == {len(command.HEADS)}
    for row, check in zip(table, result.decided.values(), strict=True):
        assert all(re.search(r"\[.+, .+\]$", cell) for cell in row[1:]), row
        assert row[1].startswith(f"{100 * check.refusal:.0f} %")
