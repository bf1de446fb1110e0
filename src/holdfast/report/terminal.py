"""The final table in the terminal, from the same ``summary.json`` as the page.

Knows: rich, that a terminal may be 80 columns wide. Does not know: models, stages.
"""

from pathlib import Path

from holdfast.core.files import read_json
from holdfast.report.wording import COLUMNS, INTERVALS, difference_sentence, interval, seeds, value


def print_summary(run_folder: str | Path) -> None:
    """Print the table and the paired differences of a finished run to standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    summary = read_json(Path(run_folder) / "summary.json")
    table = Table(title=summary["title"], title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", max_width=16, overflow="fold")
    for column in COLUMNS:
        table.add_column(column.short, overflow="fold")
    for row in summary["rows"]:
        # Text, not str: a label is data, so brackets in it are not markup.
        cells = []
        for column in COLUMNS:
            entry = row.get(column.key)
            parts = [value(entry, column.kind), interval(entry, column.kind), seeds(entry, column.kind)]
            cells.append(Text("\n".join(part for part in parts if part)))
        table.add_row(Text(row["label"]), *cells, end_section=True)
    console = Console()
    console.print(table)
    console.print(Text(f"  {INTERVALS}\n", style="dim"), soft_wrap=True)
    for difference in summary["differences"]:
        console.print(Text(f"  {difference_sentence(difference)}"), soft_wrap=True)
    for note in summary["notes"]:
        console.print(Text(f"  {note}", style="dim"), soft_wrap=True)
