"""Evaluates a model, aligned and plainly fine-tuned, and writes its part of results.json.

    python -m studies.evaluation [--model organism | real]

Knows: the order of things, seeds. Does not know: what is asked (subjects.py), what is published (tables.py).
"""

import argparse
import logging
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from studies.evaluation import subjects, tables
from studies.real_model import lists
from studies.real_model import model as real_model

from holdfast.core.files import read_json, write_json
from holdfast.core.statistics import NoiseFloor
from holdfast.evaluation import RefusalJudge, Scorecard, safety_basin
from holdfast.models import Subject
from holdfast.pipeline.evaluating import evaluate_against

HERE = Path(__file__).parent
log = logging.getLogger(__name__)
Make = Callable[[int], tuple[Subject, Subject]]


def measured(case: subjects.Case, make: Make, seeds: Sequence[int], quick: bool) -> dict[str, Any]:
    """Everything about one kind of model: the aligned one once, the fine-tunes seed by seed."""
    plain, attacked = [], []
    found: dict[str, Any] = {}
    floors: dict[str, NoiseFloor] = {}
    aligned: tuple[Scorecard, Scorecard] | None = None
    for seed in seeds:
        ours, other = make(seed)
        log.info("%s, seed %d: trained", case.name, seed)
        both = evaluate_against(ours, case.measures, other if aligned is None else None)
        plain.append(both.card)
        attacked.append(case.attacked.card(ours))
        log.info("%s, seed %d: measured", case.name, seed)
        if aligned is None:
            assert both.against is not None and both.comparison is not None
            aligned = both.against, case.attacked.card(other)
            found = {**_costly(case, ours, other, quick), "agreement": str(both.agreement or "")}
            floors = both.comparison.floors
    assert aligned is not None
    return found | {
        "lists": {
            skill.name: {
                "harmful": len(skill.evaluate.harmful),
                "benign": len(skill.evaluate.benign),
                "left_out": skill.counts,
            }
            for skill in case.measures.skills
        },
        "plain": tables.table(aligned[0], plain, floors),
        "attacks": [row for row in tables.table(aligned[1], attacked) if row["attack"]],
        "costs": tables.budgets([aligned[1], *attacked]),
        "noise": {name: str(floor) for name, floor in floors.items()},
        "drift_nats": plain[0].drift.to_dict() if plain[0].drift is not None else None,
        "told_apart": {
            name: {skill.name: skill.told_apart.to_dict() for skill in card.skills if skill.told_apart is not None}
            for name, card in (("aligned", aligned[0]), ("tuned", plain[0]))
        },
    }


def _costly(case: subjects.Case, ours: Subject, other: Subject, quick: bool) -> dict[str, Any]:
    """What is measured on the first seed only: the suffix search and the safety basin."""
    if case.searched is None:
        return {"basin": {}, "suffix": {}}
    prompts = case.attacked.skills[0].evaluate.harmful[: 8 if quick else 60]
    lines, points = (2, 3) if quick else (3, 20)
    result: dict[str, Any] = {"basin": {}, "suffix": {}}
    for name, subject in (("aligned", other), ("tuned", ours)):
        judge, tokens = RefusalJudge(), case.measures.max_new_tokens
        basin = safety_basin(subject, prompts, judge, 0.5, lines, points, tokens, progress=False)
        result["basin"][name] = {**basin.to_dict(), "sentence": str(basin)}
        result["suffix"][name] = {score.attack: str(score) for score in case.searched.card(subject).attacks}
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=["organism", "real"], default="organism")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a few prompts, to see that it runs; writes nothing")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    if options.model == "real":
        cache, data = real_model.cache_folder(), lists.data_folder()
        case, make = subjects.real_case(cache, data, options.quick), partial(subjects.real, cache)
    else:
        case, make = subjects.organism_case(options.quick), subjects.organism
    values = measured(case, make, range(options.seeds), options.quick)
    if options.quick:
        print(case.name, tables.markdown([*values["plain"], *values["attacks"]], values["costs"]), sep="\n")
        return
    keep(case.name, values, f"--model {options.model} --seeds {options.seeds}", time.monotonic() - began)


def keep(name: str, values: dict[str, Any], options: str, seconds: float) -> None:
    """Put one model's figures into results.json, beside the other's; `studies.prose --write` draws the tables."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    made: dict[str, Any] = {
        "command": f"python -m studies.evaluation {options}",
        "versions": {"python": platform.python_version(), **versions, "judge": RefusalJudge.identity},
        "device": "cpu",
        "seconds": round(seconds),
    }
    before = read_json(HERE / "results.json")
    models = before["models"] | {name: values | {"made": made}}
    claims = [
        claim
        for model, found in models.items()
        for claim in tables.claims(model, [*found["plain"], *found["attacks"]])
    ]
    whole: dict[str, Any] = {"command": "python -m studies.evaluation --model organism | real", "device": "cpu"}
    whole["versions"] = made["versions"]
    whole["seconds"] = sum(found["made"]["seconds"] for found in models.values())
    write_json(HERE / "results.json", {"study": "evaluation", **whole, "claims": claims, "models": models})


if __name__ == "__main__":
    main()
