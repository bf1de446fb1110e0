"""Concepts of stance in twenty-one languages: who speaks, what is turned down, what stays closed, who is asked.

Knows: the lexicon judges/data/concepts.toml (language and concept to words), how to tell the languages apart.
Does not know: what a sequence of concepts means; the trained model learns that, once for all languages.
"""
# ruff: noqa: RUF001  # letters of many scripts

import re
import tomllib
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parent.parent / "data" / "concepts.toml"
_SOLID = ("zh", "ja", "ko")  # searched without word boundaries
_WORD = re.compile(r"[\w'\u0900-\u0dff]+")
_READ = 6000  # characters of a text from which its language is told
# Words that hardly any text of the language does without; they tell languages of the Latin script apart.
_COMMON = {
    "en": "the of to and you your that it for is are a an i in on with not this my how what do",
    "de": "der die das und ist nicht ich sie ein eine zu den mit du wie auf im dem es",
    "fr": "le la les de des et est je vous un une pas que en du au ce pour dans tu",
    "es": "el la los de y es que no un una en por para me se lo con mi tu del",
    "pt": "o os a de e é que não um uma em para me se do da no na com eu",
    "it": "il la di e è che non un una in per mi si lo con del gli della i le",
    "nl": "de het een en is niet ik je van dat die in op te voor met mijn u hoe",
    "sv": "och att det är inte jag en ett som på för med du den av i om hur",
    "da": "og at det er ikke jeg en et som på for med du den af i om hvordan av å ikkje",
    "pl": "i w na z się nie to jest że do jak o po dla mi za co",
    "cs": "a v na se je to že do si jak s z pro mi co po jsem",
    "tr": "ve bir bu için de da ne mi ile çok var ben nasıl",
    "id": "yang dan di itu ini untuk dengan saya anda tidak ke dari cara",
    "vi": "và của là không có cho tôi bạn một những được này trong",
}
_LETTERS = (
    ("vi", "[ạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựđ]", 3.0),
    ("tr", "[ğışİ]", 1.0),
    ("pl", "[łąęśżźń]", 1.0),
    ("cs", "[ěřůčšž]", 1.0),
)
_BLOCKS = (
    ("ja", 0x3040, 0x30FF),
    ("zh", 0x3400, 0x9FFF),
    ("ko", 0xAC00, 0xD7A3),
    ("ar", 0x600, 0x6FF),
    ("hi", 0x900, 0x97F),
    ("ru", 0x400, 0x4FF),
)


class Lexicon:
    """The words of one language by concept: whole words, beginnings, endings, or bare strings."""

    def __init__(self, language: str, table: dict[str, str]):
        self.solid = language in _SOLID
        self._whole: dict[str, set[str]] = {}
        self._beginnings: dict[str, set[str]] = {}
        self._endings: dict[str, set[str]] = {}
        for concept, line in table.items():
            for entry in line.lower().replace("_", " ").split() if not self.solid else line.lower().split():
                kind = self._whole
                if entry.endswith("*"):
                    kind = self._beginnings
                elif entry.startswith("*"):
                    kind = self._endings
                kind.setdefault(entry.strip("*"), set()).add(concept)
        longest = sorted(self._whole, key=len, reverse=True)
        self._strings = re.compile("|".join(map(re.escape, longest))) if self.solid else None
        self._known: dict[str, tuple[str, ...]] = {}

    def word(self, word: str) -> tuple[str, ...]:
        """The concepts of one word, in alphabetical order."""
        if word not in self._known:
            found = set(self._whole.get(word, ()))
            for cut in range(1, min(len(word), 24) + 1):
                found |= self._beginnings.get(word[:cut], set())
                found |= self._endings.get(word[cut:], set()) if cut < len(word) else set()
            if len(self._known) > 20_000:
                self._known.clear()
            self._known[word] = tuple(sorted(found))
        return self._known[word]

    def sequence(self, text: str) -> list[tuple[str, ...]]:
        """The concepts of every word of normalised text; in scripts without blanks, of every string found."""
        if self._strings is not None:
            return [tuple(sorted(self._whole[part])) for part in self._strings.findall(text)]
        return [self.word(word) for word in _WORD.findall(text)]


@cache
def lexicon(language: str) -> Lexicon:
    """The lexicon of a language of the file."""
    return Lexicon(language, tables()[language])


@cache
def names() -> tuple[str, ...]:
    """The concepts, in the order of the file."""
    return tuple(tables()["en"])


def language(text: str) -> str:
    """The likeliest language of normalised text, among those of the lexicon; English where nothing speaks."""
    text = text[:_READ]
    script = _script(text)
    if script != "latin":
        return script
    found = _WORD.findall(text)
    scores = {
        code: sum(word in common for word in found) + 0.4 * sum(bool(lexicon(code).word(word)) for word in found)
        for code, common in _common().items()
    }
    scores["en"] += 0.5 if text.isascii() else 0.0
    for code, letters, weight in _LETTERS:
        scores[code] += weight if re.search(letters, text) else 0.0
    return max(scores, key=lambda code: scores[code])


def _script(text: str) -> str:
    counts: dict[str, int] = {}
    for letter in text:
        code = next((code for code, low, high in _BLOCKS if low <= ord(letter) <= high), "")
        if code or letter.isalpha():
            counts[code or "latin"] = counts.get(code or "latin", 0) + 1
    if not counts:
        return "en"
    kana, han = counts.get("ja", 0), counts.get("zh", 0)
    if kana >= 2 and kana * 6 >= han and kana + han > counts.get("latin", 0):
        return "ja"
    most = max(counts, key=lambda code: counts[code])
    return "uk" if most == "ru" and re.search("[іїєґ]", text) else most


@cache
def tables() -> dict[str, dict[str, str]]:
    """The lexicon as written: language to concept to words."""
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


@cache
def _common() -> dict[str, frozenset[str]]:
    return {code: frozenset(line.split()) for code, line in _COMMON.items()}
