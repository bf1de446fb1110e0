"""``holdfast verify``: evidence of a gate rechecked offline, without a model and without torch."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options, output


def verify(
    evidence: Annotated[
        Path, typer.Argument(help="File that `holdfast gate --evidence` wrote.", show_default=False)
    ],
    adapter: Annotated[Path | None, typer.Option(help="Adapter that it must be about.")] = None,
    base: Annotated[Path | None, typer.Option(help="Model that it must be about.")] = None,
    budgets: Annotated[Path | None, typer.Option(help="Budgets that it must have been held to.")] = None,
    digest: Annotated[str | None, typer.Option(help="Digest that it must have, kept somewhere else.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Recompute a gate's verdict from the kept rows. Exit 0: it holds and passed; 3: it failed, or does not hold.

    The file is not signed: its rows are as good as whoever wrote it, unless its digest is known from elsewhere.

    Example: holdfast verify evidence.json --adapter tuned/adapter --budgets gate.yaml
    """
    from holdfast.gating import EvidenceError, read_policy, words
    from holdfast.gating import verify as run_verify
    from holdfast.gating.gate import EXITS

    output.quiet_for_json(json)
    policy = read_policy(budgets) if budgets is not None else None
    try:
        found = run_verify(evidence, adapter, base, policy, digest)
    except EvidenceError as error:
        if json:
            output.emit_json({"holds": False, "reason": str(error)})
        raise
    said = words.headline(found.verdict, found.measured)
    if json:
        about = {"digest": found.digest, "absent": found.absent, "compared": found.checked}
        output.emit_json({"holds": True, "status": found.verdict.status, "reason": said, **about})
    else:
        heads = ["budget", "verdict", "loss and interval", "why"]
        output.emit_table(str(evidence), heads, words.rows(found.verdict, found.measured))
        print(output.printable(f"the evidence holds; {said}"))
        print(f"digest {found.digest}; compared with {', '.join(found.checked) or 'nothing that was given'}")
        if found.absent:
            print(f"not recorded, so bound to nothing: {', '.join(found.absent)}")
    raise typer.Exit(EXITS[found.verdict.status])
