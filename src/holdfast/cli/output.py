"""How a verb answers: a table for people, JSON for machines; and how what it was given is read.

Knows: rich, what the shared options of ``cli.options`` mean. Does not know: any verb.
"""

import json as json_module
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.options import (  # one place to import from, for every verb
    Loading,
    Prompts,
    Rows,
)

if TYPE_CHECKING:
    from holdfast.data import BadRow, Examples
    from holdfast.evaluation import Skill
    from holdfast.models import Subject
    from holdfast.pipeline.inputs import TaskRows


def quiet_for_json(json: bool) -> None:
    """Machines want JSON and nothing else."""
    if json:
        os.environ["HOLDFAST_QUIET"] = "1"


def say(message: str) -> None:
    """One line of progress for a person, on standard error."""
    if not os.environ.get("HOLDFAST_QUIET"):
        print(message, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    from holdfast.core.files import finite

    print(json_module.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def emit_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; cells are data, never markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    console = Console()
    console.print(
        Text(printable(title), style="italic"), soft_wrap=True
    )  # a table's own title is folded to its width
    console.print(table)


def printable(text: str) -> str:
    """Without terminal controls: what a model or a file says must not steer the terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def counted(number: int, what: str) -> str:
    """ "1 row", "2 rows"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def report_rows(examples: "Examples") -> None:
    """Say how rows were understood, what was skipped on request, and what was cut or dropped."""
    _report_reading(examples.source, (examples.recognised, *examples.notes), examples.bad_rows, len(examples))
    if examples.truncated:
        say(f"longer than --max-length and cut: {counted(len(examples.truncated), 'row')}")
    if examples.dropped:
        say(f"without room for an answer within --max-length and dropped: {counted(len(examples.dropped), 'row')}")


def report_answers(read: "TaskRows") -> None:
    """The same of rows with answers, which no model has to read to be scored."""
    from holdfast.data import recognise

    seen = recognise((row.values for row in read.rows), read.how.prompt_column, read.how.completion_column)
    _report_reading(read.source, (seen.line, *read.notes, *seen.notes), read.bad, len(read.rows))


def _report_reading(source: str, lines: Iterable[str], bad_rows: Sequence["BadRow"], used: int) -> None:
    built_in = source.startswith("organism:")
    for line in lines:
        if line and not built_in:
            say(printable(f"{source}: {line.removeprefix(Path(source).name + ': ')}"))
    for bad in bad_rows[:20]:
        say(f"skipped {printable(bad.where)}: {printable(bad.reason)}")
    if bad_rows:
        say(f"{counted(len(bad_rows), 'bad row')} skipped, {counted(used, 'row')} used")


def check_new_file(out: Path, replace: bool, flag: str, inputs: Mapping[str, str | Path]) -> None:
    """Refuse to write over what is there unless asked to, and over what is being read in any case.

    Args:
        out: the file that is about to be written.
        replace: whether an older one may be replaced. flag: the option that asks for it.
        inputs: what the command reads, by what it is.

    Raises:
        UserError: ``out`` is a folder, one of the inputs, or there and not to be replaced.
    """
    from holdfast.core.errors import UserError

    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the name of a file in it")
    for what, source in inputs.items():
        if out.exists() and Path(source).exists() and out.samefile(source):
            raise UserError(f"{out}: --out is {what} itself; choose another name")
    if out.exists() and not replace:
        raise UserError(f"{out}: exists; choose another --out, or replace it with {flag}")


def warn(message: str) -> None:
    """What a person must read, quiet or not, on standard error."""
    print(f"warning: {printable(message)}", file=sys.stderr, flush=True)


def check_new_folder(path: Path | None) -> None:
    """Results need a folder of their own; said before anything is computed."""
    from holdfast.core.files import check_new_folder as check

    check(path)


def load_subject(model: str, adapter: Path | None, scope: str, loading: Loading, **further: Any) -> "Subject":
    """Load a model named on the command line.

    Args:
        further: as :func:`holdfast.models.load` takes it, such as ``quantize``.
    """
    from holdfast.pipeline.inputs import load_named

    return load_named(
        model,
        adapter=adapter,
        scope=scope,
        dtype=loading.dtype,
        device=loading.device,
        revision=loading.revision,
        trust_remote_code=loading.trust_remote_code,
        today=loading.today,
        template=template_values(loading.template_kwarg),
        **further,
    )


def template_values(given: Sequence[str] | None) -> dict[str, Any]:
    """``["enable_thinking=false"]`` as ``{"enable_thinking": False}``: values are read as YAML, as in a recipe."""
    import yaml

    from holdfast.core.errors import UserError

    values: dict[str, Any] = {}
    for entry in given or ():
        name, found, value = entry.partition("=")
        if not found or not name.isidentifier():
            raise UserError(f"--template-kwarg {entry}: give NAME=VALUE, for example enable_thinking=false")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            values[name] = value
    return values


def prompt_flags(asked: Prompts) -> str:
    """The options that name the same prompts again, for a line that says what to do next."""
    given = {
        "--harmful": asked.harmful,
        "--benign": asked.benign,
        "--prompts-share": None if asked.prompts_share == Prompts.prompts_share else str(asked.prompts_share),
        "--salt": None if asked.salt == Prompts.salt else asked.salt,
    }
    return "".join(f" {flag} {shlex.quote(value)}" for flag, value in given.items() if value is not None)


def read_rows(source: str, model: str, rows: Rows, split: str = "train") -> "TaskRows":
    """Rows named on the command line, checked before any model is loaded; what suits no real model is said."""
    from holdfast.pipeline.inputs import read_named

    say_of_data(source, model)
    return read_named(source, rows, split).check()


def say_of_data(source: str, model: str) -> None:
    """Say what does not suit a real model."""
    from holdfast.pipeline.inputs import data_notes

    for note in data_notes(source, model):
        warn(note)


def encode(rows: "TaskRows", subject: "Subject") -> "Examples":
    """Rows as examples of ``subject``; skipped and cut rows are listed."""
    examples = rows.encode(subject.tokenizer)
    report_rows(examples)
    return examples


def build_skill(model: str, prompts: Prompts, seed: int, limit: int | None = None) -> "Skill":
    """The refusal skill named on the command line, for ``model``; read before any model is loaded.

    Raises:
        UserError: no prompts, and the model is not the built-in one.
    """
    from holdfast.pipeline.prompts import build_skill as build
    from holdfast.pipeline.prompts import prompts_for
    from holdfast.pipeline.recipe import SkillSection

    section = SkillSection(
        harmful=prompts.harmful,
        benign=prompts.benign,
        share=prompts.prompts_share,
        salt=prompts.salt,
        max_prompts=limit,
    )
    known, notes = prompts_for(section, model, ("--harmful", "--benign"))
    for note in notes:
        warn(note)
    skill = build(known, seed)
    for line in skill.sources:
        say(line)
    return skill
