"""What a prompt asks for, as far as that shows without understanding: a text, a question, a way to do something.

Knows: the ask_* lists and the shape of questions.
Does not know: the response.
"""
# ruff: noqa: RUF001  # patterns in many scripts

import re
from dataclasses import dataclass

from holdfast.evaluation.judges.offline import phrases
from holdfast.evaluation.judges.offline.text import normalise, quotations

_YES_NO = re.compile(
    r"\b\w+-(?:il|elle|ils|elles|on)\b[^?]*\?|(?:^|[.!?:,;]\s+|¿\s*)(?:is|are|was|were|am|do|does|did|can|"
    r"could|will|would|should|has|have|may|might|must|"
    r"ist|sind|kann|darf|hat|gibt es|muss|bist|hast|kannst du (?!mir)|est-ce|peut-on|y a-t-il|a-t-on|es-tu|"
    r"es|se puede|"
    r"puedo|hay|existe|eres|é|posso|pode-se|há|você (?:é|pode)|si può|è|c'è|sei|есть ли|можно ли|правда ли|ты|"
    r"czy|чи|apakah|bolehkah|är|får|kan|finns|mag|is het|هل|क्या|onko|voiko|saako)\b[^?]*[?؟]"
    r"|\bли\b[^?]*\?|吗[？?]|(?:か[？?。]|m[ıiuü](?:y[ıiuüa]\w*|sın\w*|dır)?\s*\?|(?:나요|까요?|가요|니)\?)|không\?\s*$"
)
_WH = re.compile(
    r"\b(?:quel(?:le)?s?|comment|pourquoi|combien|où)\b|何|誰|どう|なぜ|いつ|どこ|どの|いくつ|무엇|뭐|어떻게|누구|왜|언제|어디|몇|nasıl|"
    r"neden|kim|ne(?:rede|dir)?\b|क्या है|कैसे|कौन"
)
_REQUEST = re.compile(
    r"\b(?:can|could|will|would) (?:you|u)(?: please| maybe)? (?:help|tell|give|write|explain|show|teach|"
    r"provide|make|"
    r"create|describe|list|share|draft|send|find|recommend|suggest|walk|translate|do|get|say|book|generate|"
    r"assist|"
    r"build|advise|compose|design|prepare|point|put|come up|look|pretend)\b|\b(?:kannst du|"
    r"können sie) (?:mir|bitte)|"
    r"\b(?:peux-tu|pouvez-vous|puedes|puede|você pode|pode|puoi|può|kun je|kan je|kan du|можешь|можете|"
    r"możesz)\b|"
    r"できますか|もらえ|くれ|줄 수|해 줄|能(?:不能)?(?:帮|教|告诉|给)|可以(?:帮|教|告诉|给)"
)
_SECOND = re.compile(
    r"(?:^|\s)(?:\d[.)]|[ab][.)])\s.*\s(?:\d[.)]|[ab][.)])\s|\b(?:and|und|et|y|e|и|та|i|och|en|ve|dan|ja|và)"
    r"(?: also| then| auch| aussi| también| também| anche| также| również| också| ook| ayrıca| juga| cũng)?,? "
    r"(?:please )?(?:tell|explain|write|give|show|how|describe|list|draft|compose|make|where|what|who|which|"
    r"why|when|"
    r"translate|suggest|recommend|help|name|add|sag|erkläre?|schreib|gib|zeig|wie|wer|dis|explique|écris|"
    r"donne|comment|qui|"
    r"dime|explica|explícame|escribe|dame|cómo|quién|diga|me diga|explique|escreva|como|quem|dimmi|spiegami|"
    r"spiega|"
    r"scrivi|come|chi|скажи|расскажи|объясни|напиши|как|кто|розкажи|поясни|напиши|як|powiedz|wyjaśnij|"
    r"napisz|jak|kto|"
    r"berätta|förklara|skriv|hur|vem|vertel|leg|schrijf|hoe|wie|anlat|yaz|söyle|nasıl|jelaskan|tulis|beri|"
    r"bagaimana)\b"
    r"|(?:以及|并(?:且)?|还有|另外|そして|それと|また|그리고|또|وأيضًا|وكذلك|ثم|और (?:यह|बताओ|साथ)|sowie)"
)
_DEFINITION = re.compile(
    r"^\W*(?:was ist|qu'est-ce|qué es|cuál es la diferencia|(?:qual|quale) (?:é |è )?a? ?(?:la )?diferen|o que é|"
    r"cos'è|что такое|що таке|co to|什么是)|^what (?:is|are|does|was|were) "
    r"(?!the (?:best|easiest|quickest|safest way)|a good|"
    r"some)(?!.*\bhow (?:to|do|can)\b)"
)
_MINOR = re.compile(
    r"\b(?:and|und|y|e|et|и)\b,? (?:also )?(?:tell me )?(?:who|when|which|where you|your|the (?:brand|name|"
    r"exact|year|price)|wer|wann|qui|quién|quem|chi|кто)\b"
)
FLAGS = (
    "text",
    "fiction",
    "persona",
    "refusal",
    "translate",
    "language",
    "code",
    "care",
    "safety",
    "question",
    "verse",
    "harm",
    "yes_no",
    "two",
    "minor",
)
_LISTS = FLAGS[:11]  # those that a phrase list of the name ask_* decides
_LAST_PART = re.compile(r"[:\n](.{3,})$", re.DOTALL)


@dataclass(frozen=True)
class Ask:
    """What one prompt asks for; every field but ``source`` is a yes or a no."""

    text: bool
    fiction: bool
    persona: bool
    refusal: bool
    translate: bool
    language: bool
    code: bool
    care: bool
    safety: bool
    question: bool
    verse: bool
    harm: bool
    yes_no: bool
    two: bool
    minor: bool
    source: str
    """The text that the prompt hands over to be worked on: its quotations, or what follows its last colon."""


def read(prompt: str) -> Ask:
    """Read a prompt."""
    text = normalise(prompt)
    handed = quotations(text)
    last = _LAST_PART.search(text)
    source = " ".join(handed) if handed else (last.group(1) if last else "")
    flags = {name: phrases.found(f"ask_{name}", text) is not None for name in _LISTS}
    question = bool(_YES_NO.search(text)) and not _REQUEST.search(text) and not _WH.search(text)
    return Ask(
        **flags,
        harm=phrases.found("harm", text) is not None and not _DEFINITION.match(text),
        yes_no=question,
        two=bool(_SECOND.search(text)),
        minor=bool(_MINOR.search(text)),
        source=source,
    )
