"""``holdfast report``: one page of one run or several."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options, output


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: options.OutOption = None,
    json: options.JsonOption = False,
) -> None:
    """Draw the page of finished runs again, or several runs on one page. It is one file and needs no network.

    Without --out it is report.html, in the run's folder or, of several runs, where you are.

    Example: holdfast report runs/first runs/second --out both.html
    """
    from holdfast.core.files import check_writable
    from holdfast.report import print_summary, write_page

    target = out or (runs[0] if len(runs) == 1 else Path()) / "report.html"
    if target.is_dir():
        target = target / "report.html"
    check_writable(target)
    page = write_page(runs, target)
    if json:
        output.emit_json({"report": page, "runs": runs, "bytes": page.stat().st_size})
        return
    for run in runs:
        print_summary(run)
    print(f"report: {page}")
