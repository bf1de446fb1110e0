"""``holdfast watch``: a run in progress, in another terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output

if TYPE_CHECKING:
    from holdfast.pipeline.watching import Seen

_WIDTH = 12  # of the bar of the budget


def watch(
    run: Annotated[Path, typer.Argument(help="Folder of a `holdfast run` or `holdfast train`.")],
    poll_seconds: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Say what has happened so far, and end.")] = False,
) -> None:
    """Follow a run in progress: each measurement as it is made, each stage as it ends. Ends when the run does.

    It reads the run's own files, so it may be started late, stopped and started again.

    Example: holdfast watch runs/first
    """
    from holdfast.pipeline.watching import Watch

    seen = Watch(run)
    for news in seen.news() if once else seen.follow(poll_seconds):
        print(output.printable(line(news)), flush=True)
    if not seen.ended:
        return
    summary = run / "summary.json"
    print(f"the run has ended; holdfast report {run}" if summary.is_file() else "the fine-tune has ended")


def line(seen: "Seen") -> str:
    """One thing that happened, in a line."""
    from holdfast.training.budget import figure

    if seen.row is None:
        return f"done: {seen.who}"
    parts = [f"{seen.who} step {seen.row['step']}"]
    for name, words, unit in (
        ("kl_nats", "drift", " nats"),
        ("refusal", "refusals", ""),
        ("task_loss_nats_per_token", "task loss", ""),
    ):
        if seen.row.get(name) is not None:
            parts.append(f"{words} {figure(seen.row, name)}{unit}")
    if (used := seen.used) is not None:
        full = min(_WIDTH, max(0, round(_WIDTH * used)))
        parts.append(f"budget [{'#' * full}{'.' * (_WIDTH - full)}] {100 * used:.0f} %")
    if seen.row.get("exceeded"):
        then = seen.row.get("then", "stop")
        parts.append(f"{'STOPPED' if then == 'stop' else f'OUTSIDE ({then})'}: {seen.row['exceeded']}")
    elif seen.row.get("forecast_kl_nats") is not None:
        parts.append(f"forecast {seen.row['forecast_kl_nats']:.3g} nats at the end")
    return "  ".join(parts)
