"""The shapes people have are read as they are; one line says which; two at once are never decided in silence."""

import json

import pytest

from holdfast.core.errors import UserError
from holdfast.data import encode_rows, normalise_row, prompt_and_answer, read_examples, recognise

USER, ANSWER = {"role": "user", "content": "name a colour"}, {"role": "assistant", "content": "two"}
SYSTEM = {"role": "system", "content": "be brief"}
TWO_TURNS = [USER, ANSWER]
PAIR = {"prompt": [USER], "completion": [ANSWER]}

# row, what it becomes, a piece of the line that says so
READ = [
    ({"prompt": "name a colour", "completion": "two"}, None, "prompt/completion rows"),
    ({"messages": TWO_TURNS}, None, "chat messages: messages"),
    ({"text": "two and three"}, None, "text rows"),
    (
        {"instruction": "name a colour", "input": "", "output": "two"},
        PAIR,
        "Alpaca rows: instruction + input -> user",
    ),
    ({"instruction": "name a colour", "output": "two"}, PAIR, "Alpaca rows: instruction -> user turn, output"),
    (
        {
            "instruction": "name",
            "input": "a colour",
            "output": "two",
            "system": "be brief",
            "history": [["q", "a"]],
        },
        {
            "prompt": [
                SYSTEM,
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "name\na colour"},
            ],
            "completion": [ANSWER],
        },
        "system -> system turn, history -> earlier turns",
    ),
    (
        {"instruction": "name", "context": "a colour", "response": "two", "category": "qa"},
        {"prompt": [{"role": "user", "content": "name\na colour"}], "completion": [ANSWER]},
        "instruction/response rows: instruction + context",
    ),
    ({"question": "name a colour", "answer": "two"}, PAIR, "question/answer rows: question -> user turn"),
    ({"query": "name a colour", "response": "two"}, PAIR, "query/response rows"),
    ({"prompt": "name a colour", "response": "two"}, PAIR, "prompt/response rows"),
    ({"input": "name a colour", "output": "two"}, PAIR, "input/output rows"),
    ({"problem": "name a colour", "solution": "two"}, PAIR, "problem/solution rows"),
    (
        {"system_prompt": "be brief", "question": "name a colour", "response": "two"},
        {"prompt": [SYSTEM, USER], "completion": [ANSWER]},
        "system_prompt -> system turn",
    ),
    (
        {"conversations": [{"from": "human", "value": "name a colour"}, {"from": "gpt", "value": "two"}]},
        {"messages": TWO_TURNS},
        "ShareGPT rows: conversations",
    ),
    (
        {
            "system": "be brief",
            "conversations": [{"from": "user", "value": "name a colour"}, {"from": "assistant", "value": "two"}],
        },
        {"messages": [SYSTEM, *TWO_TURNS]},
        "system -> system turn",
    ),
    ({"conversations": TWO_TURNS}, {"messages": TWO_TURNS}, "chat messages: conversations"),
    ({"messages": json.dumps(TWO_TURNS)}, {"messages": TWO_TURNS}, "chat messages"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "name a colour"}]}, ANSWER]},
        {"messages": TWO_TURNS},
        "chat messages",
    ),
    (
        {"prompt": "name a colour", "chosen": "two", "rejected": "x"},
        {"prompt": "name a colour", "completion": "two"},
        "",
    ),
    (
        {"prompt": "name a colour", "chosen": TWO_TURNS, "rejected": [USER, {**ANSWER, "content": "x"}]},
        PAIR,
        "preference pairs: prompt -> prompt, chosen -> completion (the rejected side is not used)",
    ),
    ({"chosen": TWO_TURNS, "rejected": [USER, {**ANSWER, "content": "x"}]}, PAIR, "the turns both sides share"),
    ({"prompt": [USER], "chosen": [ANSWER], "rejected": [SYSTEM]}, PAIR, "preference pairs"),
    ({"prompt": [USER], "chosen": TWO_TURNS, "rejected": [SYSTEM]}, PAIR, "preference pairs"),
    ({"chosen": "\n\nHuman: name a colour\n\nAssistant: two", "rejected": "\n\nHuman: name"}, PAIR, "preference"),
    ({"chosen": TWO_TURNS}, PAIR, "preference pairs"),
    (
        {
            "conversations": [{"from": "human", "value": "name a colour"}],
            "chosen": {"from": "gpt", "value": "two"},
            "rejected": {"from": "gpt", "value": "x"},
        },
        PAIR,
        "preference pairs: conversations -> prompt",
    ),
    ({"prompt": "name a colour", "completion": "two", "label": False, "id": 1}, PAIR, "marked false are learned"),
]


@pytest.mark.parametrize(("row", "wanted", "line"), READ)
def test_shapes_are_read_as_they_are_and_said(row, wanted, line, tiny_tokenizer):
    if "label" not in row:
        assert normalise_row(row) == (wanted or row)
    recognition = recognise([row])
    assert line in recognition.line
    examples = encode_rows([row], tiny_tokenizer)
    assert examples.recognised == recognition.line
    if wanted is not None:
        assert examples[0].input_ids == encode_rows([wanted], tiny_tokenizer)[0].input_ids


@pytest.mark.parametrize(
    ("row", "won", "lost"),
    [
        ({"instruction": "a", "input": "", "output": "b", "text": "all of it"}, "Alpaca rows", "text rows"),
        ({"messages": TWO_TURNS, "prompt": "a", "completion": "b"}, "chat messages", "prompt/completion rows"),
        (
            {"messages": TWO_TURNS, "prompt": "a", "chosen": "b", "rejected": "c"},
            "chat messages",
            "preference pairs",
        ),
        (
            {"prompt": "a", "completion": "b", "question": "c", "answer": "d"},
            "prompt/completion rows",
            "question/answer",
        ),
        ({"conversations": TWO_TURNS, "question": "c", "answer": "d"}, "chat messages", "question/answer"),
    ],
)
def test_two_shapes_at_once_are_decided_aloud(row, won, lost, tiny_tokenizer):
    examples = encode_rows([row, row], tiny_tokenizer)
    assert examples.recognised.startswith(won)
    (note,) = examples.notes[:1]
    assert note.startswith(f"2 rows could also be read as {lost}")
    assert f"they were read as {won}" in note


def test_rows_of_several_shapes_are_each_read_as_they_are(tiny_tokenizer):
    rows = [{"question": "a", "answer": "b"}, {"text": "c"}, {"question": "d", "answer": "e"}]
    examples = encode_rows(rows, tiny_tokenizer)
    assert len(examples) == 3
    assert examples.recognised.startswith("2 x question/answer rows")
    assert "; 1 x text rows" in examples.recognised


def test_named_columns_win_and_missing_ones_are_named(tmp_path, tiny_tokenizer):
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion,ask,say\nwrong,wrong,name a colour,two\n")
    examples = read_examples(path, tiny_tokenizer, prompt_column="ask", completion_column="say")
    assert examples[0].input_ids == encode_rows([PAIR], tiny_tokenizer)[0].input_ids
    assert examples.recognised == "columns you named: ask -> prompt, say -> completion"
    with pytest.raises(
        UserError, match=r"a\.csv: no column 'asks'; columns are \['ask', 'completion', 'prompt', 'say'\]"
    ):
        read_examples(path, tiny_tokenizer, prompt_column="asks", completion_column="say")
    with pytest.raises(UserError, match="completion column 'say' is named alone"):
        read_examples(path, tiny_tokenizer, completion_column="say")
    turns = [{"ask": [*TWO_TURNS, USER], "say": "two"}]
    assert normalise_row(turns[0], "ask", "say") == {"prompt": turns[0]["ask"], "completion": [ANSWER]}


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER],
            "'image_url'; only text",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}, ANSWER], "holds no text"),
        ([{"role": "user", "content": 3}, ANSWER], "content is int, not text"),
        ([{"role": "user", "content": None}, ANSWER], "turn 0: needs a 'role' and a text 'content'"),
        ([USER, {"role": "assistant", "content": None}], "turn 1: needs a 'role' and a text 'content'"),
        ([{"role": "narrator", "content": "x"}, ANSWER], "unknown role 'narrator'"),
        (
            [USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}],
            "without a function name",
        ),
        ([USER, {"role": "assistant", "tool_calls": "call it"}], "'tool_calls' is not a list"),
        ("not json", "is not a list of turns"),
        ([3], "turn 0: needs a 'role'"),
    ],
)
def test_turns_that_cannot_be_read_are_explained(turns, problem, tiny_tokenizer):
    for field in ("messages", "conversations"):
        with pytest.raises(UserError, match=f"row 0: field '{field}'.*{problem}"):
            encode_rows([{field: turns}], tiny_tokenizer)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"instruction": "", "input": " ", "output": "b"}, "field 'instruction' is empty"),
        ({"instruction": "a", "output": ""}, "field 'output' is empty"),
        ({"question": "a", "answer": 3}, "field 'answer' is int, not text"),
        ({"instruction": "a", "input": ["x"], "output": "b"}, "field 'input' is list, not text"),
        ({"instruction": "a", "output": "b", "history": ["q"]}, "not a list of .question, answer. pairs"),
        ({"chosen": "plain", "rejected": "text"}, "without a prompt: add a 'prompt' column"),
        ({"chosen": [ANSWER], "rejected": [{**ANSWER, "content": "x"}]}, "no prompt"),
        ({"prompt": 3, "chosen": "x", "rejected": "y"}, "field 'prompt' is int"),
        ({"prompt": "a", "completion": None}, "field 'completion' is missing"),
        ({"messages": TWO_TURNS, "tools": "nonsense"}, "field 'tools' is not a list"),
        ({"messages": TWO_TURNS, "chat_template_kwargs": [1]}, "'chat_template_kwargs' is not an object"),
    ],
)
def test_rows_that_cannot_be_read_are_explained(row, problem, tiny_tokenizer):
    with pytest.raises(UserError, match=problem):
        encode_rows([row], tiny_tokenizer)
    examples = read_examples([row, {"text": "fine"}], tiny_tokenizer, skip_bad_rows=True)
    assert len(examples) == 1
    assert len(examples.bad_rows) == 1


def test_calls_in_every_spelling_become_one(tiny_tokenizer):
    call = {"type": "function", "function": {"name": "paint", "arguments": {"n": 1}}}
    spellings = [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**call, "function": {**call["function"], "arguments": '{"n": 1}'}}],
        },
        {"role": "assistant", "content": "", "tool_calls": json.dumps([call])},
        {"role": "assistant", "tool_calls": [{"name": "paint", "arguments": {"n": 1, "x": None}}]},
        {"role": "assistant", "content": None, "function_call": {"name": "paint", "arguments": '{"n": 1}'}},
        {"from": "function_call", "value": '{"name": "paint", "arguments": {"n": 1}}'},
    ]
    rows = [normalise_row({"messages": [USER, spelling]}) for spelling in spellings]
    assert all(row == {"messages": [USER, {"role": "assistant", "tool_calls": [call]}]} for row in rows)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": "a", "completion": "b"}, ("a", "b")),
        ({"question": "a", "answer": "b"}, ("a", "b")),
        ({"messages": [USER, ANSWER]}, ("name a colour", "two")),
        ({"messages": [SYSTEM, USER, ANSWER]}, ([SYSTEM, USER], "two")),
        ({"messages": [USER, ANSWER, USER]}, None),
        ({"text": "a"}, None),
    ],
)
def test_question_and_answer_of_a_row(row, wanted):
    assert prompt_and_answer(normalise_row(row)) == wanted
