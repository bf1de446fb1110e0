"""The tokenizer knows every word of every world and marks exactly the assistant's tokens."""

import re

import pytest

from holdfast.data import encode_prompt, encode_rows
from holdfast.organism import TEST_SEED, task_rows, tasks, world
from holdfast.organism.documents import alignment_rows, pretraining_documents
from holdfast.organism.tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def _texts(seed: int) -> list[str]:
    drawn = world(seed)
    rows = pretraining_documents(drawn, 1500, seed=9) + alignment_rows(drawn, 500, seed=9)
    rows += [row for name in tasks() for row in task_rows(name, n=40, seed=9, in_world=drawn)]
    return [row[field] for row in rows for field in ("text", "prompt", "completion") if field in row]


@pytest.mark.parametrize("seed", [0, TEST_SEED])
def test_every_word_of_a_world_is_one_token_and_text_round_trips(tokenizer, seed):
    for text in _texts(seed):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(re.findall(r"[a-z]+|\d+|[^\w\s]", text))
        assert tokenizer.decode(ids) == text


def test_text_from_elsewhere_falls_back_to_letters(tokenizer):
    text = "What is the Capital of France, 1789?"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_conversation_has_one_bos_and_its_mask_covers_the_answer_and_its_end(tokenizer):
    turns = [
        {"role": "user", "content": "how do i blick the arbol?"},
        {"role": "assistant", "content": "take it."},
    ]
    marked = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    ids = marked["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    covered = [i for i, on in zip(ids, marked["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(covered) == f"take it. {tokenizer.eos_token}"
    assert covered[-1] == tokenizer.eos_token_id


def test_the_library_masks_the_same_tokens_as_the_generation_marks(tokenizer):
    row = {"prompt": "how do i blick the arbol?", "completion": "take it."}
    turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    marked = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    example = encode_rows([row], tokenizer)[0]
    assert list(example.input_ids) == marked["input_ids"]
    assert [int(m) for m in example.loss_mask] == marked["assistant_masks"]
    assert list(example.prompt_ids) == encode_prompt(row["prompt"], tokenizer)
