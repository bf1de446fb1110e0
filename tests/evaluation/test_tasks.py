"""Held-out answers of every type are scored, or refused by row before anything is generated."""

import importlib

import pytest

from holdfast.core.errors import UserError
from holdfast.core.statistics import bootstrap_ratio
from holdfast.data import encode_rows
from holdfast.evaluation import Task, evaluate
from holdfast.evaluation.judges.reasoning import CUT_OFF
from holdfast.evaluation.suites.task_skill import read_task
from holdfast.evaluation.tasks import check_metric, prompt_text
from holdfast.models import mean_loss

CHAT = [
    {"role": "user", "content": "add two"},
    {"role": "assistant", "content": "to what ?"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "five ."},
]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("five", "five"),
        (5, "5"),
        (5.0, "5"),
        (-2.5, "-2.5"),
        (0, "0"),
        ([{"role": "assistant", "content": "five"}], "five"),
        (
            [{"role": "assistant", "content": [{"type": "text", "text": "fi"}, {"type": "text", "text": "ve"}]}],
            "five",
        ),
    ],
)
def test_an_answer_that_can_be_written_is_scored_as_its_text(value, text):
    assert Task("t", ("a",), (value,)).answers == (text,)
    assert Task.from_rows("t", [{"prompt": "a", "completion": value}]).score(text, text) == 1.0
    assert read_task([{"prompt": "a", "answer": value}], "t").answers == (text,)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "missing"),
        (True, "a boolean .true"),
        (False, "a boolean .false"),
        (["red", "green"], "a list of 2"),
        ([], "a list of 0"),
        ("  ", "empty"),
        ({"text": ["x"]}, "a dict"),
        (float("nan"), "a float .nan"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "missing"),
        ([{"role": "user", "content": "x"}], "a list of 1"),
    ],
)
def test_an_answer_that_nothing_can_be_compared_with_is_refused_by_row(value, kind):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": value}]
    for build in (lambda: Task("t", ("a", "c"), ("b", value)), lambda: Task.from_rows("t", rows)):
        with pytest.raises(UserError, match=rf"task 't' row 1: the answer is {kind}"):
            build()
    kind = "missing" if value != value else kind  # no file writes a number that is none
    with pytest.raises(UserError, match=rf"row 1: the answer is {kind}"):
        read_task(rows, "t")


def test_words_for_booleans_and_a_number_for_the_numeric_metric():
    assert read_task([{"question": "is it ?", "answer": True}], "t", labels=("no", "yes")).answers == ("yes",)
    with pytest.raises(UserError, match="'none at all' has no number"):
        Task("t", ("a",), ("none at all",), "numeric")
    with pytest.raises(UserError, match="row 0: the prompt is missing"):
        Task("t", (None,), ("b",))


def test_the_last_turn_of_a_conversation_is_the_answer_and_the_rest_is_asked(tiny_subject):
    for task in (Task.from_rows("t", [{"messages": CHAT}]), read_task([{"messages": CHAT}], "t")):
        assert (task.prompts, task.answers) == ((tuple(CHAT[:3]),), ("five .",))
    pair = Task.from_rows("t", [{"prompt": CHAT[:3], "completion": CHAT[3:]}], max_new_tokens=3)
    card = evaluate(tiny_subject, tasks=[pair], progress=False)
    assert card.rows[0].prompt == "user: add two\nassistant: to what ?\nuser: three"
    wanted = mean_loss(
        tiny_subject, encode_rows([{"prompt": CHAT[:3], "completion": "five ."}], tiny_subject.tokenizer)
    )
    assert card.task("t").loss_nats_per_token == pytest.approx(wanted.nats_per_token)
    for turns, problem in ((CHAT[:3], "do not end with an assistant"), (CHAT[3:], "nothing but the answer")):
        with pytest.raises(UserError, match=problem):
            Task.from_rows("t", [{"messages": turns}])
        with pytest.raises(UserError, match=problem):
            read_task([{"messages": turns}], "t")


def test_a_conversation_may_hold_a_tool_call_without_words():
    call = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
    turns = [{"role": "user", "content": "weather ?"}, {"role": "assistant", "tool_calls": call},
             {"role": "tool", "content": "snow"}]  # fmt: skip
    task = Task("t", (turns,), ("snow .",))
    assert list(task.prompts[0]) == turns and prompt_text(task.prompts[0]).splitlines()[1] == "assistant: "
    with pytest.raises(UserError, match="the answer is missing"):
        Task("t", ("a",), (turns[1:2],))
    with pytest.raises(UserError, match="--metric: metric 'bleu' unknown; use one of exact_match"):
        check_metric("bleu", "--metric")


def test_a_task_answer_is_what_stands_after_the_reasoning():
    task = Task("t", ("a",), ("5",), "numeric")
    assert task.score("2 and 3 is 6, no\n</think>\n\nIt is 5.", "5") == 1.0
    assert task.score("<think>it is 5, then 7", "5") == 0.0
    assert Task("t", ("a",), ("5",)).score("<think>x</think><answer>5</answer>", "5") == 1.0
    assert task.score("analysisThey add 4.assistantfinalIt is 5", "5") == 1.0


def test_the_card_says_how_many_answers_never_came_out_of_their_reasoning(tiny_subject, monkeypatch):
    said = ["<think>hm", "five", "<cogitate>x</cogitate> y"]
    monkeypatch.setattr(importlib.import_module("holdfast.evaluation.evaluate"), "ask", lambda *rest, **more: said)
    task = Task("t", ("a", "b", "c"), ("five",) * 3)
    card = evaluate(tiny_subject, tasks=[task], progress=False)
    assert [row.reason for row in card.rows[:2]] == [CUT_OFF, ""] and [row.response for row in card.rows] == said
    assert card.notes[0] == "1 of 3 answers ended inside their reasoning; raise --max-new-tokens"
    assert "1 of 3 answers hold reasoning in a format that is not known" in card.notes[1]
    assert all(note in str(card) for note in card.notes)


def test_no_metric_is_only_a_loss_and_a_metric_without_answers_is_said(tiny_subject, tiny_examples):
    only = evaluate(tiny_subject, tasks=[Task("t", ("a",), ("b",), "none", tiny_examples)], progress=False)
    assert only.rows == () and only.task("t").score.n == 0 and only.notes == ()
    loss = mean_loss(tiny_subject, list(tiny_examples))
    assert only.task("t").loss == bootstrap_ratio(loss.nll_N, loss.tokens_N)
    assert "loss " in str(only) and "nan" not in str(only)
    none = evaluate(tiny_subject, tasks=[Task("t", (), (), "rouge_l", tiny_examples)], progress=False)
    assert "no row has an answer to score by rouge_l" in none.notes[0]


def test_rows_of_other_shapes_are_asked_whole():
    alpaca = {"instruction": "add them", "input": "two and three", "output": 5}
    share = {"conversations": [{"from": "human", "value": "add two"}, {"from": "gpt", "value": "five"}]}
    for row, sides in ((alpaca, ("add them\ntwo and three", "5")), (share, ("add two", "five"))):
        for task in (Task.from_rows("t", [row]), read_task([row], "t")):
            assert (task.prompts[0], task.answers[0]) == sides
    assert read_task([{"sentence": "warm", "label": "good"}], "t").prompts == ("warm",)
