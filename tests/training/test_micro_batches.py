"""A pool cut into micro-batches is the same pool: same scores, same choice, same update, to rounding."""

import pytest

from holdfast.selection import OnlineSelection
from holdfast.training import GuardedTrainer
from holdfast.training import trainer as module
from holdfast.training.pool import MOST_LOGIT_BYTES, micro_batches
from tests.training.weights import largest_difference, weights


def trained(build, options, examples, selection, rows, pool=8, **settings):
    subject = build()
    args = options(
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=pool // rows,
        learning_rate=1e-3,
        output_dir=None,
        **settings,
    )
    trainer = GuardedTrainer(subject, args, examples, selection)
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return trainer.selection_trace, losses, weights(subject)


SELECTIONS = {
    "moderate": OnlineSelection(0.5),
    "two passes": OnlineSelection(0.5, one_pass=False),
    "loss only": OnlineSelection(1.0, "none"),
    "random": OnlineSelection(0.5, "random", loss_filter="none"),
    "few kept": OnlineSelection(0.25, one_pass=False),
    "plain": None,
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_cut_of_the_pool_gives_the_run_of_one_batch(build, options, examples, name):
    examples = examples[:13]  # the last pool of an epoch is short
    settings = {"max_steps": 2, "optim": "sgd"}
    whole = trained(build, options, examples, SELECTIONS[name], 8, **settings)
    moved = largest_difference(whole[2], weights(build()))
    assert moved > 1e-5
    for rows in (1,) if name == "few kept" else (2,):
        cut = trained(build, options, examples, SELECTIONS[name], rows, **settings)
        assert [row["kept_ids"] for row in cut[0]] == [row["kept_ids"] for row in whole[0]]
        assert [row["pool"] for row in cut[0]] == [row["pool"] for row in whole[0]]
        for one, other in zip(cut[0], whole[0], strict=True):
            for column in ("loss_nats", "grad_norm"):
                if other[column] is not None:
                    assert one[column] == pytest.approx(other[column], rel=1e-5)
        assert cut[1] == pytest.approx(whole[1], rel=1e-5)
        assert largest_difference(cut[2], whole[2]) < 1e-3 * moved


def test_scoring_sees_no_more_tokens_at_once_than_a_training_step(build, options, examples, monkeypatch):
    seen, real = [], module.pool_norms

    def watched(engine, pool, reduction, tokens):
        seen.append((pool.input_ids_BT.numel(), tokens))
        return real(engine, pool, reduction, tokens)

    monkeypatch.setattr(module, "pool_norms", watched)
    trained(build, options, examples, OnlineSelection(0.5, one_pass=False), 2, max_steps=1)
    assert seen and all(tokens <= 0.3 * whole for whole, tokens in seen)


def test_a_pool_too_large_to_hold_takes_two_passes(build, options, examples, monkeypatch, caplog):
    monkeypatch.setattr(module, "MOST_HELD_BYTES", 1000)
    monkeypatch.setattr(module, "one_pass", None)
    with caplog.at_level("INFO", logger="holdfast.training.trainer"):
        trained(build, options, examples, OnlineSelection(0.5), 8, max_steps=1)
    assert "would hold about" in caplog.text


@pytest.mark.parametrize(
    ("pool", "longest", "vocabulary", "wish", "cut"),
    [
        (32, 60, 555, "auto", (32, 1)),  # the organism: one batch
        (32, 1024, 49152, "auto", (4, 8)),  # 6.4 GB of logits in one batch
        (32, 1024, 49152, 32, (32, 1)),  # asked for
        (32, 200000, 49152, "auto", (1, 32)),
        (30, 60, 555, 8, (6, 5)),  # what divides the pool
        (7, 60, 555, 4, (1, 7)),
        (4, 60, 555, 99, (4, 1)),
    ],
)
def test_the_cut_of_a_pool(pool, longest, vocabulary, wish, cut):
    rows, parts = micro_batches(pool, longest, vocabulary, wish)
    assert (rows, parts) == cut and rows * parts == pool
    if wish == "auto" and rows > 1:
        assert 4 * rows * longest * vocabulary <= MOST_LOGIT_BYTES
