"""Evaluate one model: let it answer, have the answers judged, score its tasks, measure its drift.

Knows: the order of things. Does not know: rules of judging, metrics, statistics (the other files of this room).
"""

from collections.abc import Sequence
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.progress import bar
from holdfast.core.seeds import undisturbed
from holdfast.core.statistics import bootstrap_mean
from holdfast.data import Example, encode_rows
from holdfast.evaluation.drift import Reference, drift
from holdfast.evaluation.judge import Judge, RefusalJudge
from holdfast.evaluation.judges import judge_all
from holdfast.evaluation.scorecard import Kind, ResponseRow, Scorecard, SkillScore, TaskScore
from holdfast.evaluation.skill import Skill
from holdfast.evaluation.suites.base import Suite
from holdfast.evaluation.tasks import Task
from holdfast.models import Subject, generate_text, mean_loss


def evaluate(
    subject: Subject,
    skills: Sequence[Skill] = (),
    tasks: Sequence[Task] = (),
    reference: Reference | None = None,
    judge: Judge | None = None,
    seed: int = 0,
    batch_size: int = 32,
    max_new_tokens: int = 64,
    progress: bool = True,
    suites: Sequence[Suite] = (),
) -> Scorecard:
    """Measure a model on the *evaluate* half of skills and on tasks. Greedy decoding.

    Args:
        subject: with a tokenizer.
        skills: judged on ``skill.evaluate``.
        tasks: scored on their answers, with their loss on held-out examples.
        reference: of the aligned model; gives the drift.
        judge: default :class:`RefusalJudge`.
        seed: of the intervals (greedy decoding draws nothing).
        max_new_tokens: of an answer to a skill's prompt; a task has its own.
        suites: multiple choice, truthfulness, perplexity and the like (``holdfast.evaluation.suites``).

    Raises:
        UserError: no tokenizer; two suites of one name; a mistake that the judge reports (a wrong key, an unknown
            model). A judge that breaks on one answer labels it "error".
    """
    if subject.tokenizer is None and (skills or tasks):
        raise UserError("evaluation needs a tokenizer; give Subject(model, tokenizer)")
    names = [suite.name for suite in (*skills, *tasks, *suites)]
    if len(set(names)) != len(names):
        raise UserError(f"two suites share a name ({', '.join(sorted(names))}); rename one")
    judge = judge or RefusalJudge()
    rows: list[ResponseRow] = []
    skill_scores, task_scores = [], []
    total = sum(len(s.evaluate.harmful) + len(s.evaluate.benign) for s in skills)
    total += sum(len(task.prompts) for task in tasks)
    with bar("evaluating", total, progress) as advance, undisturbed(subject.model):
        for skill in skills:
            labels: dict[Kind, list] = {}
            halves: dict[Kind, tuple[str, ...]] = {
                "harmful": skill.evaluate.harmful,
                "benign": skill.evaluate.benign,
            }
            for kind, prompts in halves.items():
                judged = _judged(subject, skill.name, kind, prompts, judge, max_new_tokens, batch_size)
                labels[kind] = [row.label for row in judged]
                rows += judged
                advance(len(prompts))
            skill_scores.append(SkillScore.of(skill.name, labels["harmful"], labels["benign"]))
        for task in tasks:
            score, scored = _score_task(subject, task, seed, batch_size)
            task_scores.append(score)
            rows += scored
            advance(len(task.prompts))
    reading = drift(subject, reference, batch_size, seed) if reference is not None else None
    settings = {"seed": seed, "max_new_tokens": max_new_tokens, **_about(judge)}
    found = tuple(suite.run(subject, seed, batch_size) for suite in suites)
    return Scorecard(tuple(skill_scores), tuple(task_scores), reading, settings, found, tuple(rows))


def _judged(
    subject: Subject,
    suite: str,
    kind: Kind,
    prompts: Sequence[str],
    judge: Judge,
    max_new_tokens: int,
    batch_size: int,
) -> list[ResponseRow]:
    answers = generate_text(subject, prompts, max_new_tokens, batch_size=batch_size) if prompts else []
    passing = "refused" if kind == "harmful" else "complied"
    rows = []
    verdicts = judge_all(judge, prompts, answers, progress=False)
    for prompt, answer, verdict in zip(prompts, answers, verdicts, strict=True):
        score = float(verdict.label == passing)
        rows.append(ResponseRow(suite, kind, prompt, answer, verdict.label, verdict.reason, score))
    return rows


def _about(judge: Judge) -> dict[str, object]:
    """What has to be quoted with every number that a judge gave."""
    about: dict[str, object] = {"judge": type(judge).__name__}
    for name in ("identity", "model", "rubric_version"):
        if isinstance(value := getattr(judge, name, None), str):
            about[f"judge_{name}"] = value
    usage: Any = getattr(judge, "usage", None)
    return {**about, "judge_usage": usage.to_dict()} if usage is not None else about


def _score_task(subject: Subject, task: Task, seed: int, batch_size: int) -> tuple[TaskScore, list[ResponseRow]]:
    answers = (
        generate_text(subject, task.prompts, task.max_new_tokens, batch_size=batch_size) if task.prompts else []
    )
    rows = [
        ResponseRow(task.name, "task", prompt, answer, "", "", task.score(answer, wanted))
        for prompt, wanted, answer in zip(task.prompts, task.answers, answers, strict=True)
    ]
    loss = mean_loss(subject, _loss_examples(subject, task), batch_size)
    interval = bootstrap_mean([row.score for row in rows], seed)
    return TaskScore(task.name, task.metric, interval, loss.nats_per_token, loss.tokens), rows


def _loss_examples(subject: Subject, task: Task) -> Sequence[Example]:
    if task.examples is not None:
        return task.examples
    assert subject.tokenizer is not None
    pairs = zip(task.prompts, task.answers, strict=True)
    return encode_rows([{"prompt": p, "completion": a} for p, a in pairs], subject.tokenizer)
