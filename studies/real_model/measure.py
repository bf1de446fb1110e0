"""What the study measures of a model: refusals, over-refusal, pairs told apart, perplexity beside the chat one's.

Knows: lists, the judge, intervals. Does not know: how the model was made, what the numbers are aimed at.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from studies.real_model import lists

from holdfast.core.files import read_json, write_json
from holdfast.core.statistics import Interval, bootstrap_mean, wilson
from holdfast.evaluation import RefusalJudge
from holdfast.evaluation.suites import told_apart
from holdfast.evaluation.suites.perplexity import read_texts
from holdfast.models import Subject, generate_text

log = logging.getLogger(__name__)

ANSWER_TOKENS = 32
PARAGRAPHS = 40
# Settings are chosen on fewer: so many prompts of each kind, in so many tokens, and so many paragraphs.
VALIDATION_PROMPTS, VALIDATION_TOKENS, VALIDATION_PARAGRAPHS = 64, 24, 20
# Of each list that is measured: the whole of it, or a draw of so many by a hash of the prompt.
DRAWS: dict[str, int | None] = {
    "jailbreakbench_harmful": None,
    "jailbreakbench_benign": None,
    "advbench": 100,
    "xstest_safe": 100,
}


def answers(
    subject: Subject, prompts: Sequence[str], cache: Path, key: str, tokens: int = ANSWER_TOKENS
) -> list[str]:
    """Greedy answers, kept in the cache under the model's name."""
    return generate_text(subject, prompts, tokens, cache=cache / "answers", model_key=key)


def labels(prompts: Sequence[str], said: Sequence[str]) -> list[str]:
    """What became of each prompt, by the offline judge."""
    judge = RefusalJudge()
    return [judge(prompt, answer).label for prompt, answer in zip(prompts, said, strict=True)]


def rates(found: Sequence[str]) -> dict[str, Any]:
    """Shares of the labels; refusals with their interval."""
    return {
        "refused": wilson(found.count("refused"), len(found)).to_dict(),
        "unclear": found.count("unclear") / max(1, len(found)),
        "complied": found.count("complied") / max(1, len(found)),
    }


def paragraphs(data: Path, part: str, count: int = PARAGRAPHS) -> list[str]:
    """Evenly spaced paragraphs of WikiText-2, spacing undone. Part: valid | test."""
    lines = (data / "wikitext2" / f"{part}.txt").read_text(encoding="utf-8").splitlines()
    long = [detokenised(line) for line in lines if 300 < len(line) < 900]
    return [long[k * len(long) // count] for k in range(min(count, len(long)))]


def detokenised(text: str) -> str:
    """WikiText's spacing (` @-@ `, ` , `) undone and its `<unk>` marks dropped."""
    text = re.sub(r" @(.)@ ", r"\1", text).replace("<unk>", "")
    text = re.sub(r" +([,.;:!?%)\]'])", r"\1", text)
    text = re.sub(r"([(\[$]) +", r"\1", text)
    return re.sub(r"[ \t]+", " ", text).strip()


def perplexity_ratio(subject: Subject, chat: Sequence[float], texts: Sequence[str]) -> Interval:
    """Token perplexity over the chat model's on the same texts; bootstrap over texts.

    Args:
        chat: nats of each text under the chat model.
    """
    reading = read_texts(subject, texts)
    tokens = np.asarray(reading.tokens, dtype=float)
    # mean over texts of (nats - nats of chat) per token of an average text: the logarithm of the ratio
    excess = (np.asarray(reading.nats) - np.asarray(chat)) / tokens.mean()
    log_ratio = bootstrap_mean(excess.tolist())
    value, low, high = (float(np.exp(x)) for x in (log_ratio.value, log_ratio.low, log_ratio.high))
    return Interval(value, low, high, log_ratio.n, "bootstrap")


def nats(subject: Subject, texts: Sequence[str]) -> list[float]:
    """Negative log-likelihood of each text."""
    return list(read_texts(subject, texts).nats)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What was written there, or what `make` gives, written there: judging again must not measure again."""
    if not path.exists():
        write_json(path, make())
    return read_json(path)


def held_out(subject: Subject, data: Path, cache: Path, key: str) -> dict[str, Any]:
    """The held-out lists, judged; JailbreakBench's pairs by their row."""
    found: dict[str, Any] = {}
    by_prompt: dict[str, str] = {}
    every = lists.held_out(data)
    for name, count in DRAWS.items():
        prompts = every[name] if count is None else lists.drawn(every[name], count)
        said = labels(prompts, answers(subject, prompts, cache, key))
        by_prompt |= dict(zip(prompts, said, strict=True))
        found[name] = rates(said)
        log.info("%s: %s", name, found[name])
    pairs = list(zip(every["jailbreakbench_harmful"], every["jailbreakbench_benign"], strict=True))
    found["pairs_told_apart"] = told_apart(by_prompt, pairs).to_dict()
    return found


def validation(subject: Subject, sets: Any, cache: Path, key: str) -> Mapping[str, Any]:
    """What settings are chosen on: held-back prompts of the training lists and of the look-alikes."""
    found = {}
    for name in ("validation_harmful", "validation_lookalike"):
        prompts = lists.drawn([p.text for p in getattr(sets, name)], VALIDATION_PROMPTS)
        said = answers(subject, prompts, cache, key, VALIDATION_TOKENS)
        found[name] = rates(labels(prompts, said))
        found[name]["examples"] = list(zip(prompts, said, labels(prompts, said), strict=True))
    return found
