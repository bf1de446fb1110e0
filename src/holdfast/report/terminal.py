"""The end of a run in the terminal: the story of the page in the page's order, from the same ``summary.json``.

Knows: rich, that a terminal may be 80 columns wide. Does not know: models, stages.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.report.judgement import Tone, judge_all, verdict
from holdfast.report.plain import shown
from holdfast.report.story import Story
from holdfast.report.wording import COLUMNS, INTERVALS, difference_sentence, interval, seeds, value

if TYPE_CHECKING:
    from rich.table import Table

STYLES: dict[Tone, str] = {"bad": "bold red", "warn": "bold yellow", "open": "bold blue", "good": "bold green"}
SIGNS: dict[Tone, str] = {"bad": "✕", "warn": "!", "open": "?", "good": "✓"}  # colour is never alone


def print_summary(run_folder: str | Path) -> None:
    """Print a finished run: the verdict, the numbers, what may be said of each adapter, notes."""
    from rich.console import Console
    from rich.text import Text

    story = Story.read(run_folder)
    summary, console = story.summary, Console()
    first, judgements = verdict(summary, story.gates), judge_all(summary)
    console.print(Text(shown(summary["title"]), style="italic"), soft_wrap=True)
    console.print(Text(f"{SIGNS[first.tone]} {first.badge.upper()}", style=STYLES[first.tone]))
    console.print(Text(shown(first.sentence), style="bold"))
    for line in first.details:
        console.print(Text(f"  {shown(line)}"))
    console.print(Text(f"{shown(first.reason)}\n", style="dim"))
    tones: dict[str, Tone] = {judgement.name: judgement.tone for judgement in judgements}
    console.print(_table(summary, tones))
    console.print(Text(f"{INTERVALS}\n", style="dim"), soft_wrap=True)
    for judgement in judgements:
        said = Text(f"  {SIGNS[judgement.tone]} {shown(judgement.label)}: ", style=STYLES[judgement.tone])
        console.print(said.append(judgement.sentence, style="not bold default"), soft_wrap=True)
    if judgements:
        console.print()
    for difference in summary["differences"]:
        console.print(Text(f"  {shown(difference_sentence(difference))}"), soft_wrap=True)
    for note in summary["notes"]:
        console.print(Text(f"  {shown(note)}", style="dim"), soft_wrap=True)


def _table(summary: Any, tones: Mapping[str, Tone]) -> "Table":
    """A row a model, in the colour of what may be said of it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", max_width=16, overflow="fold")
    for column in COLUMNS:
        table.add_column(column.short, overflow="fold")
    for row in summary["rows"]:
        tone = tones.get(row["name"])
        # Text, not str: a label is data, so brackets in it are not markup.
        cells = []
        for column in COLUMNS:
            entry = row.get(column.key)
            parts = [value(entry, column.kind), interval(entry, column.kind), seeds(entry, column.kind)]
            judged = tone is not None and column.key == "refusal"
            style = STYLES[tone] if tone is not None and judged else ""
            cells.append(Text("\n".join(part for part in parts if part), style=style))
        mark = f"{SIGNS[tone]} " if tone is not None else ""
        table.add_row(
            Text(mark + shown(row["label"]), style=STYLES[tone] if tone else ""), *cells, end_section=True
        )
    return table
