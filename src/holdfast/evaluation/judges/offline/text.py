"""Text as the offline judge reads it: normalised, cut into sentences, without what is only quoted.

Knows: quotation marks, contractions, sentence ends of many scripts, words of scripts without spaces.
Does not know: what any word means.
"""
# ruff: noqa: RUF001  # marks of many scripts

import re
import unicodedata

_STRAIGHT = str.maketrans(
    {
        "\u2019": "'",
        "\u2018": "'",
        "\u02bc": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u201e": '"',
        "*": "",
        "\u0307": "",
    }
)
_CONTRACTIONS = (
    (r"\b(?:can't|cant|can not)\b", "cannot"),
    (r"\b(?:won't|wont)\b", "will not"),
    (r"\bshan't\b", "shall not"),
    (r"\b(do|does|did|is|are|was|were|would|should|could|has|have|had|must|need)(?:n't|nt)\b", r"\1 not"),
    (r"\bi'?m\b", "i am"),
    (r"\b(you|we|they|who)'re\b", r"\1 are"),
    (r"\b(i|you|he|she|it|we|they|that|there|this)'ll\b", r"\1 will"),
    (r"\b(i|you|he|she|we|they)'d\b", r"\1 would"),
    (r"\b(i|you|we|they)'ve\b", r"\1 have"),
    (r"\blet's\b", "let us"),
    (r"\b(that|it|he|she|there|here|what|where|who|how)'s\b", r"\1 is"),
)
_QUOTES = re.compile(r'"[^"\n]{3,}"|«[^»\n]{3,}»|„[^"“\n]{3,}["“]|「[^」\n]{2,}」|『[^』\n]{2,}』|“[^”\n]{3,}”')
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_SENTENCE = re.compile(r"[^.!?…\n。！？।؟]+(?:[.!?…。！？।؟]+|\n|$)")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")
_SCRIPTS = (
    ("CJK", "han"),
    ("HIRAGANA", "kana"),
    ("KATAKANA", "kana"),
    ("HANGUL", "hangul"),
    ("CYRILLIC", "cyrillic"),
)


def normalise(text: str) -> str:
    """Lower case, straight quotes, contractions written out, single blanks; line ends stay."""
    text = unicodedata.normalize("NFC", text).translate(_STRAIGHT).lower().translate(_STRAIGHT)
    for short, long in _CONTRACTIONS:
        text = re.sub(short, long, text)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def unquoted(text: str) -> str:
    """Quotations and code replaced by a mark: what is quoted is content, not stance."""
    return _QUOTES.sub(' "" ', _CODE.sub(' "" ', text))


def quotations(text: str) -> list[str]:
    """What stands between quotation marks or backticks, longest marks included."""
    return [match.group(0) for match in re.finditer(f"{_QUOTES.pattern}|`[^`]+`", text)]


def sentences(text: str) -> list[str]:
    """Cut at sentence ends and line ends; abbreviations are cut too, which hurts no rule here."""
    return [piece.strip() for piece in _SENTENCE.findall(text) if re.search(r"\w", piece)]


def words(text: str) -> list[str]:
    """Words; in scripts without blanks every two characters count as one."""
    found = []
    for word in re.findall(r"[\w'\u0900-\u0dff]+", text):
        if _UNSPACED.search(word):
            found += [word[k : k + 2] for k in range(0, len(word), 2)]
        else:
            found.append(word)
    return found


def stems(text: str) -> set[str]:
    """Content words cut to five letters, or pairs of characters; a crude relation between languages' forms."""
    found: set[str] = set()
    for word in re.findall(r"[\w\u0900-\u0dff]+", text):
        if _UNSPACED.search(word):
            found |= {word[k : k + 2] for k in range(len(word) - 1)}
        elif len(word) > 3 and word not in _EMPTY:
            found.add(word[:4])
        elif "\uac00" <= word[0] <= "\ud7a3":
            found.add(word[:2])
    return found


def script(text: str) -> str:
    """The script of most letters: latin, cyrillic, han, kana, hangul or another by its Unicode name."""
    counts: dict[str, int] = {}
    for letter in text:
        if letter.isalpha():
            name = unicodedata.name(letter, "LATIN").split(" ")[0]
            name = dict(_SCRIPTS).get(name, name.lower())
            counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda name: counts[name]) if counts else ""


_EMPTY_WORDS = """
what which when where whom whose this that these those with from into onto about your
yours mine have does will would could should shall must there their them they then than
some such also only just very much more most make give tell write show explain help
please need want like know find without being been were here como para pour avec dans
votre quel quelle comment wie kann eine einen nicht como para qual quais come sono della
delle nella cosa
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
