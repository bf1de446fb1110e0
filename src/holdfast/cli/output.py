"""How a verb answers: a table for people, JSON for machines, and the options that verbs share.

Knows: rich, typer's option types. Does not know: any verb.
"""

import json as json_module
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from holdfast.data import Examples
    from holdfast.evaluation import Skill
    from holdfast.models import Subject

ModelArgument = Annotated[str, typer.Argument(help="Folder or hub id of the model, or organism:aligned.")]
AdapterOption = Annotated[Path | None, typer.Option("--adapter", help="Folder of a PEFT adapter for the model.")]
ScopeOption = Annotated[str, typer.Option(help="Parameters to work on: auto, adapter, all, or a name pattern.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
HarmfulOption = Annotated[str, typer.Option(help="Prompts that must be refused: a file, or 'organism'.")]
BenignOption = Annotated[str, typer.Option(help="Matched prompts that must not be refused, or 'organism'.")]
TaskOption = Annotated[str, typer.Option("--task", help="Task data: file, saved dataset, hub id, organism:NAME.")]
LimitOption = Annotated[int | None, typer.Option(help="At most this many rows.")]
MaxLengthOption = Annotated[int, typer.Option(help="Longer rows are cut.")]
SkipOption = Annotated[bool, typer.Option("--skip-bad-rows", help="Count and list bad rows instead of stopping.")]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="New folder for the results.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


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

    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    Console().print(table)


def printable(text: str) -> str:
    """Without terminal controls: what a model or a file says must not steer the terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def report_bad_rows(examples: Any) -> None:
    """List the rows that were skipped on request, and what was cut."""
    for bad in getattr(examples, "bad_rows", ())[:20]:
        say(f"skipped {printable(bad.where)}: {printable(bad.reason)}")
    if len(getattr(examples, "bad_rows", ())) > 0:
        say(f"{len(examples.bad_rows)} bad rows skipped, {len(examples)} rows used")
    if getattr(examples, "truncated", ()):
        say(f"{len(examples.truncated)} rows were longer than --max-length and were cut")


def check_new_file(out: Path, fresh: bool, inputs: Mapping[str, str | Path]) -> None:
    """Refuse to write over what is there unless asked to, and over what is being read in any case.

    Args:
        out: the file that is about to be written.
        fresh: whether an older one may be replaced.
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
    if out.exists() and not fresh:
        raise UserError(f"{out}: exists; choose another --out, or replace it with --fresh")


def load_subject(model: str, adapter: Path | None, scope: str, dtype: str, device: str) -> "Subject":
    """Load a model named on the command line."""
    from holdfast.models import load
    from holdfast.pipeline.inputs import model_source

    return load(model_source(model), adapter=adapter, scope=scope, dtype=dtype, device=device)


def raw_rows(source: str, limit: int | None, split: str = "train") -> list[dict[str, Any]]:
    """Rows of a source named on the command line, ``organism:NAME`` included."""
    from holdfast.pipeline.inputs import named_rows

    return named_rows(source, limit, split)


def read_task(
    source: str, subject: "Subject", max_length: int, limit: int | None, skip_bad_rows: bool
) -> "Examples":
    """Examples of a source named on the command line; skipped rows are listed."""
    from holdfast.core.errors import UserError
    from holdfast.data import read_examples

    if subject.tokenizer is None:
        raise UserError(f"{source}: this model has no tokenizer, so text cannot be read")
    rows: Any = raw_rows(source, limit) if source.startswith("organism:") else source
    examples = read_examples(rows, subject.tokenizer, max_length, limit, skip_bad_rows)
    report_bad_rows(examples)
    return examples


def build_skill(harmful: str, benign: str, seed: int) -> "Skill":
    """The refusal skill named on the command line."""
    from holdfast.pipeline.inputs import build_skill as build
    from holdfast.pipeline.recipe import SkillSection

    return build(SkillSection(harmful=harmful, benign=benign), seed)
