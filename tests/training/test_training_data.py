"""One masking function: what TRL trains on is exactly what an Example says."""

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.data import Batch, Example, encode_rows
from holdfast.data.batches import collate
from holdfast.training import dataset_from_examples
from holdfast.training.pool import as_batch, keep_rows
from holdfast.training.trace import JsonLines, read_lines

CHAT = [
    {"role": "user", "content": "please add two"},
    {"role": "assistant", "content": "sure , five"},
    {"role": "user", "content": "name a colour"},
    {"role": "assistant", "content": "sorry , i cannot"},
]


def test_labels_cover_the_assistant_turns_and_nothing_else(tiny_tokenizer):
    example = encode_rows([{"messages": CHAT}], tiny_tokenizer)[0]
    row = dataset_from_examples([example])[0]
    assert [t != -100 for t in row["labels"]] == list(example.loss_mask)
    learned = tiny_tokenizer.decode([t for t in row["labels"] if t != -100])
    assert learned == "sure , five<|im_end|>sorry , i cannot<|im_end|>"


def test_the_trainer_hands_the_model_these_labels_unchanged(build, options, tiny_tokenizer):
    from holdfast.training import GuardedTrainer

    examples = encode_rows([{"messages": CHAT}, {"prompt": "add", "completion": "two"}], tiny_tokenizer)
    trainer = GuardedTrainer(build(), options(per_device_train_batch_size=2), examples)
    batch = next(iter(trainer.get_train_dataloader()))
    order = batch["sample_index"].tolist()
    expected = collate([examples[k] for k in order], 0)
    assert torch.equal(batch["labels"], expected.labels_BT)
    assert torch.equal(batch["input_ids"], expected.input_ids_BT)


def test_an_example_without_a_completion_is_refused_by_name():
    with pytest.raises(UserError, match="row7"):
        dataset_from_examples([Example((1, 2), (), "row7")])
    with pytest.raises(UserError, match="no examples"):
        dataset_from_examples([])


def micro(batch: Batch):
    return {
        "input_ids": batch.input_ids_BT,
        "labels": batch.labels_BT,
        "attention_mask": batch.attention_mask_BT,
    }


def test_cutting_a_pool_keeps_rows_in_order_and_trims_padding(tiny_examples):
    parts = [micro(collate(tiny_examples[:4], 0)), micro(collate(tiny_examples[4:], 0))]
    pool = as_batch(parts, [example.id for example in tiny_examples])
    whole = collate(list(tiny_examples), 0)
    assert torch.equal(pool.input_ids_BT, whole.input_ids_BT)
    assert torch.equal(pool.completion_mask_BT, whole.completion_mask_BT)
    cut = keep_rows(parts, [1, 4, 8], pad_id=0)
    assert len(cut) == 2
    for part, kept in zip(cut, ([1, 4], [8]), strict=True):
        expected = collate([tiny_examples[k] for k in kept], 0)
        for key, value in micro(expected).items():
            assert torch.equal(part[key], value), key


def test_a_micro_batch_left_empty_becomes_one_short_row_without_labels(tiny_examples):
    parts = [micro(collate(tiny_examples[k : k + 3], 0)) for k in (0, 3, 6)]
    cut = keep_rows(parts, [5], pad_id=0)
    assert [part["input_ids"].shape[0] for part in cut] == [1, 1, 1]
    assert [int((part["labels"] != -100).sum()) for part in cut][1:] == [0, 0]
    assert cut[1]["input_ids"].shape[1] == 2
    nothing = keep_rows(parts, [], pad_id=0)
    assert all((part["labels"] == -100).all() for part in nothing)


def test_a_trace_cut_short_by_a_killed_run_is_read_up_to_there(tmp_path):
    lines = JsonLines(tmp_path / "t.jsonl")
    lines.take_up(0)
    lines.append({"step": 1, "value": float("nan")})
    lines.append({"step": 2})
    assert lines.path is not None
    with lines.path.open("a") as stream:
        stream.write('{"step": 3, "val')
    assert read_lines(lines.path) == [{"step": 1, "value": None}, {"step": 2}]
