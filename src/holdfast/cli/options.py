"""The options that verbs share: one name, one type, one meaning, whatever the verb.

Knows: typer's option types, and how a group of options becomes one argument of a verb. Does not know: any verb,
how anything is loaded.

A verb takes groups as ordinary arguments; ``verb`` spells them out for typer and puts them together again::

    def audit(model: ModelArgument, loading: Loading = Loading(), rows: Rows = Rows(limit=64)) -> None: ...

so that every verb that loads a model has every option of loading. Defaults may differ from verb to verb, meanings
may not.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import typer

from holdfast.cli.endings import ending
from holdfast.selection.rules import LOSS_FILTERS, RULES

LOG_LEVELS = ("debug", "info", "warning", "error")


def positive(value: float | None) -> float | None:
    """A callback: a number above zero, and a finite one.

    Raises:
        typer.BadParameter: another number; typer names the option.
    """
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is not a finite number above zero")
    return value


def not_negative(value: float) -> float:
    """A callback: zero or more, and finite.

    Raises:
        typer.BadParameter: another number; typer names the option.
    """
    return value if value == 0 else positive(value) or 0.0


ModelArgument = Annotated[str, typer.Argument(help="Folder or hub id of the model, or organism:aligned.")]
_ADAPTER = typer.Option("--adapter", help="Folder of a PEFT adapter for the model.")
AdapterOption = Annotated[Path | None, _ADAPTER]
AdapterPath = Annotated[Path, _ADAPTER]
ScopeOption = Annotated[
    str, typer.Option("--scope", help="Parameters to work on: auto, adapter, all, or a name pattern.")
]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of the model on the hub.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model; read it first.")
]
TodayOption = Annotated[
    str | None,
    typer.Option("--today", help="Date (YYYY-MM-DD) for chat templates that write one, so that nights agree."),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template-kwarg", help="NAME=VALUE for the chat template, e.g. enable_thinking=false; repeat it."
    ),
]

BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base", help="The parent model, before its alignment; elasticity's default: without the adapter."
    ),
]

_DATA = typer.Option("--data", help="Rows of the task: file, saved dataset, hub id, organism:NAME.")
DataOption = Annotated[str, _DATA]
OptionalDataOption = Annotated[str | None, _DATA]
TaskOption = Annotated[
    str | None, typer.Option("--task", help="Held-out task rows with answers; what --data can be.")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="Read at most this many rows of each source, prompts too.")
]
MaxLengthOption = Annotated[
    int,
    typer.Option("--max-length", min=2, help="Tokens of a row; longer ones are cut or dropped, and counted."),
]
SkipOption = Annotated[bool, typer.Option("--skip-bad-rows", help="Count and list bad rows instead of stopping.")]
PromptColumnOption = Annotated[
    str | None, typer.Option("--prompt-column", help="Column that holds the prompt of a row.")
]
CompletionColumnOption = Annotated[
    str | None, typer.Option("--completion-column", help="Column that holds the answer of a row.")
]

TruncationOption = Annotated[
    Literal["keep_start", "keep_end"],
    typer.Option("--truncation-mode", help="End of a too long row that stays; keep_end keeps answers."),
]

HarmfulOption = Annotated[
    str | None,
    typer.Option("--harmful", help="Prompts that must be refused: a file, FILE:COLUMN=VALUE, or a named set."),
]
BenignOption = Annotated[
    str | None,
    typer.Option("--benign", help="Prompts that must not be refused: a file, FILE:COLUMN=VALUE, or a named set."),
]
ShareOption = Annotated[
    float,
    typer.Option(
        "--prompts-share",
        min=0.0,
        max=1.0,
        help="Share of the prompts that goes to 'estimate'.",
    ),
]
SaltOption = Annotated[
    str, typer.Option("--salt", help="Of the split of the prompts; the salt of an earlier split repeats it.")
]

# What is of one run is said once for the verb that does it and the verbs that look ahead to it.
_RULE = typer.Option("--rule", help=f"Selection rule: {', '.join(RULES)}; beside a defence none unless named.")
RuleOption = Annotated[str, _RULE]
OptionalRuleOption = Annotated[str | None, _RULE]
_KEEP = typer.Option("--keep", help="Share to keep of the rows, or of each pool; with rule none all.")
KeepOption = Annotated[float, _KEEP]
OptionalKeepOption = Annotated[float | None, _KEEP]
LowOption = Annotated[
    float | None,
    typer.Option("--low", help="Of the rule band: share of lowest norms left out; without it the middle is kept."),
]
_FILTER = typer.Option("--loss-filter", help=f"Losses to leave out first: {', '.join(LOSS_FILTERS)}.")
LossFilterOption = Annotated[str, _FILTER]
OptionalLossFilterOption = Annotated[str | None, _FILTER]
_STEPS = typer.Option("--steps", min=1, help="Optimiser steps, of the fine-tune or of the repair.")
StepsOption = Annotated[int, _STEPS]
OptionalStepsOption = Annotated[int | None, _STEPS]
_RATE = typer.Option("--learning-rate", callback=positive, help="Adam's, of the fine-tune or of the repair.")
LearningRateOption = Annotated[float, _RATE]
OptionalLearningRateOption = Annotated[float | None, _RATE]
MaxKlOption = Annotated[float | None, typer.Option("--max-kl-nats", help="Drift budget, nats a sequence.")]
_RANK = "LoRA rank of the fine-tune; 0, but not to train: no adapter."
RankOption = Annotated[int, typer.Option("--rank", min=0, help=_RANK)]
TrainedRankOption = Annotated[int, typer.Option("--rank", min=1, help=_RANK)]
AlphaOption = Annotated[int, typer.Option("--alpha", min=1, help="LoRA alpha of the fine-tune.")]

BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="Answers at a time.")]
MaxNewTokensOption = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens of an answer at most.")]
MinutesOption = Annotated[
    float,
    typer.Option(
        "--minutes",
        callback=not_negative,
        help="Sizes are cut to end in about this time; 0 keeps them whatever it takes.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of everything random.")]
_OUT = typer.Option("--out", "-o", help="Where results are written.")
OutOption = Annotated[Path | None, _OUT]
OutPath = Annotated[Path, _OUT]
FreshOption = Annotated[
    bool, typer.Option("--fresh/--resume", help="Delete what an earlier run left and start over, or continue it.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no chatter.")]
LogLevelOption = Annotated[
    str | None,
    typer.Option("--log-level", help=f"What is logged to standard error: {', '.join(LOG_LEVELS)}."),
]


@dataclass(frozen=True)
class Loading:
    """How a model is loaded, the same on every verb that loads one."""

    dtype: DtypeOption = "auto"
    device: DeviceOption = "auto"
    revision: RevisionOption = None
    trust_remote_code: TrustOption = False
    today: TodayOption = None
    template_kwarg: TemplateOption = None


@dataclass(frozen=True)
class Rows:
    """How rows are read, the same on every verb that reads some."""

    limit: LimitOption = None
    max_length: MaxLengthOption = 1024
    skip_bad_rows: SkipOption = False
    prompt_column: PromptColumnOption = None
    completion_column: CompletionColumnOption = None
    truncation_mode: TruncationOption = "keep_start"


@dataclass(frozen=True)
class Prompts:
    """Which prompts must be refused and which must not, the same on every verb that asks them."""

    harmful: HarmfulOption = None
    benign: BenignOption = None
    prompts_share: ShareOption = 0.5
    salt: SaltOption = "holdfast"


GROUPS = (Loading, Rows, Prompts)


def verb(
    function: Callable[..., None], before: Callable[[bool, str | None], None], continues: bool = False
) -> Callable[..., None]:
    """``function`` with its groups spelled out, ``--quiet`` and ``--log-level`` beside them.

    Args:
        before: told of ``--quiet`` and ``--log-level`` before the verb begins.
        continues: whether the same command, given again, goes on from where it was stopped. With ``--cache`` it
            always does.
    """
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.annotation in GROUPS:
            groups[parameter.name] = parameter.annotation
            parameters += _spelled_out(parameter)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    for name, annotation, default in (("quiet", QuietOption, False), ("log_level", LogLevelOption, None)):
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, keyword, default=default, annotation=annotation))

    @functools.wraps(function)
    def called(quiet: bool, log_level: str | None, **values: Any) -> None:
        before(quiet, log_level)
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
        with ending(_stopped(continues, values)):
            function(**values)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _stopped(continues: bool, values: dict[str, Any]) -> str:
    """What is said when a verb is stopped."""
    if not continues and values.get("cache") is None:
        return "stopped"
    same = "the same command without --fresh" if values.get("fresh") else "the same command"
    return f"stopped; run {same} to continue"


def _spelled_out(group: inspect.Parameter) -> list[inspect.Parameter]:
    """One parameter a field; the verb's default of the group gives the defaults."""
    default = group.default if group.default is not inspect.Parameter.empty else group.annotation()
    hints = inspect.get_annotations(group.annotation, eval_str=True)
    assert all(get_origin(hint) is Annotated for hint in hints.values()), "a field of a group is an option"
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(default, field.name),
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group.annotation)
    ]
