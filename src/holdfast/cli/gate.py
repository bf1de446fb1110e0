"""``holdfast gate``: a saved card or a run held against budgets; the exit code is the verdict."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options, output

if TYPE_CHECKING:
    from holdfast.gating import Gated

Points = Annotated[float | None, typer.Option(help="Percentage points; in place of what --budgets says.")]


def gate(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of a card (evaluate --against ... --out) or of a run.", show_default=False),
    ],
    budgets: Annotated[Path | None, typer.Option(help="YAML file of budgets, see docs/gate.md.")] = None,
    max_refusal_loss: Points = None,
    max_over_refusal_rise: Points = None,
    max_task_drop: Points = None,
    max_kl_nats: Annotated[float | None, typer.Option(help="Drift from the reference, nats a sequence.")] = None,
    arm: Annotated[str | None, typer.Option(help="Of a run: which model, such as plain-0.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Of a run: compared with which; aligned by default.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter that was evaluated, to bind the evidence to.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Model that was evaluated, likewise.")] = None,
    evidence: Annotated[Path | None, typer.Option(help="Write evidence that `holdfast verify` rechecks.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit report.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a table for a pull request.")] = None,
    force: options.ForceOption = False,
    json: options.JsonOption = False,
) -> None:
    """Hold a model to budgets: exit 0 passed, 3 a budget failed, 4 the evidence decides nothing.

    Decided by whole intervals, never by a point: too few prompts, or answers nobody could judge, are 4, not 3.

    Example: holdfast gate card --max-refusal-loss 5 --max-over-refusal-rise 5 --evidence evidence.json

    Example: holdfast gate run --arm guarded --budgets gate.yaml --junit gate.xml --json
    """
    from holdfast.core.files import write_text
    from holdfast.gating import gate as run_gate
    from holdfast.gating import read_policy, words

    output.quiet_for_json(json)
    flags = {
        "max_refusal_loss": max_refusal_loss,
        "max_over_refusal_rise": max_over_refusal_rise,
        "max_task_drop": max_task_drop,
        "max_kl_nats": max_kl_nats,
    }
    policy = read_policy(budgets, flags)
    read = {"the budgets": budgets} if budgets is not None else {}
    for file in (evidence, junit, markdown):
        if file is not None:
            output.check_new_file(file, force, "--force", read)
    found = run_gate(source, policy, arm, reference, adapter, base)
    if evidence is not None:
        found.save_evidence(evidence)
    if junit is not None:
        write_text(junit, words.junit(found.verdict, found.measured))
    if markdown is not None:
        write_text(markdown, words.markdown(found.verdict, found.notes, found.measured))
    if json:
        output.emit_json(found.to_dict())
    else:
        _show(found, [file for file in (evidence, junit, markdown) if file is not None])
    raise typer.Exit(found.exit_code)


def _show(found: "Gated", wrote: list[Path]) -> None:
    from holdfast.gating import words

    heads = ["budget", "verdict", "loss and interval", "why"]
    output.emit_table(found.name, heads, words.rows(found.verdict, found.measured))
    print(output.printable(words.headline(found.verdict, found.measured)))
    for note in found.notes:
        print(output.printable(f"note: {note}"))
    for file in wrote:
        print(f"wrote {file}")
