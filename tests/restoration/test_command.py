"""``holdfast restore`` and a recipe's repair are one call with one set of defaults; the table has intervals."""

import inspect
import re

from typer.models import OptionInfo

from holdfast.cli import restore as command
from holdfast.core.statistics import Interval
from holdfast.pipeline.recipe import RestoreSection
from holdfast.restoration import restore

from .conftest import build_drifted
from .test_restore import SMALL


def test_command_recipe_and_library_agree_on_every_default():
    library = inspect.signature(restore).parameters
    of_command = inspect.signature(command.restore).parameters
    shared = ["method", "max_task_loss_increase", "steps", "learning_rate"]
    for name in shared:
        assert not isinstance(of_command[name].default, OptionInfo)
        assert of_command[name].default == library[name].default, name
    section = RestoreSection()
    for name in shared[1:]:
        assert getattr(section, name) == library[name].default, name


def test_the_table_holds_the_deciding_part_with_an_interval_in_every_cell(toy):
    subject, skill, task = build_drifted(toy)
    result = restore(subject, skill, task, steps=10, learning_rate=5e-3, **SMALL)
    table = command._table(result)
    assert len(table) == len(result.decided) >= 5 and {len(row) for row in table} == {len(command.HEADS)}
    for row, check in zip(table, result.decided.values(), strict=True):
        assert all(re.search(r"\[.+, .+\]$", cell) for cell in row[1:]), row
        assert row[1].startswith(f"{100 * check.refusal:.0f} %")
    assert command.nats(Interval(0.01, -0.02, 0.04, 9, "")) == "+0.010 [-0.020, +0.040]"
