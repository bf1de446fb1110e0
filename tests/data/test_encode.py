"""One tokenise-and-mask path: assistant turns only, exactly one BOS, checked against the template's own marks."""

import pytest

from holdfast.core.errors import UserError
from holdfast.data import encode_prompt, encode_rows, read_examples
from tests.conftest import CHAT_TEMPLATE, build_tokenizer

TURNS = [
    {"role": "user", "content": "name a colour"},
    {"role": "assistant", "content": "sure , two"},
    {"role": "user", "content": "and three"},
    {"role": "assistant", "content": "the sum is five ."},
]


def scored_text(example, tokenizer):
    return tokenizer.decode([i for i, k in zip(example.input_ids, example.loss_mask, strict=True) if k])


def test_mask_equals_the_templates_own_generation_marks(tiny_tokenizer):
    (example,) = encode_rows([{"messages": TURNS}], tiny_tokenizer)
    reference = tiny_tokenizer.apply_chat_template(
        TURNS, return_dict=True, return_assistant_tokens_mask=True, add_generation_prompt=False
    )
    assert list(example.input_ids) == list(reference["input_ids"])
    assert [int(k) for k in example.loss_mask] == list(reference["assistant_masks"])
    assert scored_text(example, tiny_tokenizer) == "sure , two<|im_end|>the sum is five .<|im_end|>"


def test_a_pair_is_the_conversation_of_two_turns(tiny_tokenizer):
    (pair,) = encode_rows([{"prompt": "name a colour", "completion": "sure , two"}], tiny_tokenizer)
    (turns,) = encode_rows([{"messages": TURNS[:2]}], tiny_tokenizer)
    assert pair.input_ids[: len(turns.input_ids)] == turns.input_ids
    assert pair.loss_mask == turns.loss_mask
    assert list(pair.prompt_ids) == encode_prompt("name a colour", tiny_tokenizer)


def test_conversational_pairs_score_only_the_completion(tiny_tokenizer):
    (example,) = encode_rows([{"prompt": TURNS[:3], "completion": TURNS[3:]}], tiny_tokenizer)
    assert scored_text(example, tiny_tokenizer) == "the sum is five .<|im_end|>"


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, CHAT_TEMPLATE.replace("{{ bos_token }}", ""), None])
@pytest.mark.parametrize(
    "row", [{"prompt": "and", "completion": "two"}, {"messages": TURNS}, {"text": "name a colour"}]
)
def test_exactly_one_bos_whatever_the_template_writes(template, row):
    tokenizer = build_tokenizer(template=template)
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.bos_token_id)]
    )
    (example,) = encode_rows([row], tokenizer)
    assert example.input_ids.count(tokenizer.bos_token_id) == 1
    assert example.input_ids[0] == tokenizer.bos_token_id
    assert not example.loss_mask[0]


def test_without_a_template_turns_are_lines_and_answers_end_with_eos():
    tokenizer = build_tokenizer(template=None)
    (example,) = encode_rows([{"messages": TURNS}], tokenizer)
    assert scored_text(example, tokenizer) == "sure , two<|im_end|>the sum is five .<|im_end|>"
    assert tokenizer.decode(example.input_ids).startswith("user: name a colour\nassistant: sure")


def test_text_scores_everything_after_the_first_token(tiny_tokenizer):
    (example,) = encode_rows([{"text": "name a colour"}], tiny_tokenizer)
    assert example.completion_tokens == len(example.input_ids) - 1
    assert scored_text(example, tiny_tokenizer) == "name a colour<|im_end|>"


def test_rows_without_a_completion_name_file_line_and_field(tmp_path, tiny_tokenizer):
    path = tmp_path / "train.jsonl"
    good = '{"prompt": "a", "completion": "b"}\n\n{"prompt": "a"}\n{"prompt": "a", "completion": 3}\n'
    path.write_text(good)
    with pytest.raises(UserError, match=r"train\.jsonl line 3: no 'completion' or 'messages' field"):
        read_examples(path, tiny_tokenizer)
    path.write_text(good + "{bad\n")
    with pytest.raises(UserError, match=r"train\.jsonl line 5: not JSON"):
        read_examples(path, tiny_tokenizer)
    examples = read_examples(path, tiny_tokenizer, skip_bad_rows=True)
    assert len(examples) == 1
    assert [(bad.where, bad.reason.split(" (")[0]) for bad in examples.bad_rows] == [
        ("train.jsonl line 5", "not JSON"),
        ("train.jsonl line 3", "no 'completion' or 'messages' field"),
        ("train.jsonl line 4", "field 'completion' is int, not text"),
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"completion": "x"}, "field 'prompt' is missing"),
        ({"prompt": "a", "completion": "  "}, "field 'completion' is empty"),
        ({"messages": []}, "not a list of turns"),
        ({"messages": TURNS[:1]}, "no assistant turn"),
        ({"messages": [{"role": "user"}]}, "turn 0: needs a 'role'"),
        ({"question": "a"}, r"fields are \['question'\]"),
    ],
)
def test_every_kind_of_bad_row_is_explained(row, problem, tiny_tokenizer):
    with pytest.raises(UserError, match=problem):
        encode_rows([row], tiny_tokenizer)


def test_truncation_is_counted_and_an_empty_rest_is_a_bad_row(tiny_tokenizer):
    row = {"prompt": "name a colour", "completion": "two " * 40, "id": "long"}
    examples = read_examples([row], tiny_tokenizer, max_length=40)
    assert examples.truncated == ("long",)
    assert len(examples[0].input_ids) == 40
    with pytest.raises(UserError, match="no completion token within max_length=5"):
        read_examples([row], tiny_tokenizer, max_length=5)


def test_a_template_that_rewrites_history_is_refused_not_mismasked():
    template = (
        "{{ bos_token }}{{ messages | length }}:{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(UserError, match="rewrites earlier turns"):
        encode_rows([{"messages": TURNS}], build_tokenizer(template=template))
