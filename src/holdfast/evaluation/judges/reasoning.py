"""The answer as a reader sees it: without what the model thought first.

Knows: how families of models mark off reasoning (data/reasoning.toml, and the channels of gpt-oss, whole or with
their special tokens stripped). Does not know: what an answer means, who judges it.

A response may begin inside a thought that its prompt opened; put the opening in front (``opened``), as
:func:`holdfast.evaluation.ask` does. An ending mark alone closes such a thought all the same.
"""
# ruff: noqa: RUF001  # marks of many scripts

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

CUT_OFF = "the answer ended inside its reasoning"
NO_ANSWER = "reasoning with no answer after it"
UNKNOWN = "reasoning in a format that is not known"

CHANNEL_TOKENS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(?P<name>\w*)(?P<rest>[^<]*(?:<\|constrain\|>[^<]*)?)(?:<\|message\|>)?(?P<text>.*?)"
    r"(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
# The same with its special tokens stripped: "analysisThe user wants ...assistantfinalHere is ...".
_STRIPPED_START = re.compile(r"\s*(?:assistant\s*)?(?:analysis|commentary)(?P<glued>(?=[^\W\d_]|[\"“‘\n]))?")
_STRIPPED_FINAL = re.compile(r"assistant\s*(?:commentary)?\s*final(?:\s*json)?")
_STRIPPED_ONLY = re.compile(r"\s*(?:assistantfinal|final(?=[\"'“‘]?[^\W\da-z_]))")

# Marks of formats that the table lacks: a word for thinking in the shape of a token or a tag, or any such tag.
_THINKING = (
    r"(?:think|thought|reason|reflect|ponder|deliberat|cogitat|contemplat|ruminat|scratch|monologue|"
    r"(?<![a-z])inner|(?<![a-z])cot(?![a-z]))"
)
_WORDS = r"[\w.:/▁ -]*"
_STRANGE = re.compile(
    rf"<[|｜]?{_WORDS}{_THINKING}{_WORDS}[|｜]?>|\[{_WORDS}{_THINKING}{_WORDS}\]|[◁⟨]{_WORDS}{_THINKING}{_WORDS}[▷⟩]"
    rf"|(?:＜|&lt;){_WORDS}{_THINKING}{_WORDS}(?:＞|&gt;)"
    rf"|(?:[{{【「『〔《]|\(\(|<!--)+{_WORDS}{_THINKING}{_WORDS}(?:[}}】」』〕》]|\)\)|-->)+"
    rf"|^\s*```{_THINKING}\w*\n",
    re.I,
)
_ENDING = re.compile(r"/|end|stop|close|suffix|finish", re.I)
_SPECIAL = re.compile(r"<[|｜](?P<name>[\w.:/▁ -]+)[|｜]?>")
_TURNS = re.compile(
    r"assistant|user|system|tool|bot|human|text|im_|^start|^end|eo[ts]|bos|turn|role|header|pad|sep", re.I
)
_TAG = re.compile(r"<(?P<end>/?)(?P<name>[^\W\d_][\w.:-]*)(?P<more>\s[^<>]*|/)?>")


@dataclass(frozen=True)
class _Format:
    begin: re.Pattern[str]
    end: re.Pattern[str]
    bare_end: bool = True
    at_start: bool = False


@cache
def _table() -> tuple[tuple[_Format, ...], re.Pattern[str], frozenset[str]]:
    """The formats, what an answer may be wrapped in, and tags of markup languages, which mark no thought."""
    text = resources.files("holdfast.evaluation.judges").joinpath("data/reasoning.toml").read_text("utf-8")
    values: dict[str, Any] = tomllib.loads(text)

    def tag(name: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
        word = re.escape(name)
        return re.compile(rf"<\s*{word}(?:\s[^<>]*)?>", re.I), re.compile(rf"<\s*/\s*{word}\s*>", re.I)

    formats = [_Format(*tag(name)) for name in values["tags"]]
    for one in values["format"]:
        begin, end = (re.compile(re.escape(one[key])) for key in ("begin", "end"))
        formats.append(_Format(begin, end, one.get("bare_end", True), one.get("at_start", False)))
    wrappers = [pattern.pattern for name in values["wrappers"] for pattern in tag(name)]
    wrappers += [re.escape(token) for token in values["wrapper_tokens"]]
    return tuple(formats), re.compile("|".join(wrappers), re.I), frozenset(values["markup"].split())


def final_answer(response: str, opened: str = "") -> tuple[str, str | None]:
    """What stands on the page once the reasoning is gone, and what is wrong with it, if anything.

    Args:
        response: untrusted text.
        opened: what the prompt put in front of it, such as "<think>"; "" if the response already has it.

    Returns:
        (answer, None); or ("", problem): :data:`CUT_OFF`, :data:`NO_ANSWER`, or a text that begins with
        :data:`UNKNOWN`. A response without reasoning comes back as it is.
    """
    text = opened + response
    for read in (_channels, _stripped_channels, _marked):
        found = read(text)
        if found is not None:
            answer, problem = found
            answer = _unwrapped(answer, always=True)
            return ("", problem) if problem else (answer, None) if answer else ("", NO_ANSWER)
    mark = _unknown_mark(text)
    if mark is not None:
        return "", f"{UNKNOWN}: {mark[:40]!r}"
    return _unwrapped(text, always=False), None


def opened_by(prompt_end: str) -> str:
    """The marks of reasoning on which a prompt ends, if they leave a thought open: a response begins inside it."""
    begin = len(prompt_end.rstrip())
    marks = [*_known_marks(prompt_end), *(found.span() for found in _STRANGE.finditer(prompt_end))]
    for start, stop in sorted(marks, reverse=True):
        if start < begin and not prompt_end[stop:begin].strip():
            begin = start
    opened = prompt_end[begin:]
    left_open = opened.strip() and final_answer("", opened)[1] not in (None, NO_ANSWER)
    return opened if left_open else ""


def structures_reasoning(token: str) -> bool:
    """Whether a special token must survive decoding for the reasoning to be told from the answer."""
    formats, wrappers, _ = _table()
    known = [pattern for one in formats for pattern in (one.begin, one.end)]
    return any(pattern.fullmatch(token) for pattern in (*known, wrappers, _STRANGE))


def _known_marks(text: str) -> Iterator[tuple[int, int]]:
    for one in _table()[0]:
        for pattern in (one.begin, one.end):
            for found in pattern.finditer(text):
                named = re.compile(r"thought\s*").match(text, found.end()) if found[0] == "<|channel>" else None
                yield found.start(), named.end() if named else found.end()
    for found in re.finditer(r"<\|channel\|>[^<]*(?:<\|message\|>)?", text):
        yield found.span()


def _channels(text: str) -> tuple[str, str | None] | None:
    """gpt-oss: only the final channel is the reader's."""
    if "<|channel|>" not in text:
        return None
    messages = list(_CHANNEL.finditer(text))
    strange = [found["name"] for found in messages if found["name"] not in ("analysis", "commentary", "final")]
    final = "".join(found["text"] for found in messages if found["name"] == "final")
    if final.strip():
        return final.strip(), None
    if strange and strange[0]:
        return "", f"{UNKNOWN}: channel {strange[0][:40]!r}"
    closed = any(found["name"] == "final" for found in messages) or text.rstrip().endswith("<|call|>")
    return "", NO_ANSWER if closed else CUT_OFF


def _stripped_channels(text: str) -> tuple[str, str | None] | None:
    only = _STRIPPED_ONLY.match(text)
    if only is not None:
        return text[only.end() :].strip(), None
    start = _STRIPPED_START.match(text)
    if start is None:
        return None
    finals = list(_STRIPPED_FINAL.finditer(text, start.end()))
    if finals and (start["glued"] is not None or finals[-1][0] == "assistantfinal"):
        return text[finals[-1].end() :].strip(), None
    glued = start["glued"] is not None and text[start.end() : start.end() + 1] != "\n"
    return ("", CUT_OFF) if glued else None


def _marked(text: str) -> tuple[str, str | None] | None:
    """Everything between a beginning and its end goes; what stands before an end without a beginning goes too."""
    marks = []
    for number, one in enumerate(_table()[0]):
        first = [one.begin.match(text, len(text) - len(text.lstrip()))]
        begins = first if one.at_start else one.begin.finditer(text)
        marks += [(found.start(), found.end(), number, True) for found in begins if found]
        marks += [(found.start(), found.end(), number, False) for found in one.end.finditer(text)]
    kept: list[str] = []
    inside: int | None = None
    place, seen = 0, False
    for start, stop, number, begins in sorted(marks):
        if _quoted(text, start, stop):
            continue
        if begins and inside is None:
            kept.append(text[place:start])
            inside, seen = number, True
        elif not begins and (inside == number or (inside is None and _table()[0][number].bare_end)):
            if inside is None:
                kept.clear()
            inside, place, seen = None, stop, True
    if not seen:
        return None
    kept += [text[place:]] if inside is None else []
    answer = " ".join(piece.strip() for piece in kept if piece.strip())
    return answer, CUT_OFF if inside is not None and not answer else None


def _quoted(text: str, start: int, stop: int) -> bool:
    """A mark that is spoken of, not used."""
    return text[max(0, start - 1) : start] in ("'", '"', "`") and text[stop : stop + 1] in ("'", '"', "`")


def _unwrapped(answer: str, always: bool) -> str:
    """Without the wrapper of the answer: after reasoning, or where it is around the whole of it."""
    wrappers = _table()[1]
    inner, text = answer.strip(), answer.strip()
    begin = wrappers.match(inner)
    if begin is not None and "/" not in begin[0][:2]:
        inner = inner[begin.end() :]
        ends = [found for found in wrappers.finditer(inner) if not inner[found.end() :].strip()]
        closed = bool(ends)
        inner = inner[: ends[0].start()].strip() if closed else inner.strip()
        if always or closed:
            return inner
    if always:  # its beginning may have been what ended the thought
        ends = [found for found in wrappers.finditer(text) if not text[found.end() :].strip()]
        return text[: ends[0].start()].strip() if ends else text
    return answer


def _unknown_mark(text: str) -> str | None:
    """A mark of some other format: before a text, or the end of something before what follows."""
    begin = len(text) - len(text.lstrip())
    strange = _STRANGE.match(text, begin)
    special = _SPECIAL.match(text, begin)
    if strange is not None and not _wraps(strange[0]):
        return strange[0]
    if special is not None and not _wraps(special[0]) and not _TURNS.search(special["name"]):
        return special[0]
    for found in _STRANGE.finditer(text):
        if _ENDING.search(found[0]) and _ends_something(text, found) and not _wraps(found[0]):
            return found[0]
    for tag in _TAG.finditer(text):
        name = tag["name"].lower()
        if not tag["end"] or name in _table()[2] or _wraps(tag[0]) or not _ends_something(text, tag):
            continue
        before = text[: tag.start()]
        tags = list(_TAG.finditer(before))
        led = len(tags) == 1 and tags[0].start() == begin and tags[0][0].lower() == f"<{name}>"
        if led or not tags:
            return tag[0]
    return None


def _ends_something(text: str, found: re.Match[str]) -> bool:
    """Prose before it and after it: not code, not a quotation, not the end of a document."""
    before, after = text[: found.start()], text[found.end() :]
    if "```" in before or _quoted(text, *found.span()):
        return False
    after = _TAG.sub(lambda tag: "" if _wraps(tag[0]) else tag[0], after).strip()
    return bool(before.strip() and after and not after.startswith("<"))


def _wraps(mark: str) -> bool:
    return _table()[1].fullmatch(mark) is not None
