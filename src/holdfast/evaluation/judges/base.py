"""What every judge has in common: labels, verdicts, the one call, and judging a whole list.

Knows: the four labels, how a list is judged in pieces, kept and counted.
Does not know: any particular judge.

The meaning of the labels is that of the labelling rules: refused = not on the page and a choice not to give it;
complied = it, or a real attempt, is on the page; unclear = no choice can be read; error = nothing to judge, or
nobody there to judge it. An error is never a verdict: it is counted apart and passes nowhere.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from holdfast.core.errors import UserError
from holdfast.core.files import hash_json, read_json, write_json
from holdfast.core.progress import bar
from holdfast.core.results import Result
from holdfast.core.statistics import Interval, wilson
from holdfast.evaluation.judges.reasoning import final_answer

Label = Literal["refused", "complied", "unclear", "error"]
LABELS: tuple[Label, ...] = ("refused", "complied", "unclear", "error")
CHUNK = 32  # responses between two updates of the bar and of the cache


@dataclass(frozen=True)
class Verdict(Result):
    """A label and, in a few words, the rule that gave it."""

    label: Label
    reason: str


class Judge(Protocol):
    """Anything that labels a response.

    A judge that is faster on many may also have ``many(prompts, responses) -> Sequence[Verdict]``; one whose
    verdicts may be kept has ``identity``, a text that changes with everything a verdict depends on. One that is to
    be given the reasoning as well has ``reads_reasoning = True``.
    """

    def __call__(self, prompt: str, response: str | None) -> Verdict: ...


def label_counts(labels: Iterable[str]) -> dict[str, int]:
    """How often each of the four labels was given."""
    counted = Counter(labels)
    return {label: counted[label] for label in LABELS}


def label_rate(counts: Mapping[str, int], label: Label) -> Interval:
    """Share of *all* with this label, Wilson at 95 %: "unclear" and "error" stay below the line."""
    return wilson(counts[label], sum(counts.values()))


@dataclass(frozen=True)
class LabelCounts(Result):
    """Verdicts by label. ``errors`` are not verdicts and no part of ``judged``."""

    refused: int
    complied: int
    unclear: int
    errors: int

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> "LabelCounts":
        """Count."""
        counted = Counter(verdict.label for verdict in verdicts)
        return cls(counted["refused"], counted["complied"], counted["unclear"], counted["error"])

    @property
    def judged(self) -> int:
        """Responses that got a verdict."""
        return self.refused + self.complied + self.unclear

    def __str__(self) -> str:
        text = f"{self.judged} judged: {self.refused} refused, {self.complied} complied, {self.unclear} unclear"
        return text + (f"; {self.errors} could not be judged (error)" if self.errors else "")


class VerdictCache:
    """Verdicts in a folder, one small file each, so that a run that was cut off continues.

    A file is written whole or not at all; an error is never kept; prompts and responses are kept only as part of
    a hash. A file that cannot be read counts as absent.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def key(self, identity: str, prompt: str, response: str) -> str:
        """What a verdict is filed under: who judged, and what."""
        return hash_json([identity, prompt, response])

    def get(self, key: str) -> Verdict | None:
        """The verdict filed under ``key``, if there is a sound one."""
        try:
            kept = read_json(self._path(key))
            label, reason = kept["label"], kept["reason"]
        except (UserError, OSError, KeyError, TypeError):
            return None
        sound = label in LABELS and label != "error" and isinstance(reason, str)
        return Verdict(label, reason) if sound else None

    def put(self, key: str, verdict: Verdict) -> None:
        """File a verdict; an error is not filed, so that the next run asks again.

        Raises:
            UserError: full disk, or a folder that may not be written.
        """
        if verdict.label != "error":
            write_json(self._path(key), verdict.to_dict())

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def judge_all(
    judge: Judge,
    prompts: Sequence[str],
    responses: Sequence[str | None],
    cache: VerdictCache | str | Path | None = None,
    progress: bool = True,
) -> tuple[Verdict, ...]:
    """Judge a list, in order. A judge that breaks on one response gives "error" there, not a lost run.

    Every judge is shown the answer as a reader sees it, without the model's reasoning; where no answer can be told
    from the reasoning (cut off, none after it, an unknown format) the verdict is "unclear" and no judge is asked.

    Args:
        judge: its ``many`` is used where it has one.
        prompts, responses: of equal length; a response is None where the model gave none.
        cache: folder that keeps verdicts (not errors); the judge then needs an ``identity``.

    Raises:
        UserError: lists of different lengths; a cache for a judge without identity; a mistake that the judge
            itself reports (an unknown model, a wrong key), because it would spoil every row alike.
    """
    if len(prompts) != len(responses):
        raise UserError(f"{len(prompts)} prompts but {len(responses)} responses; give one response a prompt")
    store = VerdictCache(cache) if isinstance(cache, (str, Path)) else cache
    identity = getattr(judge, "identity", None)
    if store is not None and not isinstance(identity, str):
        raise UserError(f"{type(judge).__name__} has no 'identity', so its verdicts cannot be kept; pass no cache")
    verdicts: list[Verdict] = []
    with bar("judging", len(prompts), progress) as advance:
        for start in range(0, len(prompts), CHUNK):
            given = prompts[start : start + CHUNK], responses[start : start + CHUNK]
            verdicts += _judge_as_read(judge, *given, store, str(identity))
            advance(len(given[0]))
    return tuple(verdicts)


def _judge_as_read(
    judge: Judge,
    prompts: Sequence[str],
    responses: Sequence[str | None],
    store: VerdictCache | None,
    identity: str,
) -> list[Verdict]:
    def piece(prompts: Sequence[str], responses: Sequence[str | None]) -> list[Verdict]:
        return _judge_piece(judge, prompts, responses, store, identity)

    if getattr(judge, "reads_reasoning", False):
        return piece(prompts, responses)
    return on_answers(prompts, responses, piece)


def on_answers(
    prompts: Sequence[str],
    responses: Sequence[str | None],
    judge: Callable[[Sequence[str], Sequence[str | None]], Sequence[Verdict]],
) -> list[Verdict]:
    """Let ``judge`` label what a reader is shown, without reasoning; where that is no answer, say so.

    Judges that may be called directly go through here too: their verdict must not depend on who calls them.
    """
    read = [final_answer(text) if isinstance(text, str) else (text, None) for text in responses]
    clear = [k for k, (_, problem) in enumerate(read) if problem is None]
    judged = judge([prompts[k] for k in clear], [read[k][0] for k in clear])
    fresh = dict(zip(clear, judged, strict=True))
    return [fresh[k] if k in fresh else Verdict("unclear", str(problem)) for k, (_, problem) in enumerate(read)]


def _judge_piece(
    judge: Judge,
    prompts: Sequence[str],
    responses: Sequence[str | None],
    store: VerdictCache | None,
    identity: str,
) -> list[Verdict]:
    keys = [
        store.key(identity, prompt, response) if store is not None and isinstance(response, str) else None
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    found = [store.get(key) if store is not None and key else None for key in keys]
    open_rows = [k for k, verdict in enumerate(found) if verdict is None]
    fresh = _judge_fresh(judge, [prompts[k] for k in open_rows], [responses[k] for k in open_rows])
    for k, verdict in zip(open_rows, fresh, strict=True):
        found[k] = verdict
        key = keys[k]
        if store is not None and key:
            store.put(key, verdict)
    return [verdict for verdict in found if verdict is not None]


def _judge_fresh(judge: Judge, prompts: list[str], responses: list[str | None]) -> list[Verdict]:
    many: Any = getattr(judge, "many", None)
    if many is not None and prompts:
        try:
            verdicts = list(many(prompts, responses))
        except UserError:
            raise
        except Exception:  # one bad row must not take its neighbours along: they are judged one by one below
            verdicts = []
        if len(verdicts) == len(prompts) and all(isinstance(verdict, Verdict) for verdict in verdicts):
            return verdicts
    return [_judge_one(judge, prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def _judge_one(judge: Judge, prompt: str, response: str | None) -> Verdict:
    try:
        return judge(prompt, response)
    except UserError:
        raise
    except Exception as error:  # a user's judge may raise anything; the label records it
        return Verdict("error", f"judge failed: {type(error).__name__}: {error}"[:200])


def shown(text: str, limit: int = 60) -> str:
    """Foreign text, fit for a reason or a message: on one line, escaped, cut."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return repr(cut)


def fill(template: str, **texts: str) -> str:
    """Put texts into ``{name}`` places in one pass: braces inside a text stay what they are.

    Raises:
        UserError: the template lacks one of the places.
    """
    pieces, rest = [], template
    places = {f"{{{name}}}": text for name, text in texts.items()}
    for place in places:
        if place not in template:
            raise UserError(f"template {shown(template)}: has no {place}; put it where that text belongs")
    while rest:
        found = [(rest.find(place), place) for place in places if place in rest]
        if not found:
            break
        at, place = min(found)
        pieces += [rest[:at], places[place]]
        rest = rest[at + len(place) :]
    return "".join([*pieces, rest])
