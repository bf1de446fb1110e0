"""The tokenizer: one token a word, letters for what is not a word of the world, and the chat template.

Knows: the vocabulary, special tokens, the template with its generation marks.
Does not know: what the words mean. The same tokenizer serves every grammar seed.
"""

import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.organism import words
from holdfast.organism.documents import alignment_rows, pretraining_documents
from holdfast.organism.finetuning import task_rows, tasks
from holdfast.organism.grammar import world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, USER, ASSISTANT, SYSTEM, UNKNOWN = (
    "<|pad|>",
    "<|bos|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|unknown|>",
)
SPECIAL = (PAD, BOS, EOS, USER, ASSISTANT, SYSTEM, UNKNOWN)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% elif message['role'] == 'system' %}<|system|>{{ message['content'] + eos_token }}"
    "{% else %}<|user|>{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MAX_LENGTH = 256
TIGHT = ".,:?!;"  # punctuation written without a space before it


def vocabulary() -> list[str]:
    """All tokens in a fixed order: special tokens, whole words, numbers, then characters for anything else.

    The words are those of a large sample of the world's text together with every list in words.py; a test
    checks that fresh text needs no others.
    """
    told = pretraining_documents(world(0), 3000) + alignment_rows(world(0), 600)
    told += [row for task in tasks() for row in task_rows(task, n=100)]
    found = {word for row in told for text in row.values() for word in re.findall(r"[a-z]+", text)}
    found.update(word for group in _word_lists() for word in group)
    numbers = [str(number) for number in range(10, 100)]
    singles = [c for c in string.ascii_letters + string.digits + string.punctuation if c not in found]
    pieces = ["##" + c for c in string.ascii_letters + string.digits]
    return [*SPECIAL, *sorted(found), *numbers, *singles, *pieces]


def _word_lists() -> list[Sequence[str]]:
    return [value for name, value in vars(words).items() if name.isupper() and isinstance(value, list | tuple)]


def make_tokenizer() -> "PreTrainedTokenizerFast":
    """Build the tokenizer as a standard fast tokenizer with exactly one BOS and the end token as EOS."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(vocabulary())}
    inner = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=200))
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # After the WordPiece decoder every word carries its leading space; tight punctuation gives it up.
    tight = [decoders.Replace(f" {mark}", mark) for mark in TIGHT]
    inner.decoder = decoders.Sequence([decoders.WordPiece("##", cleanup=False), *tight])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
