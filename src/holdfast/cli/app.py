"""The list of verbs and the options that all of them share.

Knows: which file holds which verb. Does not know: what a verb does.
"""

import logging
import os
import sys
from typing import Annotated

import typer

from holdfast.cli.options import LOG_LEVELS, LogLevelOption, QuietOption, verb
from holdfast.core.progress import QUIET_VARIABLE

CONTINUE = ("demo", "run", "score", "train")  # verbs that go on from where they were stopped


def build_app() -> typer.Typer:
    """The command line with every verb."""
    from holdfast.cli import (
        audit,
        card,
        demo,
        doctor,
        elasticity,
        evaluate,
        gate,
        init,
        report,
        restore,
        run_recipe,
        score,
        select,
        train,
        verify,
        watch,
    )

    app = typer.Typer(
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_shared)
    verbs = {
        "demo": demo.demo,
        "init": init.init,
        "run": run_recipe.run_recipe,
        "watch": watch.watch,
        "report": report.report,
        "doctor": doctor.doctor,
        "audit": audit.audit,
        "score": score.score,
        "select": select.select,
        "train": train.train,
        "evaluate": evaluate.evaluate,
        "restore": restore.restore,
        "elasticity": elasticity.elasticity,
        "gate": gate.gate,
        "verify": verify.verify,
        "card": card.card,
    }
    for name, function in verbs.items():
        app.command(name)(verb(function, before=_speak, continues=name in CONTINUE))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from holdfast import __version__

        typer.echo(f"holdfast {__version__}")
        raise typer.Exit()


def _shared(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: QuietOption = False,
    log_level: LogLevelOption = None,
) -> None:
    """Keeps an aligned language model aligned while it is fine-tuned.

    Start with `holdfast demo`; then `holdfast init recipe.yaml` and `holdfast run recipe.yaml`.
    """
    _speak(quiet, log_level or "warning")


def _speak(quiet: bool, log_level: str | None) -> None:
    """What ``--quiet`` and ``--log-level`` mean, before the verb or after it; the later one counts."""
    if quiet:
        os.environ[QUIET_VARIABLE] = "1"
    if log_level is None:
        return
    if log_level.lower() not in LOG_LEVELS:
        raise typer.BadParameter(f"'{log_level}' is not one of {', '.join(LOG_LEVELS)}", param_hint="--log-level")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", handlers=[_Screen()])
    logging.getLogger().setLevel(log_level.upper())
    if log_level.lower() != "debug":
        _quiet_libraries()


class _Screen(logging.Handler):
    """Standard error as it is when something is said: a bar that is being drawn lets lines pass above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; a warning of ours as the verbs themselves write one."""
        ours = str(record.name).startswith("holdfast.") and record.levelno == logging.WARNING
        print(f"warning: {record.getMessage()}" if ours else self.format(record), file=sys.stderr, flush=True)


def _quiet_libraries() -> None:
    """Libraries below us warn about their own futures; `--log-level debug` shows them again."""
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
