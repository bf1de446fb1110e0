"""Every chat template that TRL ships: the assistant's words and nothing else are learned, or one line says why."""

import datetime
import re
from pathlib import Path

import pytest

from holdfast.core.errors import UserError
from holdfast.data import BadRowError, depends_on_date, encode_prompt, encode_rows, pin_template
from tests.conftest import CHAT_TEMPLATE, build_tokenizer

SPECIAL = re.compile(
    r"<\|[A-Za-z_0-9]+\|>|<\uff5c[^\uff5c]+\uff5c>|</?[a-z]+_of_[a-z]+>|</?think>|</?s>|\[/?INST\]|<\|?/?[a-z_]+\|?>"
)
FAMILIES = Path(__import__("trl").__file__).parent / "chat_templates"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FAMILIES.glob("*.jinja"))}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "tells it",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "c"}}},
        },
    }
]


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def call(arguments):
    function = {"name": "get_weather", "arguments": arguments}
    return turn("assistant", None, tool_calls=[{"type": "function", "id": "abcdefghi", "function": function}])


ASKED, SAID = turn("user", "what colour is it"), turn("assistant", "it is blue")
ROWS = {
    "one": {"messages": [ASKED, SAID]},
    "two": {"messages": [ASKED, SAID, turn("user", "and so on"), turn("assistant", "so it was")]},
    "system": {"messages": [turn("system", "be kind"), ASKED, SAID]},
    "tools": {
        "messages": [
            turn("user", "what weather"),
            call('{"city": "Paris"}'),
            turn("tool", "rain", tool_call_id="abcdefghi", name="get_weather"),
            turn("assistant", "it is wet"),
        ],
        "tools": TOOLS,
    },
}
# What a template cannot say; everything else must be encoded.
REFUSED = {
    "system": {"gemma"},
    "tools": {
        *(
            "cohere",
            "cohere2",
            "deepseek_r1_distill",
            "gemma",
            "gemma3",
            "idefics3",
            "lfm2",
            "llama3",
            "llava_next",
        ),
        *("phi3", "phi3_5", "qwen2_5_vl", "smolvlm"),
    },
}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = sorted({mark for text in TEMPLATES.values() for mark in SPECIAL.findall(text)})
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<PAD>", "<BOS>", "<EOS>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["what colour is it", "it is blue"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<PAD>", bos_token="<BOS>", eos_token="<EOS>")


PARTS_ONLY = ("idefics3", "llava_next", "smolvlm")
CALLED = {
    "tool_calls": [
        {
            "type": "function",
            "id": "abcdefghi",
            "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
        }
    ]
}


def rendered(tokenizer, turns, generation, tools=None):
    """transformers' own rendering, content as text or, for templates that read nothing else, as parts."""

    def apply(turns):
        return tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=generation)

    parts = [{**turn, "content": [{"type": "text", "text": turn["content"] or ""}]} for turn in turns]
    try:
        text = apply(turns)
    except Exception:
        return apply(parts)
    return text if turns[0]["content"] in text else apply(parts)


@pytest.mark.parametrize("shape", list(ROWS))
@pytest.mark.parametrize("name", list(TEMPLATES))
def test_every_template_that_trl_ships(name, shape, tokenizer):
    tokenizer.chat_template = TEMPLATES[name]
    row = ROWS[shape]
    if name.removesuffix("_training") in REFUSED.get(shape, ()):
        with pytest.raises(UserError, match=r"row 0: .*(template)"):
            encode_rows([row], tokenizer, 8000)
        return
    examples = encode_rows([row], tokenizer, 8000)
    answers = [turn["content"] or "get_weather" for turn in row["messages"] if turn["role"] == "assistant"]
    learned = [piece for example in examples for piece in pieces(example, tokenizer)]
    assert len(learned) == len(answers)
    given = [
        {**said, "content": said["content"] or "", **CALLED} if "tool_calls" in said else said
        for said in row["messages"]
    ]
    ended = any("end as in TRL's training template" in note for note in examples.notes)
    for (before, answer, after), words in zip(learned, answers, strict=True):
        assert words in answer
        assert not any(said["content"] in answer for said in row["messages"] if said["role"] in ("user", "system"))
        assert not after.strip() or len(examples) == 1
        if words == "get_weather" or (shape == "tools" and "deepseek" in name):
            continue  # deepseek's own template cannot take the arguments that the reference hands over
        number = next(k for k, said in enumerate(given) if said["content"] == words)
        through = rendered(tokenizer, given[: number + 1], False, row.get("tools"))
        prompt = rendered(tokenizer, given[:number], True, row.get("tools"))
        place = through.rindex(words)
        if len(examples) > 1 or len(answers) == 1:
            whole = before + answer
            assert whole == through.rstrip() or (ended and whole.startswith(through.rstrip()))
            assert (before + answer)[:place].endswith(answer[: answer.index(words)])
            # the context is what the template renders for generation, or as much of it as the answer agrees with
            opened = any("generation prompt" in note for note in examples.notes)
            assert before == prompt or (opened and prompt.startswith(before))


@pytest.mark.parametrize("name", [name for name in TEMPLATES if f"{name}_training" in TEMPLATES])
def test_what_is_learned_is_what_trls_own_training_template_marks(name, tokenizer):
    tokenizer.chat_template = TEMPLATES[name]
    (example,) = encode_rows([ROWS["one"]], tokenizer, 8000)
    ((_, learned, _),) = pieces(example, tokenizer)
    turns = ROWS["one"]["messages"]
    if name in PARTS_ONLY:
        turns = [{**said, "content": [{"type": "text", "text": said["content"]}]} for said in turns]
    marked = tokenizer.apply_chat_template(
        turns,
        chat_template=TEMPLATES[f"{name}_training"],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    theirs = [i for i, k in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if k]
    # Some of them mark the opening of the turn as well, which the generation prompt writes here.
    assert tokenizer.decode(theirs).strip().endswith(learned.strip())


def pieces(example, tokenizer):
    """(text before, learned text, text after) for every stretch that is learned."""
    mask, out, start = list(example.loss_mask), [], None
    for k, learns in enumerate([*mask, False]):
        if learns and start is None:
            start = k
        elif not learns and start is not None:
            texts = [
                tokenizer.decode(example.input_ids[slice(*ends)]) for ends in ((0, start), (start, k), (k, None))
            ]
            out.append(tuple(texts))
            start = None
    return out


def test_reasoning_is_learned_where_the_template_would_drop_it_and_trl_has_a_remedy(tokenizer):
    tokenizer.chat_template = TEMPLATES["deepseek_r1_distill"]
    row = {"messages": [ASKED, turn("assistant", "<think>\nlook up\n</think>\n\nit is blue")]}
    examples = encode_rows([row], tokenizer)
    ((before, learned, _),) = pieces(examples[0], tokenizer)
    assert learned == "look up\n</think>\n\nit is blue<\uff5cend▁of▁sentence\uff5c>"
    assert before == rendered(tokenizer, [ASKED], True)
    assert any("training template" in note for note in examples.notes)
    tokenizer.chat_template = TEMPLATES["deepseekv3"]  # drops it, and TRL's training template does too
    assert any("does not write" in note for note in encode_rows([row], tokenizer).notes)


def test_turns_of_one_row_share_it_and_are_named(tokenizer):
    tokenizer.chat_template = TEMPLATES["qwen3"]
    examples = encode_rows([{**ROWS["two"], "id": "talk"}, {**ROWS["one"], "id": "short"}], tokenizer)
    assert [example.id for example in examples] == ["talk/turn 1", "talk/turn 2", "short"]
    assert [example.row for example in examples] == [0, 0, 1]
    assert examples[0].row_hash == examples[1].row_hash
    assert any(note.startswith("1 rows trained turn by turn") for note in examples.notes)


def test_turns_of_weight_zero_and_greetings_are_read_not_learned(tiny_tokenizer):
    turns = [
        turn("assistant", "sure"),
        ASKED,
        turn("assistant", "two", weight=0),
        ASKED,
        turn("assistant", "three"),
    ]
    examples = encode_rows([{"messages": turns}], tiny_tokenizer)
    assert [learned for _, learned, _ in pieces(examples[0], tiny_tokenizer)] == ["three<|im_end|>"]
    assert any("begin with an assistant turn" in note for note in examples.notes)
    with pytest.raises(UserError, match="no assistant turn to learn from after the first"):
        encode_rows([{"messages": turns[:2]}], tiny_tokenizer)


def test_nulls_that_tables_fill_in_are_not_learned(tmp_path, tokenizer):
    import pyarrow
    from pyarrow import parquet

    from holdfast.data import read_examples

    tokenizer.chat_template = TEMPLATES["qwen2_5"]
    rows = [
        {
            "messages": [
                ASKED,
                {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": given}}]},
            ]
        }
        for name, given in (("get_weather", {"city": "Paris"}), ("get_time", {"zone": "CET", "deep": [{"a": 1}]}))
    ]
    table = pyarrow.Table.from_pylist(
        [{**row, "tools": TOOLS, "chat_template_kwargs": {"x": None}} for row in rows]
    )
    parquet.write_table(table, tmp_path / "calls.parquet")
    from_table = read_examples(tmp_path / "calls.parquet", tokenizer)
    from_list = read_examples([{**row, "tools": TOOLS} for row in rows], tokenizer)
    assert [example.input_ids for example in from_table] == [example.input_ids for example in from_list]
    text = "".join(tokenizer.decode(example.input_ids) for example in from_table)
    assert "null" not in text
    assert "None" not in text


def test_a_template_that_raises_is_the_users_error_also_for_a_prompt():
    tokenizer = build_tokenizer(template="{{ raise_exception('roles must alternate') }}")
    for attempt in (lambda: encode_prompt("hello", tokenizer), lambda: encode_rows([ROWS["one"]], tokenizer)):
        with pytest.raises(UserError, match=r"refuses the conversation \(roles must alternate\)"):
            attempt()
    tokenizer = build_tokenizer(template="{{ messages[7].content }}{{ 1 / 0 }}")
    with pytest.raises(UserError, match="the chat template refuses"):
        encode_prompt("hello", tokenizer)
    with pytest.raises(UserError, match="not a template's to set"):
        encode_rows([{**ROWS["one"], "chat_template_kwargs": {"tokenize": True}}], build_tokenizer())


DATED = ["llama3_2", "gptoss", "muse_glimmer"]


@pytest.mark.parametrize("name", DATED)
def test_a_pinned_template_writes_the_same_on_every_day(name, tokenizer, monkeypatch):
    import transformers.utils.chat_template_utils as rendering

    tokenizer.chat_template = TEMPLATES[name]
    pinned = pin_template(tokenizer, "2025-03-09")
    assert (depends_on_date(tokenizer), depends_on_date(pinned)) == (True, False)
    assert tokenizer.chat_template == TEMPLATES[name]
    own = encode_prompt("hello", tokenizer)

    class Then(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 3, 9, tzinfo=tz)

    fixed = encode_prompt("hello", pinned)
    monkeypatch.setattr(rendering, "datetime", Then)
    assert encode_prompt("hello", tokenizer) == fixed != own
    assert encode_prompt("hello", pinned) == fixed


def test_a_pin_travels_with_a_saved_tokenizer_and_covers_every_directive(tmp_path):
    from transformers import AutoTokenizer

    directives = "%Y %m %d %y %B %b %A %a %H:%M %j %-d"
    template = "{% set f = '" + directives + "' %}{{ strftime_now(f) }}" + CHAT_TEMPLATE
    pinned = pin_template(build_tokenizer(template=template), datetime.date(2025, 3, 9))
    expected = datetime.datetime(2025, 3, 9).strftime(directives)
    pinned.save_pretrained(tmp_path)
    for tokenizer in (pinned, AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer.apply_chat_template([ASKED], tokenize=False).startswith(expected + "<|bos|>")


def test_variables_of_a_template_can_be_pinned_and_a_rows_own_go_first(tokenizer):
    tokenizer.chat_template = TEMPLATES["qwen3"]
    pinned = pin_template(tokenizer, None, {"enable_thinking": False})
    closed = "<think>\n\n</think>\n\n"
    assert tokenizer.decode(encode_prompt("hello", pinned)).endswith(closed)
    assert not tokenizer.decode(encode_prompt("hello", tokenizer)).endswith(closed)
    own = encode_prompt("hello", pinned, chat_template_kwargs={"enable_thinking": True})
    assert own == encode_prompt("hello", tokenizer)
    with pytest.raises(UserError, match="does not read 'enable_thinkin'"):
        pin_template(tokenizer, None, {"enable_thinkin": False})
    with pytest.raises(UserError, match="not a date"):
        pin_template(tokenizer, "tomorrow")
    with pytest.raises(UserError, match="no chat template"):
        pin_template(build_tokenizer(template=None), None, {"enable_thinking": False})


@pytest.mark.parametrize("value", ["a 'b' \"c\" é 😀\n", 3, 0.5, True, None, ["x", {"y": [1, None]}]])
def test_any_plain_value_can_be_pinned(value):
    import json

    template = "{{ extra is defined }}|{{ extra | tojson }}" + CHAT_TEMPLATE
    pinned = pin_template(build_tokenizer(template=template), None, {"extra": value})
    text = pinned.apply_chat_template([ASKED], tokenize=False)
    assert json.loads(text.partition("|")[2].partition("<|bos|>")[0]) == value


def test_bad_rows_are_user_errors():
    assert issubclass(BadRowError, UserError)


def test_a_date_that_is_given_is_no_date_of_today_and_a_pin_can_be_moved(tokenizer):
    tokenizer.chat_template = TEMPLATES["llama3_2"]
    given = pin_template(tokenizer, None, {"date_string": "1 May 2025"})
    assert not depends_on_date(given)
    assert "1 May 2025" in rendered(given, [ASKED], True)
    moved = pin_template(pin_template(tokenizer, "2025-03-09"), "2025-03-10")
    assert "10 Mar 2025" in rendered(moved, [ASKED], True)
    assert not depends_on_date(pin_template(moved, None, {"tools_in_user_message": False}))
    assert not depends_on_date(build_tokenizer())
    assert not depends_on_date(build_tokenizer(template=None))
