"""``holdfast elasticity``: how loosely one model's alignment is held, and how far it stands from its parent."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options, output, stiffness

if TYPE_CHECKING:
    from holdfast.elasticity import Probe

FEW = 64  # rows of a text, and prompts, unless --limit says otherwise; what is learned from is read whole


def elasticity(
    model: options.ModelArgument,
    base: options.BaseOption = None,
    adapter: options.AdapterOption = None,
    text: Annotated[list[str], typer.Option("--text", help="NAME=FILE of rows to measure bits a token on.")] = [],  # noqa: B006
    data: options.OptionalDataOption = None,
    steps: options.StepsOption = 32,
    learning_rate: options.OptionalLearningRateOption = None,
    rank: options.RankOption = 8,
    alpha: options.AlphaOption = 16,
    asked: options.Prompts = options.Prompts(),
    max_new_tokens: options.MaxNewTokensOption = 32,
    rows: options.Rows = options.Rows(),
    loading: options.Loading = options.Loading(),
    seed: options.SeedOption = 0,
    out: options.OutOption = None,
    json: options.JsonOption = False,
) -> None:
    """What it takes to move an alignment: with --data, harmless updates are made and counted until refusals go.

    First a sentence, then coefficients with intervals, each beside what a linear spring of the same initial speed
    predicts. Also, without --data, bits a token on your texts, KL to the parent both ways, distance of the
    weights, noise floor. Texts named pretrain and alignment give the effective stiffness. The model is put back.

    Example: holdfast elasticity organism:aligned --base organism:base --data organism:lessons --limit 24
    """
    from holdfast.core.errors import UserError
    from holdfast.core.files import check_name, new_folder
    from holdfast.elasticity import CARD_FILE, Plan, probe
    from holdfast.models import Subject, add_lora
    from holdfast.pipeline.recipe import TrainingSection
    from holdfast.pipeline.training_run import definite

    output.quiet_for_json(json)
    output.check_new_folder(out)
    if base is None and adapter is None:
        raise UserError(f"{model}: nothing to compare it with; give its parent with --base, or an adapter of it")
    few = replace(rows, limit=rows.limit or FEW)
    read = {}
    for entry in text:
        name, found, source = entry.partition("=")
        if not found:
            raise UserError(f"--text {entry}: give NAME=FILE, for example task=train.jsonl")
        read[check_name(name, "--text")] = output.read_rows(source, model, few)
    harmless = None if data is None else output.read_rows(data, model, rows)
    prompts = output.build_skill(model, asked, seed, few.limit).evaluate.harmful
    subject = output.load_subject(model, adapter, "auto", loading)
    parent = output.load_subject(base, None, "auto", loading) if base is not None else None
    texts = {name: output.encode(found, subject) for name, found in read.items()}
    known = {"pretrain", "alignment"} <= texts.keys()
    reading = probe(
        subject, parent, texts, prompts, seed, max_new_tokens=max_new_tokens, name=model,
        gradients=("pretrain", "alignment") if known else (),
    )  # fmt: skip
    card = None
    if harmless is not None:
        training = definite(TrainingSection(learning_rate=learning_rate, steps=steps), model, len(harmless.rows))
        assert training.learning_rate is not None  # what `definite` is for
        examples = output.encode(harmless, subject)
        if rank > 0 and adapter is None:
            subject = Subject(add_lora(subject.model, rank, alpha, seed=seed), subject.tokenizer, "adapter")
        from holdfast.pipeline.undoing import undo

        card = undo(
            subject, parent, examples, texts, prompts, reading, Plan(steps, 16, training.learning_rate),
            data=str(data), seed=seed, max_new_tokens=max_new_tokens,
        )  # fmt: skip
    if out is not None:
        with new_folder(out) as folder:
            reading.save(folder / "probe.json")
            if card is not None:
                card.save(folder / CARD_FILE)
    if json:
        told = {k: v for k, v in reading.to_dict().items() if not k.startswith("document_")}
        output.emit_json(told if card is None else {**card.to_dict(), "probe": told})
        return
    if card is not None:
        stiffness.say(card)
    _say_probe(reading, model)
    if out is not None:
        print(f"wrote {out}")


def _say_probe(reading: "Probe", model: str) -> None:
    cells = [[f"bits a token: {name}", str(interval)] for name, interval in reading.bits_per_token.items()]
    cells += [
        ["KL(current ‖ parent), nats a sequence", str(reading.kl_to_base_nats)],
        ["KL(parent ‖ current), nats a sequence", str(reading.kl_from_base_nats)],
        ["relative distance of the weights", f"{reading.distance:.4f}"],
        ["noise floor, bits a token", f"{reading.noise_floor_bits:.1e}"],
    ]
    output.emit_table(f"elasticity probe of {model}", ["measure", "value"], cells)
