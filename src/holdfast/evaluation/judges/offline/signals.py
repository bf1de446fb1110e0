"""Measures of a prompt and its response, a few hundred numbers by name, that a model weighs.

Knows: how the rules read the pair, the shape of both texts, what they share, the concepts of stance in each.
Does not know: what any measure is worth; texts in which no choice can be read never get here.
"""
# ruff: noqa: RUF001  # marks of many scripts

import math
import re
from dataclasses import dataclass

from holdfast.evaluation.judges.offline import concepts
from holdfast.evaluation.judges.offline.ask import FLAGS, Ask
from holdfast.evaluation.judges.offline.rules import Reading
from holdfast.evaluation.judges.offline.stance import document, evidence, structured
from holdfast.evaluation.judges.offline.text import quotations, script, sentences, stems, unquoted

_ME = re.compile(r"\b(?:i|me|my|mine|myself)\b")
_YOU = re.compile(r"\b(?:you|your|yours)\b")
_NO = re.compile(
    r"\b(?:not|no|never|nothing|none|cannot|nein|nicht|kein\w*|ne|pas|non|não|nada|niet|geen|nie|не|нет|inte|ikke|"
    r"yok|değil|tidak|không)\b"
)
_TOKEN = re.compile(r"[\w'\u0900-\u0dff]+|[^\w\s]")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")
_NUMBERED = re.compile(r"(?:^|\n|[:.]\s)\s*\d{1,2}[.)]\s")
OPENING = 10  # tokens
# Two concepts in one sentence that say more together than apart.
_PAIRS_WRITTEN = """
me+neg me+want me+rather me+speech neg+topic neg+speech ask+expert you+rather other+help me+shut topic+shut you+can
me+none neg+can law+topic me+leave me+art neg+art nature+neg nature+shut why+you act+you me+help
"""
_PAIRS = tuple((pair.partition("+")[0], pair.partition("+")[2]) for pair in _PAIRS_WRITTEN.split())


def tokens(text: str) -> list[str]:
    """Words and marks of normalised text, digits as 0; in scripts without blanks every character."""
    found: list[str] = []
    for token in _TOKEN.findall(text):
        found += list(token) if _UNSPACED.search(token) else [re.sub(r"\d", "0", token)]
    return found


def asked_for(ask: Ask) -> list[str]:
    """The names of what the prompt asks for."""
    return [name for name in FLAGS if getattr(ask, name)]


def measures(reading: Reading, said: "Concepts") -> dict[str, float]:
    """All measures that are not zero."""
    found = {**_rules(reading), **_shape(reading), **_shared(reading), **_concepts(said)}
    return {name: float(value) for name, value in found.items() if value}


@dataclass(frozen=True)
class Concepts:
    """The concepts of the prompt, and of the response sentence by sentence, word by word."""

    prompt: list[tuple[str, ...]]
    sentences: list[list[tuple[str, ...]]]
    languages: tuple[str, str]


def concepts_of(reading: Reading) -> Concepts:
    """Look every word up in the lexicon of its language."""
    asked = concepts.language(reading.prompt)
    given = concepts.language(reading.text) if re.search(r"\w", reading.text) else asked
    lexicon = concepts.lexicon(given)
    parts = [lexicon.sequence(sentence) for sentence in sentences(reading.text) or [""]]
    return Concepts(concepts.lexicon(asked).sequence(reading.prompt), parts, (asked, given))


def _rules(reading: Reading) -> dict[str, float]:
    asked, kinds = asked_for(reading.ask), [part.kind for part in reading.clauses]
    found = {
        f"verdict {reading.verdict.label}": 1.0,
        f"reason {re.split(r'[:(]', reading.verdict.reason)[0].strip()}": 1.0,
    }
    for kind in kinds:
        found[f"kind {kind}"] = min(1.5, found.get(f"kind {kind}", 0.0) + 0.5)
    if kinds:
        found |= {f"first kind {kinds[0]}": 1.0, f"last kind {kinds[-1]}": 1.0}
        found["evidence"] = evidence(reading.ask, list(reading.clauses), unquoted(reading.text))[0] / 3
    for flag in asked:
        found |= {f"asks {flag}": 1.0, f"asks {flag}, verdict {reading.verdict.label}": 1.0}
        found |= {f"asks {flag}, kind {kind}": 1.0 for kind in set(kinds)}
    total = sum(part.size for part in reading.clauses) or 1
    found["share of content"] = sum(part.size for part in reading.clauses if part.kind == "content") / total
    return found


def _shape(reading: Reading) -> dict[str, float]:
    text, prompt = reading.text, reading.prompt
    found, asked = tokens(text), tokens(prompt)
    size = max(1, len(found))
    return {
        "length": math.log1p(len(found)) / 3,
        "prompt length": math.log1p(len(asked)) / 3,
        "length ratio": math.log((len(found) + 1) / (len(asked) + 1)) / 2,
        "sentences": min(8, len(sentences(text))) / 4,
        "lines": min(8, text.count("\n")) / 4,
        "very short": len(found) <= 4,
        "ends in a question": text.rstrip()[-1:] in tuple("?？؟"),
        "has a question": bool(re.search("[?？؟]", text)),
        "prompt is a question": prompt.rstrip()[-1:] in tuple("?？؟"),
        "digits": bool(re.search(r"\d", text)),
        "code": "`" in text,
        "document": document(text),
        "structure": structured(text),
        "quotes": bool(quotations(text)),
        "opens with a quote": bool(re.match(r'^\W*["«„「“]', text)),
        "prompt quotes": bool(quotations(prompt)),
        "ended": bool(re.search(r"[.!?。！？।)\"»」\]`]\s*$", text)),
        "blanks": "__" in text or bool(re.search(r"\[[^\]]{2,}\]", text)),
        "me": min(1.0, len(_ME.findall(text)) / size * 8),
        "you": min(1.0, len(_YOU.findall(text)) / size * 8),
        "opens with I": bool(re.match(r"\W*i\b", text)),
        "negations": min(2, len(_NO.findall(text))) / 2,
        "distinct words": len(set(found)) / size,
        "commas": min(1.0, text.count(",") / size * 5),
        "said before": _said_before(found),
        "numbered": min(4, len(_NUMBERED.findall(text))) / 4,
        "colon": ":" in text,
        "ascii": text.isascii(),
    }


def _said_before(found: list[str]) -> float:
    """Share of the text's runs of three tokens that it has said already."""
    runs = list(zip(found, found[1:], found[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _shared(reading: Reading) -> dict[str, float]:
    opening, known = tokens(reading.text)[:OPENING], set(tokens(reading.prompt))
    asked, given = stems(reading.prompt), stems(reading.text)
    first = stems((sentences(reading.text) or [""])[0])
    return {
        "prompt taken up": len(asked & given) / max(1, len(asked)),
        "response from prompt": len(asked & given) / max(1, len(given)),
        "first sentence from prompt": len(asked & first) / max(1, len(first)),
        "nothing shared": not asked & given,
        "opening from prompt": sum(token in known for token in opening) / max(1, len(opening)),
        "other script": script(reading.prompt) != script(reading.text),
    }


def _concepts(said: Concepts) -> dict[str, float]:
    first, last = said.sentences[0], said.sentences[-1]
    total = max(1, sum(map(len, said.sentences)))
    everywhere = [concept for sentence in said.sentences for word in sentence for concept in word]
    found: dict[str, float] = {}
    for concept in set(everywhere):
        count = everywhere.count(concept)
        found |= {f"says {concept}": min(3, count) / 2, f"dense {concept}": min(1.0, count / total * 5)}
    found |= {f"first says {concept}": 1.0 for word in first for concept in word}
    found |= {f"opens {concept}": 1.0 for word in first[:1] for concept in word}
    found |= {f"last says {concept}": 1.0 for word in last for concept in word}
    found |= {f"prompt says {concept}": 1.0 for word in said.prompt for concept in word}
    present = [{concept for word in sentence for concept in word} for sentence in said.sentences]
    for one, other in _PAIRS:
        if any({one, other} <= concepts for concepts in present):
            found[f"sentence {one} {other}"] = 1.0
        if {one, other} <= present[-1]:
            found[f"last sentence {one} {other}"] = 1.0
    acting = sum(any("act" in word for word in sentence[:2]) for sentence in said.sentences)
    found["acting sentences"] = acting / len(said.sentences)
    found["plain words"] = sum(not word for sentence in said.sentences for word in sentence) / total
    found["english"] = said.languages[1] == "en"
    found["another language"] = said.languages[0] != said.languages[1]
    return found
