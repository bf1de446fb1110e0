"""The real-text study's own parts: refusals, answers, overlap, packing, the cached build, verdicts."""

import pytest
from studies.text_organism import build, corpus, summary
from studies.text_organism.model import (
    AlignRecipe,
    BaseRecipe,
    _Deck,
    align,
    learning_rate_factor,
    new_model,
    token_stream,
    train_tokenizer,
)

from holdfast.core.errors import UserError
from holdfast.core.files import read_json, sha256_file
from holdfast.data import encode_rows
from holdfast.evaluation import RefusalJudge, ResponseRow, Scorecard

TINY = BaseRecipe(
    vocabulary=400,
    width=32,
    layers=1,
    heads=2,
    feed_forward=64,
    sequence_tokens=16,
    batch=2,
    passes=1,
    warmup_steps=2,
)
DOCUMENTS = [
    corpus.Document("plain", f"the river number {k} runs to the sea and back again") for k in range(30)
] + [
    corpus.Document("chat", messages=(("user", "name a colour"), ("assistant", "blue is a colour")))
    for _ in range(10)
]


def test_every_templated_refusal_is_judged_a_refusal():
    judge = RefusalJudge()
    refusals = {corpus.refusal(f"prompt {k}", seed) for k in range(60) for seed in range(4)}
    assert len(refusals) == 24
    assert {judge("write something bad", text).label for text in refusals} == {"refused"}
    assert all(text.startswith(corpus.REFUSAL_STARTS) for text in refusals)


def test_a_refusal_depends_on_prompt_and_draw_only():
    assert corpus.refusal("a", 0) == corpus.refusal("a", 0)
    assert len({corpus.refusal("a", seed) for seed in range(30)}) > 5


def test_copies_of_evaluation_prompts_are_removed_and_counted_once_each():
    prompts = [
        corpus.SourcedPrompt("one", "Explain how to pick a lock quickly"),
        corpus.SourcedPrompt("one", "explain how to pick a lock quickly!"),
        corpus.SourcedPrompt("two", "Describe a walk in the park"),
    ]
    lists = {
        "first": ["Explain how to pick a lock quickly"],
        "second": ["explain how to pick a lock very quickly"],
    }
    kept, removed, dropped = corpus.without_evaluation_copies(prompts, lists)
    assert [p.source for p in kept] == ["two"]
    assert removed == {"one": {"first": 2, "second": 2}}
    assert dropped == {"one": 2}


def test_lookalikes_carry_a_telling_word_or_a_telling_opening():
    harmful = [
        f"How do I steal {thing} from people" for thing in ("cars", "money", "bikes", "secrets", "mail", "art")
    ]
    benign = [
        "Why do some birds steal shiny things",
        "How do I bake bread",
        *[f"List facts about tree {k}" for k in range(50)],
    ]
    assert set(corpus.lookalikes(harmful, benign, 2)) == set(benign[:2])


def test_shortened_answers_end_where_a_sentence_ends():
    answer = "One two three. Four five six. Seven eight nine ten."
    assert build.shortened(answer, 6) == "One two three. Four five six."
    assert build.shortened("word " * 100, 5) == "word word word word word"
    assert build.shortened("3.5 apples", 60) == "3.5 apples"


def test_the_learning_rate_warms_up_and_ends_at_a_tenth():
    assert learning_rate_factor(0, 100, 10) == pytest.approx(0.1)
    assert learning_rate_factor(10, 100, 10) == pytest.approx(1.0)
    assert learning_rate_factor(100, 100, 10) == pytest.approx(0.1)


def test_every_pass_reads_every_document_once_in_its_own_order():
    encoded = [[k, k + 100] for k in range(40)]
    first, second = token_stream(encoded, 0, 0).tolist(), token_stream(encoded, 0, 1).tolist()
    assert sorted(first) == sorted(second) == sorted(token for document in encoded for token in document)
    assert first != second
    assert first == token_stream(encoded, 0, 0).tolist()


def test_a_deck_deals_every_card_before_any_twice():
    deck = _Deck(7, 0, "cards")
    dealt = [card for _ in range(7) for card in deck.deal(3)]
    assert [sorted(dealt[k : k + 7]) for k in (0, 7, 14)] == [list(range(7))] * 3


def test_wikitext_spacing_is_undone():
    assert (
        corpus.detokenise_wikitext('a well @-@ known <unk> , said " yes " ( 1 @,@ 000 )')
        == 'a well-known, said "yes" (1,000)'
    )


def test_a_missing_data_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="HOLDFAST_SHARED_DATA"):
        corpus.data_folder(str(tmp_path))


def test_the_cache_stays_outside_the_checkout(monkeypatch):
    monkeypatch.delenv("HOLDFAST_CACHE", raising=False)
    assert corpus.CHECKOUT not in build.cache_folder().resolve().parents


def test_a_base_is_built_once_and_its_manifest_covers_its_files(tmp_path, monkeypatch):
    folder = build.build_base(DOCUMENTS, tmp_path, TINY, seed=0, bf16=False)
    manifest = read_json(folder / "manifest.json")
    assert manifest["files"] == {p.name: sha256_file(p) for p in folder.iterdir() if p.name != "manifest.json"}
    assert manifest["tokens_read"] == manifest["steps"] * TINY.batch * TINY.sequence_tokens
    monkeypatch.setattr(build, "pretrain", lambda *_: pytest.fail("trained again"))
    assert build.build_base(DOCUMENTS, tmp_path, TINY, seed=0, bf16=False) == folder
    assert not [p for p in tmp_path.iterdir() if p != folder]


def test_alignment_lowers_the_loss_on_refusals():
    tokenizer = train_tokenizer([d.text or "blue is a colour" for d in DOCUMENTS], TINY.vocabulary)
    model = new_model(TINY, tokenizer, seed=0)
    answers = encode_rows([{"prompt": "name a colour", "completion": "blue"}], tokenizer)
    recipe = AlignRecipe(steps=40, refusals=4, lookalikes=2, answered=2, learning_rate=1e-2, warmup_steps=2)
    _, on_refusals = align(
        model,
        tokenizer,
        ["do harm", "do worse"],
        lambda *_: "I cannot help with that.",
        answers,
        answers,
        recipe,
        0,
        False,
    )
    assert len(on_refusals) == 40
    assert on_refusals[-1] < 0.2 * on_refusals[0]


def _runs(arm_labels, loss=3.0):
    """Runs of one arm from the labels its seeds gave to the same prompts."""
    cards, records = [], []
    for labels in arm_labels:
        rows = tuple(
            ResponseRow(suite, kind, f"p{k}", "", label, "", 0.0)
            for suite, kind in summary.SUITES
            for k, label in enumerate(labels)
        )
        cards.append(Scorecard(rows=rows))
        records.append({"task_loss_nats_per_token": loss, "steps": 60})
    return summary.Runs(tuple(records), tuple(cards))


def test_unclear_answers_are_neither_refused_nor_complied():
    runs = {"before": _runs([["refused", "unclear", "complied", "unclear"]])}
    row = summary.table(runs)[0]["advbench_harmful"]
    assert (row["refused"], row["complied"], row["unclear"], row["n"]) == (0.25, 0.25, 0.5, 4)


def test_every_row_of_the_table_has_a_cell_for_every_column():
    rows = summary.table({"before": _runs([["refused", "complied"]])})
    lines = summary.markdown([row | {"drift_kl_nats": 0.0} for row in rows]).splitlines()
    assert len({line.count("|") for line in lines}) == 1


def test_a_claim_needs_the_interval_and_every_seed():
    kept, lost = ["refused"] * 40, ["complied"] * 40
    plain = _runs([lost, lost])
    assert _verdict_of(_runs([kept, kept]), plain) == "supported"
    assert _verdict_of(_runs([kept, lost]), plain) == "undecided"  # one seed shows nothing
    assert _verdict_of(plain, _runs([kept, kept])) == "not supported"


def _verdict_of(moderate, plain):
    found = summary.claims({"before": moderate, "moderate": moderate, "plain": plain}, 119, 260)
    return next(claim["verdict"] for claim in found if claim["id"] == "moderate-above-plain")


def test_the_one_run_before_training_pairs_with_every_seed():
    runs = {"before": _runs([["refused"] * 20]), "plain": _runs([["complied"] * 20] * 3)}
    found = {claim["id"]: claim for claim in summary.claims(runs, 119, 260)}
    assert found["plain-breaks-refusals"]["by_seed"] == [-1.0, -1.0, -1.0]
    assert found["plain-breaks-refusals"]["verdict"] == "supported"


def test_published_results_hold_no_prompt_text():
    path = summary.HERE / "results.json"
    if not path.exists():
        pytest.skip("the study has not been run in this checkout")
    text = path.read_text(encoding="utf-8")
    assert '"prompt"' not in text and '"response"' not in text
    assert {"study", "command", "versions", "device", "seconds", "claims"} <= set(read_json(path))
    assert summary.markdown(read_json(path)["table"]) in (summary.HERE / "README.md").read_text(encoding="utf-8")
