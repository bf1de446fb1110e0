"""The head on labelled positions alone, against stock SFTTrainer: same weights, losses and metrics, fewer rows."""

import pytest
import torch
import trl.trainer.utils as trl_utils
from trl.trainer.sft_trainer import SFTTrainer

from holdfast.training import GuardedTrainer, dataset_from_examples
from holdfast.training.scored_head import FEWEST
from tests.training.weights import weights

LOGGED = ("loss", "grad_norm", "entropy", "mean_token_accuracy", "num_tokens")


@pytest.fixture
def rows_read(monkeypatch):
    """Rows of hidden states that TRL's head was given, call by call."""
    seen = []
    own = trl_utils._ChunkedLogProbFunction

    class Spy:
        @staticmethod
        def apply(hidden, *rest):
            seen.append(len(hidden))
            return own.apply(hidden, *rest)

    monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", Spy)
    return seen


def _logs(trainer):
    return [{name: record[name] for name in LOGGED} for record in trainer.state.log_history if "loss" in record]


@pytest.mark.skipif(torch.cuda.is_available(), reason="TRL cuts by itself there")
def test_an_adapter_trains_as_in_stock_sft_with_labelled_rows_only(build, options, examples, rows_read):
    there, here = build(0.2, True), build(0.2, True)
    dataset = dataset_from_examples(examples)
    stock = SFTTrainer(model=there.model, args=options(), train_dataset=dataset, processing_class=there.tokenizer)
    stock.train()
    every = list(rows_read)
    rows_read.clear()
    guarded = GuardedTrainer(here, options(), examples)
    guarded.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(here).values(), weights(there).values(), strict=True))
    assert _logs(guarded) == _logs(stock)
    assert len(rows_read) == len(every) == 4
    assert all(FEWEST <= few < 0.7 * many for few, many in zip(rows_read, every, strict=True))


def test_a_head_that_is_trained_reads_what_trl_gives_it(build, options, examples, rows_read):
    GuardedTrainer(build(), options(max_steps=1), examples).train()
    scored = sum(example.completion_tokens for example in examples[:8])
    assert rows_read[0] > 1.3 * scored
