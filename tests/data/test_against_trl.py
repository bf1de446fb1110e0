"""Token ids and the place where the completion begins are those of TRL's trainer, for every kind of tokenizer."""

from types import SimpleNamespace

import pytest

from holdfast.data import encode_prompt, encode_rows, read_examples
from tests.conftest import CHAT_TEMPLATE, CORPUS, SPECIAL, build_tokenizer

USER, ANSWER = {"role": "user", "content": "name a colour"}, {"role": "assistant", "content": "sure , two"}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "paint", "description": "paints", "parameters": {"type": "object", "properties": {}}},
    }
]
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
TOOLED = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% if shout %}{{ 'LOUD ' }}{% endif %}" + CHAT_TEMPLATE.partition("}}")[2]
)


def metaspace(template, scheme):
    """What SentencePiece models become: words carry the blank before them, the first word gets one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<|unk|>", byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    core.decoder = decoders.Metaspace(prepend_scheme=scheme)
    words = [*CORPUS, "user: assistant: system: [INST] [/INST]\n", "".join(map(chr, range(33, 127)))]
    core.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=400, special_tokens=["<|unk|>", *SPECIAL], show_progress=False)
    )
    core.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", core.token_to_id("<|bos|>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def of_kind(kind, template):
    return build_tokenizer(template=template) if kind == "bytes" else metaspace(template, kind)


def trl_rows(rows, tokenizer, tmp_path, max_length=1024):
    """What SFTTrainer makes of rows: ids and labels, from its own preparation."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to=[],
        max_length=max_length,
        dataset_num_proc=None,
    )
    trainer = SimpleNamespace(
        _tokenizer=tokenizer, completion_only_loss=True, chat_template=tokenizer.chat_template
    )
    dataset = Dataset.from_list(rows)
    return list(SFTTrainer._prepare_dataset(trainer, dataset, tokenizer, config, False, None, "train"))


def same(example, reference):
    scored = [label != -100 for label in reference["labels"]]
    assert list(example.input_ids) == reference["input_ids"]
    assert len(example.prompt_ids) == scored.index(True)
    # TRL also labels what a template writes after the end-of-turn token, and the first token of all.
    assert scored[1 : len(scored) - 2] == list(example.loss_mask)[1 : len(scored) - 2]


KINDS = ["bytes", "first", "always", "never"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("prompt", "completion"), [("name a colour", " two"), ("add two\n", "five"), ("", "three")]
)
def test_plain_pairs(kind, prompt, completion, tmp_path):
    tokenizer = of_kind(kind, None)
    row = {"prompt": prompt, "completion": completion}
    (example,) = encode_rows([row], tokenizer)
    same(example, trl_rows([row], tokenizer, tmp_path)[0])
    assert list(example.prompt_ids) == encode_prompt(prompt, tokenizer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MISTRAL])
def test_conversational_pairs(kind, template, tmp_path):
    tokenizer = of_kind(kind, template)
    row = {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}
    (example,) = encode_rows([row], tokenizer)
    same(example, trl_rows([row], tokenizer, tmp_path)[0])
    assert list(example.prompt_ids) == encode_prompt(row["prompt"], tokenizer)


@pytest.mark.parametrize("as_text", [False, True])
def test_tools_and_template_variables_reach_the_template(as_text, tmp_path):
    import json

    tokenizer = build_tokenizer(template=TOOLED)
    row = {"prompt": [USER], "completion": [ANSWER], "chat_template_kwargs": {"shout": True}}
    row["tools"] = json.dumps(TOOLS) if as_text else TOOLS
    (example,) = encode_rows([row], tokenizer)
    same(example, trl_rows([row], tokenizer, tmp_path)[0])
    text = tokenizer.decode(example.prompt_ids)
    assert '"paint"' in text
    assert "LOUD" in text
    assert list(example.prompt_ids) == encode_prompt([USER], tokenizer, TOOLS, {"shout": True})


def test_a_tokenizer_without_template_puts_no_blank_at_the_borders_of_turns():
    tokenizer = metaspace(None, "first")
    (example,) = encode_rows([{"messages": [USER, ANSWER, USER, ANSWER]}], tokenizer)
    text = tokenizer.decode(example.input_ids)
    assert "  " not in text
    assert "assistant: sure , two<|eos|>\nuser: name" in text
    assert list(example.prompt_ids) == encode_prompt([USER], tokenizer)


@pytest.mark.parametrize("length", [5, 30, 40])
def test_rows_whose_prompt_is_too_long_are_dropped_and_counted_as_trl_drops_them(length, tmp_path, tiny_tokenizer):
    rows = [
        {
            "prompt": [{**USER, "content": "name " * n}],
            "completion": [{**ANSWER, "content": "two " * m}],
            "id": name,
        }
        for name, n, m in (("short", 1, 1), ("long answer", 1, 60), ("long prompt", 60, 1))
    ]
    reference = trl_rows(rows, tiny_tokenizer, tmp_path, length)
    if not reference:
        with pytest.raises(Exception, match=f"no completion token within max_length={length}"):
            read_examples(rows, tiny_tokenizer, max_length=length)
        return
    examples = read_examples(rows, tiny_tokenizer, max_length=length)
    assert [list(example.input_ids) for example in examples] == [row["input_ids"] for row in reference]
    assert examples.dropped == ("long prompt",)
    assert "long answer" in examples.truncated
    kept = read_examples(rows, tiny_tokenizer, max_length=length, truncation_mode="keep_end")
    assert len(kept) == 3
    assert kept.dropped == ()
