"""One self-contained HTML page from ``summary.json``.

Knows: Jinja2 (autoescape on: whatever a model wrote is text, never markup), the order of the page.
Does not know: models, stages.
"""

from pathlib import Path
from typing import Any

from holdfast.core.files import read_json, write_text
from holdfast.report import pictures
from holdfast.report.wording import COLUMNS, INTERVALS, difference_sentence, interval, seeds, value

TEMPLATE = "page.html.jinja"


def write_report(run_folder: str | Path) -> Path:
    """Draw the report of a finished run.

    Returns:
        Path of ``report.html``: one file, no network needed to read it.

    Raises:
        UserError: the folder holds no ``summary.json``.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    run_folder = Path(run_folder)
    summary = read_json(run_folder / "summary.json")
    environment = Environment(loader=PackageLoader("holdfast.report", "."), autoescape=True)
    drawn = [Markup(html) for html in _figures(summary)]
    page = environment.get_template(TEMPLATE).render(
        summary=summary,
        figures=drawn,
        columns=COLUMNS,
        intervals=INTERVALS,
        value=value,
        interval=interval,
        seeds=seeds,
        sentences=[difference_sentence(difference) for difference in summary["differences"]],
    )
    target = run_folder / "report.html"
    write_text(target, page)
    return target


def _figures(summary: dict[str, Any]) -> list[str]:
    figures = []
    if summary.get("drift_traces"):
        figures.append(pictures.drift_over_steps(summary["drift_traces"]))
    if summary.get("spectrum"):
        figures.append(pictures.fisher_spectrum(summary["spectrum"]))
    if summary.get("scores"):
        figures.append(pictures.gradient_norms(summary["scores"]))
    if any(row.get("task_score") for row in summary["rows"]):
        figures.append(pictures.safety_task_plane([row for row in summary["rows"] if row.get("task_score")]))
    # The script goes into the page once, whole: a report must open on a machine without a network.
    return [
        figure.to_html(
            full_html=False,
            include_plotlyjs=number == 0,
            div_id=f"picture-{number + 1}",
            config={"displayModeBar": False, "responsive": True},
        )
        for number, figure in enumerate(figures)
    ]
