"""A card as a record of Every Eval Ever, the shared format of evaluation results.

Knows: the names of that format (its schema 0.3.0), and which of our figures is better when it is lower. Does not
know: how anything was measured; prompts and answers stay where they are.

Rates are shares of prompts with their 95 % intervals; drift and losses are nats.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.version import VERSION
from holdfast.gating.cards import Candidate, read_candidate
from holdfast.gating.model_card import RATES, scores

SCHEMA_VERSION = "0.3.0"
_LOWER = (
    "attack_success",
    "over_refusal",
    "loss",
    "kl_nats",
    "perplexity",
    "bits",
    "nats",
)  # words in a figure's name
_UNBOUNDED = ("loss", "kl_nats", "perplexity", "bits", "nats")


def every_eval_ever(
    source: str | Path,
    name: str | None = None,
    arm: str | None = None,
    organization: str = "not stated",
    at_seconds: int | None = None,
) -> dict[str, Any]:
    """The record.

    Args:
        source: folder of a card or a run. name: of the model; the folder's by default. arm: of a run.
        organization: who evaluated.
        at_seconds: Unix time of the record; now by default.

    Raises:
        UserError: as :func:`read_candidate`; a damaged card.
    """
    candidate = read_candidate(source, arm)
    called, at = name or candidate.name, str(int(time.time()) if at_seconds is None else at_seconds)
    try:
        results = [
            _result(candidate, suite, kind, what, found)
            for suite, entries in scores(candidate.card.values)
            for kind, what, found in entries
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source}: a score is not as holdfast writes it ({error!r}); evaluate again") from None
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"holdfast/{called}/{at}",
        "retrieved_timestamp": at,
        "source_metadata": {
            "source_name": "holdfast evaluate",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "holdfast", "version": VERSION},
        "model_info": {"name": called, "id": called, "additional_details": _model(candidate)},
        "evaluation_results": results,
    }


def _model(candidate: Candidate) -> dict[str, str]:
    found = {"deployment_type": "self_deployed", "model_availability": "unknown"}
    for what in ("base", "adapter"):
        bound = getattr(candidate.provenance, what)
        if bound is not None:
            found |= {what: bound.source, f"{what}_files": json.dumps(bound.files, sort_keys=True)}
    return found


def _result(candidate: Candidate, suite: str, kind: str, what: str, found: Mapping[str, Any]) -> dict[str, Any]:
    lower, unbounded = (any(word in kind for word in words) for words in (_LOWER, _UNBOUNDED))
    settings = candidate.card.values.get("settings") or {}
    result: dict[str, Any] = {
        "evaluation_name": f"{suite}: {what}",
        "source_data": {"dataset_name": suite, "source_type": "other"},
        "metric_config": {
            "metric_id": f"holdfast.{kind}",
            "metric_name": what,
            "metric_unit": "nats" if kind in ("loss", "kl_nats") else "" if unbounded else "proportion",
            "lower_is_better": lower,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": "Infinity" if unbounded else 1.0,
        },
        "score_details": {"score": found["value"], "uncertainty": _uncertainty(found)},
    }
    if kind in RATES:
        length = settings.get("max_new_tokens")
        result["generation_config"] = {
            "generation_args": {"temperature": 0.0, **({"max_tokens": length} if length else {})},
            "additional_details": {k: str(v) for k, v in settings.items() if k.startswith("judge")},
        }
    return result


def _uncertainty(found: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"num_samples": found["n"]} if found.get("n") else {}
    if found.get("low") is not None and found.get("high") is not None:
        told["confidence_interval"] = {
            "lower": found["low"],
            "upper": found["high"],
            "confidence_level": 0.95,
            "method": str(found.get("method", "")),
        }
    return told
