"""The study, one verb a step; each goes on where it was stopped and does nothing twice.

    python -m studies.real_model VERB [options]          # README.md has them in their order

Knows: the order of things and the command line. Does not know: how any of them is done.
"""

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from studies.real_model import (
    align,
    choosing,
    damage,
    damage_table,
    defended,
    defended_table,
    lists,
    measure,
    model,
    pairs,
    precision,
    repaired,
    repaired_table,
    report,
    rows,
    tasks,
)

from holdfast.core.files import read_json, sha256_file, write_json
from holdfast.evaluation import RefusalJudge

HERE = Path(__file__).parent
VERBS = [
    "fetch",
    "answers",
    "align",
    "validate",
    "measure",
    "damage",
    "choose",
    "defended",
    "repaired",
    "tables",
    "precision",
]
log = logging.getLogger(__name__)


def prepared(cache: Path, data: Path, recipe: align.Recipe) -> align.Steps:
    """The rows of every step; the chat model answers what it has not answered yet."""
    sets = rows.prompt_sets(data)
    subject = model.chat(cache)
    lookalike = align.own_answers(subject, sets.lookalike, cache)
    instruction = align.own_answers(subject, sets.instruction, cache)
    return align.Steps(sets, lookalike, instruction, recipe, lists.plain_texts(data))


def validate(cache: Path, data: Path, adapter: Path) -> None:
    """Figures for choosing settings, on held-back prompts and on WikiText's validation file."""
    texts = measure.paragraphs(data, "valid", measure.VALIDATION_PARAGRAPHS)
    before = measure.nats(model.chat(cache), texts)
    subject = model.aligned(cache, adapter)
    key = sha256_file(adapter / "adapter_model.safetensors")
    found = dict(measure.validation(subject, rows.prompt_sets(data), cache, key))
    for name in ("validation_harmful", "validation_lookalike"):
        log.info("%s: %s", name, {k: v for k, v in found[name].items() if k != "examples"})
    found["perplexity_ratio"] = measure.perplexity_ratio(subject, before, texts).to_dict()
    log.info("perplexity ratio %s", found["perplexity_ratio"])
    write_json(cache / f"validation-{key[:8]}.json", found)


def measure_all(cache: Path, data: Path, adapter: Path, out: Path) -> None:
    """The figures of the aligned model on everything held out, written to `out`."""
    started = time.monotonic()
    subject = model.aligned(cache, adapter)
    digest = sha256_file(adapter / "adapter_model.safetensors")
    sets = rows.prompt_sets(data)
    found = measure.held_out(subject, data, cache, digest)
    texts = measure.paragraphs(data, "test")
    found["perplexity_ratio"] = measure.kept(
        cache / f"perplexity-{digest[:8]}.json",
        lambda: measure.perplexity_ratio(subject, measure.nats(model.chat(cache), texts), texts).to_dict(),
    )
    results = (read_json(out) if out.exists() else {}) | {
        "study": "real_model",
        "command": "python -m studies.real_model measure",
        "versions": report.versions(),
        "device": "cpu",
        "adapter_sha256": digest,
        "answer_tokens": measure.ANSWER_TOKENS,
        "prompts": sets.counts(),
        "near_duplicates_removed": sets.removed,
        "claims": report.claims(found),
        "judge": RefusalJudge.identity,
        "seconds": round(time.monotonic() - started, 1),  # of this call: answers that were kept cost none
        "labels": {
            name: {k: v for k, v in rates.items() if k != "refused"}
            for name, rates in found.items()
            if "refused" in rates
        },
    }
    write_json(out, results)
    log.info("%s", report.table(results))


def recipe_of(changes: Sequence[str], recipe: align.Recipe) -> align.Recipe:
    """The recipe with NAME=VALUE changes."""
    kinds = {f.name: type(f.default) for f in fields(align.Recipe)}
    values = {}
    for change in changes:
        name, _, value = change.partition("=")
        values[name] = (
            tuple(map(type(getattr(align.Recipe(), name)[0]), value.split(",")))
            if kinds[name] is tuple
            else kinds[name](value)
        )
    return replace(recipe, **values)


def setting_of(changes: Sequence[str]) -> damage.Setting:
    """The fine-tunes' setting with NAME=NUMBER changes: to try that a verb works."""
    return replace(
        damage.Setting(), **{name: int(value) for name, _, value in (c.partition("=") for c in changes)}
    )


def fine_tunes(options: argparse.Namespace, cache: Path, data: Path) -> None:
    """Of one verb: those that are not there yet. `--set` is for trying that it works."""
    first, processes = map(int, options.part.split("/"))
    kinds, file = options.kinds or tasks.KINDS, options.out
    if options.verb == "damage":
        known = damage_table.known(read_json(file)) if file.exists() else {}
        chosen = [arm for arm in (None, *damage.ARMS) if arm is None or arm.kind in kinds]
        damage.run(chosen[first::processes], cache, data, setting_of(options.set), known)
    elif options.verb == "defended":
        ways = options.arms or defended.WAYS
        arms = [arm for arm in defended.ARMS if arm.way in ways and arm.kind in kinds]
        known = pairs.known(defended_table.FILE)
        defended.run(arms[: options.first][first::processes], cache, data, setting_of(options.set), known=known)
    else:
        repairs = [
            replace(arm, minutes=options.minutes or arm.minutes) for arm in repaired.ARMS if arm.kind in kinds
        ]
        known = pairs.known(repaired_table.FILE)
        repaired.run(repairs[first::processes], cache, data, setting_of(options.set), known=known)


def tables(cache: Path, out: Path) -> None:
    """Finished fine-tunes and repairs into `out` and the files beside it."""
    results = report.refreshed(read_json(out))
    found = damage_table.collect(cache, before=damage_table.known(results))
    write_json(out, results | {"damage": found})
    for table in (defended_table, repaired_table):
        file = out.with_name(table.FILE.name)
        write_json(file, table.collect(cache, found["kept"], pairs.known(file)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.real_model", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--data", help="shared data folder (default: $HOLDFAST_SHARED_DATA or ../shared/data)")
    parser.add_argument("--cache", help="cache root (default: $HOLDFAST_CACHE or ~/.cache/holdfast)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="change the recipe of align, the sizes of defended",
    )
    parser.add_argument("--start", type=Path, help="an adapter that is taken for what earlier rounds made")
    parser.add_argument("--rounds-done", type=int, default=0, help="how many rounds made it")
    parser.add_argument("--part", default="0/1", metavar="K/N", help="fine-tunes: every Nth from the Kth on")
    parser.add_argument("--arms", nargs="*", choices=list(defended.WAYS), help="defended: these alone")
    parser.add_argument("--kinds", nargs="*", choices=list(tasks.KINDS), help="fine-tunes: of this data alone")
    parser.add_argument("--first", type=int, metavar="N", help="defended: of the plan the first N alone")
    parser.add_argument("--minutes", type=float, help="repaired: limit of a repair")
    parser.add_argument("--out", type=Path, default=HERE / "results.json", help="of measure, tables and precision")
    parser.add_argument("--organism", action="store_true", help="precision: of the built-in model, in a minute")
    parser.add_argument("--adapter", type=Path, default=model.ADAPTER)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    cache = model.cache_folder(options.cache)
    if options.verb == "fetch":
        log.info("%s", model.fetch(cache))
        return
    if options.verb == "precision":
        write_json(options.out, read_json(options.out) | {"precision": precision.run(cache, options.organism)})
        return
    data = lists.data_folder(options.data)
    if options.verb == "answers":
        prepared(cache, data, recipe_of(options.set, align.Recipe()))
    elif options.verb == "align":
        start = options.start
        for number, recipe in enumerate(align.ROUNDS):
            if start is not None and number < options.rounds_done:
                continue
            steps = prepared(cache, data, recipe_of(options.set, recipe))
            start = align.align(model.chat(cache), steps, steps.recipe, cache / "runs", start)
            log.info("round %d: %s", number + 1, start)
    elif options.verb == "validate":
        validate(cache, data, options.adapter)
    elif options.verb == "measure":
        measure_all(cache, data, options.adapter, options.out)
    elif options.verb == "choose":
        choosing.run(cache, data)
    elif options.verb == "tables":
        tables(cache, options.out)
    else:
        fine_tunes(options, cache, data)


if __name__ == "__main__":
    main()
