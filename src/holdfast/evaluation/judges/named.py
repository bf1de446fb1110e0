"""Judges by name, as a command line writes them: ``offline``, ``endpoint``, ``guard:llama-guard-3:FOLDER``.

Knows: the spelling, and what each judge needs. Does not know: how any of them judges.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.evaluation.judges.base import Judge
from holdfast.evaluation.judges.classifier import SequenceClassifierJudge
from holdfast.evaluation.judges.endpoint import EndpointJudge
from holdfast.evaluation.judges.guard import GuardJudge, known_format
from holdfast.evaluation.judges.likelihood import LikelihoodJudge, own_compliances, own_refusals
from holdfast.evaluation.judges.offline import RefusalJudge
from holdfast.evaluation.judges.prefix_list import KeywordJudge
from holdfast.evaluation.skill import Skill
from holdfast.models import Subject

SPELLINGS = {
    "offline": "ours: no network, no model to load",
    "keyword": "the list of refusal phrases common in the field",
    "endpoint": "a chat model behind --judge-url",
    "classifier:SOURCE": "a sequence classifier, folder or hub id",
    "guard:FORMAT:SOURCE": "a guard model in its published prompt format",
    "likelihood": "how the model itself leans, its own refusals against its own answers; reads no response",
}


@dataclass(frozen=True)
class JudgeNeeds:
    """What judges may need besides their name.

    Attributes:
        subject, skill: of the evaluation; the likelihood judge is fitted on ``skill.estimate``.
        url, model, rate, cache: of the endpoint.
        device: of classifiers and guards.
    """

    subject: Subject | None = None
    skill: Skill | None = None
    url: str | None = None
    model: str | None = None
    rate: float | None = None
    cache: Path | None = None
    device: str = "auto"
    seed: int = 0


def named_judge(name: str, needs: JudgeNeeds | None = None) -> Judge:
    """Build a judge from its name.

    Raises:
        UserError: an unknown name, or something it needs is missing.
    """
    needs = needs or JudgeNeeds()
    word, _, detail = name.partition(":")
    makers: dict[str, Callable[[], Judge]] = {
        "offline": RefusalJudge,
        "keyword": KeywordJudge,
        "endpoint": lambda: _endpoint(needs),
        "classifier": lambda: SequenceClassifierJudge.load(
            _source(detail, "classifier:SOURCE"), needs.device, confirm=RefusalJudge()
        ),
        "guard": lambda: _guard(detail, needs.device),
        "likelihood": lambda: _likelihood(needs),
    }
    check_judge(name)
    return makers[word]()


def check_judge(name: str) -> None:
    """The spelling, before any model is loaded.

    Raises:
        UserError: an unknown judge or guard format, or no model behind one that needs one.
    """
    word, _, detail = name.partition(":")
    if word not in {spelling.partition(":")[0] for spelling in SPELLINGS}:
        raise UserError(f"--judge '{name}': unknown; use one of {', '.join(SPELLINGS)}")
    if word == "classifier":
        _source(detail, "classifier:SOURCE")
    if word == "guard":
        form, _, source = detail.partition(":")
        _source(source, "guard:FORMAT:SOURCE")
        known_format(form)


def _source(text: str, spelling: str) -> str:
    if not text:
        raise UserError(f"--judge: no model named; write {spelling}")
    return text


def _endpoint(needs: JudgeNeeds) -> EndpointJudge:
    if needs.url is None or needs.model is None:
        raise UserError("--judge endpoint: needs --judge-url and --judge-model")
    return EndpointJudge(needs.url, needs.model, max_requests_per_minute=needs.rate, cache=needs.cache)


def _guard(detail: str, device: str) -> GuardJudge:
    form, _, source = detail.partition(":")
    return GuardJudge.load(_source(source, "guard:FORMAT:SOURCE"), form, confirm=RefusalJudge(), device=device)


def _likelihood(needs: JudgeNeeds) -> LikelihoodJudge:
    if needs.subject is None or needs.skill is None or not needs.skill.estimate.benign:
        raise UserError(
            "--judge likelihood: needs a model and a skill with harmful and benign prompts in its *estimate* half"
        )
    half, offline = needs.skill.estimate, RefusalJudge()
    refusals = own_refusals(needs.subject, half.harmful, offline, seed=needs.seed)
    complied = own_compliances(needs.subject, half.benign, offline)
    few = min(len(refusals), len(complied), 16)  # as many of one kind as of the other, see LikelihoodJudge
    return LikelihoodJudge(needs.subject, list(refusals.values())[:few], list(complied.values())[:few])
