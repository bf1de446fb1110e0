"""``holdfast elasticity``: how far one model stands from its parent.

What it would take to move it (stiffness) needs a second checkpoint: :func:`holdfast.measure_elasticity`.
"""

from typing import Annotated

import typer

from holdfast.cli import options, output


def elasticity(
    model: options.ModelArgument,
    base: Annotated[
        str | None, typer.Option(help="The parent model; default: the model without its adapter.")
    ] = None,
    adapter: options.AdapterOption = None,
    text: Annotated[list[str], typer.Option("--text", help="NAME=FILE of rows to measure bits a token on.")] = [],  # noqa: B006
    asked: options.Prompts = options.Prompts(),
    max_new_tokens: options.MaxNewTokensOption = 32,
    rows: options.Rows = options.Rows(limit=64),
    loading: options.Loading = options.Loading(),
    seed: options.SeedOption = 0,
    out: options.OutOption = None,
    json: options.JsonOption = False,
) -> None:
    """Bits a token on your texts, KL to the parent model both ways, distance of the weights, noise floor.

    Stiffness compares checkpoints of a run: holdfast.measure_elasticity in Python.

    Example: holdfast elasticity organism:aligned --base organism:base --text task=organism:lessons
    """
    from holdfast.core.errors import UserError
    from holdfast.core.files import check_name, new_folder
    from holdfast.elasticity import probe

    output.quiet_for_json(json)
    output.check_new_folder(out)
    if base is None and adapter is None:
        raise UserError(f"{model}: nothing to compare it with; give its parent with --base, or an adapter of it")
    read = {}
    for entry in text:
        name, found, source = entry.partition("=")
        if not found:
            raise UserError(f"--text {entry}: give NAME=FILE, for example task=train.jsonl")
        read[check_name(name, "--text")] = output.read_rows(source, model, rows)
    prompts = output.build_skill(model, asked, seed, rows.limit).evaluate.harmful
    subject = output.load_subject(model, adapter, "auto", loading)
    parent = output.load_subject(base, None, "auto", loading) if base is not None else None
    texts = {name: output.encode(found, subject) for name, found in read.items()}
    reading = probe(subject, parent, texts, prompts, seed, max_new_tokens=max_new_tokens, name=model)
    if out is not None:
        with new_folder(out) as folder:
            reading.save(folder / "probe.json")
    if json:
        output.emit_json({k: v for k, v in reading.to_dict().items() if not k.startswith("document_")})
        return
    cells = [[f"bits a token: {name}", str(interval)] for name, interval in reading.bits_per_token.items()]
    cells += [
        ["KL(current ‖ parent), nats a sequence", str(reading.kl_to_base_nats)],
        ["KL(parent ‖ current), nats a sequence", str(reading.kl_from_base_nats)],
        ["relative distance of the weights", f"{reading.distance:.4f}"],
        ["noise floor, bits a token", f"{reading.noise_floor_bits:.1e}"],
    ]
    output.emit_table(f"elasticity probe of {model}", ["measure", "value"], cells)
    if out is not None:
        print(f"wrote {out}")
