"""``holdfast score``: one gradient norm a training row."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from holdfast.cli import options, output
from holdfast.selection.rules import DEFAULT_KEEP, DEFAULT_LOSS_FILTER, DEFAULT_RULE, Pool, choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from holdfast.gradients.directions import Directions
    from holdfast.gradients.offline import ScoreSummary
    from holdfast.models import Subject

PROMPTS = 32  # unless --skill-prompts says otherwise
SHOWN = ("0%", "16%", "50%", "84%", "100%")


def score(
    model: options.ModelArgument,
    data: options.DataOption,
    out: options.OutPath = Path("scores.parquet"),
    adapter: options.AdapterOption = None,
    scope: options.ScopeOption = "auto",
    loading: options.Loading = options.Loading(),
    rows: options.Rows = options.Rows(),
    max_tokens: Annotated[
        str, typer.Option(help="Padded tokens of a batch, or auto; falls by itself when memory runs out.")
    ] = "auto",
    groups: Annotated[
        bool, typer.Option("--groups", help="Also squared norms: embedding, blocks, norms, head.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop where only a slower exact path would do.")
    ] = False,
    proxy: Annotated[
        str, typer.Option(help="Cheaper stand-in: lora, last_block, head, loss, length, random; or full.")
    ] = "full",
    base: options.BaseOption = None,
    asked: options.Prompts = options.Prompts(),
    skill_prompts: Annotated[
        int | None,
        typer.Option(min=0, help="Prompts for column against_skill; 32 beside --harmful or --sensitive, else 0."),
    ] = None,
    sensitive: Annotated[
        int, typer.Option(min=0, help="Answers that span column sensitive_share; each takes a gradient's memory.")
    ] = 0,
    seed: options.SeedOption = 0,
    fresh: options.FreshOption = False,
    json: options.JsonOption = False,
) -> None:
    """Score rows by the norm of their loss gradient: high ones do the damage, moderate ones teach the task.

    A summary lands beside the table. Rows are scored in batches of similar length, and finished ones are kept in
    OUT.shards: after a kill the same command continues and ends with the same file.

    Adversarial rows need not have large norms. --base adds column toward_base, --harmful against_skill, and
    --sensitive sensitive_share: which way a row pulls, for `holdfast select --rule drop_high --by against_skill`.

    Example: holdfast score organism:aligned --data organism:lessons --limit 64 --out scores.parquet

    Example: holdfast score my-model --data train.jsonl --max-tokens 8192 --groups --out scores.parquet

    Example: holdfast score organism:aligned --data organism:lessons --limit 64 --base organism:base --sensitive 8
    """
    from holdfast.gradients.agreement import rank_agreement
    from holdfast.gradients.offline import score_to_parquet, shards_found, summary_path, work_folder

    output.quiet_for_json(json)
    budget = _max_tokens(max_tokens)
    output.check_new_file(out, fresh, "--fresh", {"the data file": data})
    output.check_new_file(summary_path(out), fresh, "--fresh", {"the data file": data})
    read = output.read_rows(data, model, rows)
    if skill_prompts is None:
        wanted = asked.harmful is not None or sensitive > 0
        skill_prompts = min(PROMPTS, rows.limit or PROMPTS) if wanted else 0
    refused = output.build_skill(model, asked, seed, skill_prompts).estimate.harmful if skill_prompts else ()
    subject = output.load_subject(model, adapter, scope, loading)
    examples = output.encode(read, subject)
    if not fresh and (found := shards_found(work_folder(out))):
        output.say(f"taking up {work_folder(out)}: {found} finished shards are not scored again")
    table, summary = score_to_parquet(
        subject,
        examples,
        out,
        fresh,
        max_tokens=budget,
        groups=groups,
        dataset=Path(data).name if Path(data).exists() else data,
        strict=strict,
        proxy=proxy,
        seed=seed,
        directions=_directions(subject, base, refused, sensitive, loading, seed),
    )
    agreement = rank_agreement(subject, examples, proxy, _by_default, seed=seed) if proxy != "full" else None
    if json:
        output.emit_json(
            {
                "out": out,
                "summary": summary_path(out),
                "rows": len(table),
                "invalid": table.invalid,
                "max_tokens": summary.max_tokens,
                "grad_norm_quantiles": {name: summary.grad_norm_quantiles[name] for name in SHOWN},
                "spearman": summary.spearman,
                "direction_quantiles": {
                    column: {name: found[name] for name in SHOWN}
                    for column, found in summary.direction_quantiles.items()
                },
                "proxy": proxy,
                "agreement": agreement and {**agreement.to_dict(), "rule": DEFAULT_RULE, "keep": DEFAULT_KEEP},
            }
        )
        return
    _print(summary, len(table))
    if agreement is not None:
        print(f"{agreement} (selection as `holdfast select` makes it: {DEFAULT_RULE}, keep {DEFAULT_KEEP})")
    for column, found in summary.direction_quantiles.items():
        output.emit_table(f"{column}, at these shares of the rows", SHOWN, [[f"{found[k]:+.4f}" for k in SHOWN]])
    more = " --allow-proxy" if proxy != "full" else ""
    # The organism draws as many rows as are asked for; of others the limit leaves some out.
    if rows.limit is not None and not data.startswith("organism:"):
        more += " --unscored drop"
    print(f"wrote {out} and {summary_path(out)}; next: holdfast select {out} --data {data}{more}")


def _directions(
    subject: "Subject",
    base: str | None,
    prompts: "Sequence[str]",
    sensitive: int,
    loading: options.Loading,
    seed: int,
) -> "Directions | None":
    """What rows are compared with besides; None where nothing was asked for."""
    if base is None and not prompts and not sensitive:
        return None
    from holdfast.selection.directions import directions

    parent = None
    if base is not None:  # a revision is of the model
        parent = output.load_subject(base, None, "all", replace(loading, revision=None))
    found = directions(subject, parent, prompts, sensitive, seed)
    for note in found.notes:
        output.say(note)
    return found


def _by_default(loss_N: "NDArray", norm_N: "NDArray", tokens_N: "NDArray") -> "Sequence[int]":
    """What `holdfast select` keeps when it is told nothing."""
    pool = Pool(len(loss_N), loss_N, norm_N, tokens_N)
    return choose(pool, DEFAULT_RULE, DEFAULT_KEEP, DEFAULT_LOSS_FILTER, 0)[0]


def _max_tokens(value: str) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise typer.BadParameter(f"'{value}' is neither 'auto' nor a number of tokens", param_hint="--max-tokens")
    return int(value)


def _print(summary: "ScoreSummary", rows: int) -> None:
    from holdfast.gradients.agreement import rank_interval

    def ranked(name: str) -> str:
        found = rank_interval(summary.spearman[name], summary.status.get("ok", 0))
        return f"{found.value:+.3f} [{found.low:+.2f}, {found.high:+.2f}]"

    found = summary.grad_norm_quantiles
    what = "gradient norms" if summary.proxy == "full" else f"values of proxy {summary.proxy}"
    output.emit_table(
        f"{what} of {rows} rows, at these shares of them", SHOWN, [[f"{found[name]:.4g}" for name in SHOWN]]
    )
    names = {"loss_nats": "loss", "completion_tokens": "tokens", "inverse_completion_tokens": "1 / tokens"}
    output.emit_table(
        f"rank correlation of the {'norm' if summary.proxy == 'full' else 'proxy'} with",
        ["what", "Spearman, 95 % interval"],
        [[words, ranked(name)] for name, words in names.items()],
    )
