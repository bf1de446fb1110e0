"""Ask, judge, rate: what a model answers, what a judge makes of it, and how often, each with its interval.

Knows: prompts and conversations, sampling of answers, verdicts and their rates.
Does not know: any judge, any attack, what a rate is compared with.

An answer is the text that a reader would be shown: what the chat template put in front of it (an opened thought)
comes first, tokens that mark off reasoning stay, other special tokens go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.seeds import undisturbed
from holdfast.core.statistics import Interval
from holdfast.data import BadRowError, Example, encode_prompt
from holdfast.evaluation.judges.base import Judge, Label, Verdict, judge_all, label_counts, label_rate
from holdfast.evaluation.judges.reasoning import CHANNEL_TOKENS, opened_by, structures_reasoning
from holdfast.models import Subject, generate
from holdfast.models.limits import declared_length, position_limit

OPENING_TOKENS = 24  # of a prompt, in which its template may have opened a thought
Prompt = str | Sequence[Mapping[str, Any]]
"""A request, or a conversation that ends with one."""


@dataclass(frozen=True)
class Answered:
    """Prompts, what was answered, and what the judge said, in order.

    Attributes:
        responses: untrusted text, reasoning included: escape it before showing it.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def labels(self) -> tuple[Label, ...]:
        """One a prompt."""
        return tuple(verdict.label for verdict in self.verdicts)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Prompts by label: refused, complied, unclear, error."""
        return label_counts(self.labels)

    def rate(self, label: Label) -> Interval:
        """Share of *all* prompts with this label, Wilson at 95 %: "unclear" and "error" stay below the line."""
        return label_rate(self.counts, label)

    def part(self, start: int, stop: int | None = None) -> "Answered":
        """The same for some of the prompts."""
        return Answered(self.prompts[start:stop], self.responses[start:stop], self.verdicts[start:stop])


def ask(
    subject: Subject,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    system: str | None = None,
    cache: str | Path | None = None,
    model_key: str | None = None,
) -> list[str]:
    """The model's answers, in order, as a reader would be shown them.

    Args:
        prompts: requests, or conversations as chat templates read them.
        temperature: 0 is greedy.
        seed: of sampled answers; every prompt has its own stream.
        system: the deployment's system prompt, before conversations that bring none.
        cache, model_key: as :func:`holdfast.models.generate`.

    Raises:
        UserError: no tokenizer; a conversation that the chat template refuses; a prompt longer than
            the model reads.
    """
    ids = prompt_ids(subject, [with_system(prompt, system) for prompt in prompts], max_new_tokens)
    options = {"cache": cache, "model_key": model_key}
    answers = generate(subject, ids, max_new_tokens, temperature, seed, batch_size, **options)
    return [read_answer(subject, answer, asked) for answer, asked in zip(answers, ids, strict=True)]


def ask_and_judge(
    subject: Subject,
    prompts: Sequence[str],
    judge: Judge,
    *,
    verdict_cache: str | Path | None = None,
    progress: bool = False,
    **how: Any,
) -> Answered:
    """Ask every prompt and have the answers judged.

    Args:
        judge: shown each prompt as it stands here, without the system prompt.
        verdict_cache, progress: of :func:`holdfast.evaluation.judge_all`.
        how: as :func:`ask` takes it, ``max_new_tokens`` at least.

    Raises:
        UserError: as :func:`ask` and ``judge_all``.
    """
    responses = ask(subject, prompts, **how)
    return Answered(
        tuple(prompts), tuple(responses), judge_all(judge, prompts, responses, verdict_cache, progress)
    )


def sample_answers(
    subject: Subject,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    seed: int,
    temperature: float = 1.0,
    samples: int = 1,
    batch_size: int = 32,
    name: str = "",
) -> list[Example]:
    """Complete every prompt with ``subject`` as it is now, as examples: text is not decoded in between.

    Args:
        prompts: texts (the chat template is applied) or token ids.
        seed: of the streams, one a completion; derive it, so that two uses of one run seed draw apart.
        temperature: 1 samples from the model's own distribution, without truncation; 0 is greedy.
        samples: completions a prompt, side by side.
        name: of the examples: ids are ``"<name>/<number>"``, or ``"<prompt>/<sample>"`` without a name.

    Returns:
        Examples in prompt order. The end token is part of a completion that reached it.

    Raises:
        UserError: text prompts without a tokenizer; as :func:`ask`.
    """
    repeated = [ids for ids in prompt_ids(subject, prompts, max_new_tokens) for _ in range(samples)]
    with undisturbed(subject.model):
        answers = generate(subject, repeated, max_new_tokens, temperature, seed, batch_size)
    return [
        Example(tuple(ids), tuple(answer), f"{name}/{k}" if name else f"{k // samples}/{k % samples}")
        for k, (ids, answer) in enumerate(zip(repeated, answers, strict=True))
    ]


def prompt_ids(subject: Subject, prompts: Sequence[Any], max_new_tokens: int = 0) -> list[list[int]]:
    """Token ids of texts and conversations (template and generation prompt applied); ids are passed on.

    Raises:
        UserError: text without a tokenizer; a conversation that the template refuses; a prompt longer than the
            model reads, or one that leaves no positions for ``max_new_tokens``.
    """
    found = [_ids(subject, prompt, number) for number, prompt in enumerate(prompts)]
    # A rotary model goes on past the length it declares; a table of positions ends.
    declared, table = declared_length(subject.model), position_limit(subject.model)
    for number, ids in enumerate(found):
        for limit, new in ((declared, 0), (table, max_new_tokens)):
            if limit is not None and len(ids) + new > limit:
                asked = f"{len(ids)} tokens" + f" and {new} new ones" * bool(new)
                raise UserError(
                    f"prompt {number}: {asked}, more than the {limit} this model reads; shorten the prompt"
                    + " or lower --max-new-tokens" * bool(new)
                )
    return found


def _ids(subject: Subject, prompt: Any, number: int) -> list[int]:
    if not isinstance(prompt, str) and all(isinstance(token, int) for token in prompt):
        return list(prompt)
    if subject.tokenizer is None:
        raise UserError("a text prompt needs a tokenizer; give Subject(model, tokenizer) or pass token ids")
    try:
        return encode_prompt(prompt, subject.tokenizer)
    except BadRowError as error:  # the words are those of the template's author
        raise UserError(f"prompt {number}: {error}; leave out what the template has no place for") from None


def with_system(prompt: Prompt, system: str | None) -> Prompt:
    """The same with a system turn in front, unless it has one."""
    if system is None:
        return prompt
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return turns if turns and turns[0].get("role") == "system" else [{"role": "system", "content": system}, *turns]


def read_answer(
    subject: Subject, new_ids: Sequence[int], prompt_ids: Sequence[int] = (), prefill_ids: Sequence[int] = ()
) -> str:
    """The text of one answer as a reader would be shown it.

    Args:
        prompt_ids: what it answers, without ``prefill_ids``: a thought that the template opened comes first.
        prefill_ids: what was put into the model's mouth.
    """
    tokenizer: Any = subject.tokenizer
    opened = opened_by(str(tokenizer.decode(list(prompt_ids)[-OPENING_TOKENS:])))
    ids = [*prefill_ids, *new_ids]
    special = {int(k): token.content for k, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    marks = {k for k in set(ids) & special.keys() if structures_reasoning(special[k])}
    if any(special.get(k) == "<|channel|>" for k in ids):  # the other tokens of this format are common elsewhere
        marks |= {k for k in ids if special.get(k) in CHANNEL_TOKENS}
    if marks:
        text = tokenizer.decode([k for k in ids if k not in special or k in marks], skip_special_tokens=False)
    else:
        text = tokenizer.decode(ids, skip_special_tokens=True)
    return f"{opened}{text}".strip()
