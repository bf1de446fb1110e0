"""A tiny model under training: rows, arguments, one way to run it."""

import copy
import random

import pytest

from holdfast.data import encode_rows
from holdfast.models import Subject
from holdfast.training import cpu_safe_args

WORDS = ["please", "add", "two", "and", "three", "sorry", "i", "cannot", "help", "name", "a", "colour"]


@pytest.fixture(scope="session")
def rows():
    rng = random.Random(0)
    return [
        {
            "prompt": " ".join(rng.choices(WORDS, k=rng.randrange(2, 6))),
            "completion": " ".join(rng.choices(WORDS, k=rng.randrange(1, 9))),
            "id": f"row{k}",
        }
        for k in range(48)
    ]


@pytest.fixture(scope="session")
def examples(rows, tiny_tokenizer):
    return encode_rows(rows, tiny_tokenizer)


@pytest.fixture
def build(tiny_model, tiny_tokenizer):
    """A fresh model each time, always the same; with dropout, so that a stray random number shows."""

    def fresh(dropout: float = 0.0, lora: bool = False) -> Subject:
        model = copy.deepcopy(tiny_model)
        model.config.attention_dropout = dropout
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = dropout
        if lora:
            from holdfast.models import add_lora

            model = add_lora(model, rank=2, alpha=4, dropout=dropout)
        return Subject(model, tiny_tokenizer)

    return fresh


@pytest.fixture
def options(tmp_path):
    def make(**overrides):
        settings = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 8,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
        }
        return cpu_safe_args(**(settings | overrides))

    return make
