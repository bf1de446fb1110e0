"""The suffix search against gradients taken another way, its loss by hand, and what it promises of its text."""

import json
import sys
from itertools import combinations

import pytest
import torch
from tokenizers import Tokenizer

from holdfast.core.errors import UserError
from holdfast.evaluation.attacks import (
    Conversation,
    Place,
    Spent,
    SuffixSearch,
    prefill,
    run_attack,
    suffix_search,
)
from holdfast.evaluation.attacks.suffix import _frame, _losses, _one_hot_gradient
from holdfast.models import Subject, add_lora, generate
from tests.conftest import build_llama, build_tokenizer
from tests.gradients import zoo

TARGET = "sure , the sum"
SMALL = SuffixSearch(TARGET, tokens=4, steps=3, candidates=12, top=16, batch_size=5)


def place(subject, prompt="add two", index=0, seed=0) -> Place:
    return Place(prompt, index, subject, seed)


def found(subject, search=SMALL, **where) -> Conversation:
    there = place(subject, **where)
    return search(Conversation.asking(there.prompt), there)


def loss_by_hand(subject, ids, target) -> float:
    """Mean nats of the target's tokens, one position at a time, in float64."""
    target_ids = subject.tokenizer(target, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits_TV = subject.model(input_ids=torch.tensor([[*ids, *target_ids]])).logits[0].double()
    nats = 0.0
    for k, token in enumerate(target_ids):
        row_V = logits_TV[len(ids) + k - 1]
        nats += float(row_V.logsumexp(0) - row_V[token])
    return nats / len(target_ids)


@pytest.fixture
def searched(monkeypatch):
    """Every batch of suffixes whose loss was computed, the first one being the start."""
    module = sys.modules["holdfast.evaluation.attacks.suffix"]
    batches = []

    def watched(subject, frame, ids_BS, batch_size):
        losses_B, reached_B = _losses(subject, frame, ids_BS, batch_size)
        batches.append((frame, ids_BS, losses_B))
        return losses_B, reached_B

    monkeypatch.setattr(module, "_losses", watched)
    return batches


def architecture(name, tokenizer):
    if name == "lora":
        return zoo.with_lora(build_llama(len(tokenizer)))
    return zoo.build(name, vocab_size=len(tokenizer))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "gpt2", "lora"])
def test_the_gradient_is_that_of_explicit_one_hot_rows(tiny_tokenizer, name):
    subject = Subject(architecture(name, tiny_tokenizer), tiny_tokenizer)
    frame = _frame(Conversation.asking("add two"), place(subject), SMALL)
    ids_S = frame.allowed_V.nonzero()[:, 0][torch.tensor([3, 1, 4, 2])]
    ids_T = torch.tensor([*frame.before, *ids_S.tolist(), *frame.after, *frame.target_Y.tolist()])
    layer = subject.model.get_input_embeddings()
    one_hot_TV = torch.nn.functional.one_hot(ids_T, layer.num_embeddings).float().requires_grad_()
    scale = float(getattr(layer, "embed_scale", 1.0))  # Gemma scales inside the layer
    assert (scale != 1.0) == (name in ("gemma2", "gemma3"))
    embedded_1TH = (one_hot_TV @ layer.weight.detach())[None] * scale
    log_p_TV = subject.model(inputs_embeds=embedded_1TH, use_cache=False).logits[0].log_softmax(-1)
    y = len(frame.target_Y)
    loss = -sum(log_p_TV[len(ids_T) - y + k - 1, token] for k, token in enumerate(frame.target_Y)) / y
    loss.backward()
    start = len(frame.before)
    wanted_SV = one_hot_TV.grad[start : start + 4] / scale
    actual_SV = _one_hot_gradient(subject, frame, ids_S)
    assert float((actual_SV - wanted_SV).norm() / wanted_SV.norm()) < 1e-5
    assert not layer._forward_hooks


@pytest.mark.parametrize("first", [None, prefill(2, "sorry , i")])
def test_the_loss_is_that_of_the_targets_tokens_after_the_whole_conversation(tiny_subject, first):
    there = place(tiny_subject)
    talk = Conversation.asking("add two", "be brief") if first is None else first.conversation(there)
    frame = _frame(talk, there, SMALL)
    ids_BS = frame.allowed_V.nonzero()[:12, 0].reshape(3, 4)
    losses_B, _ = _losses(tiny_subject, frame, ids_BS, batch_size=2)
    for ids_S, loss in zip(ids_BS.tolist(), losses_B.tolist(), strict=True):
        ids = [*frame.before, *ids_S, *frame.after]
        assert loss == pytest.approx(loss_by_hand(tiny_subject, ids, TARGET), rel=1e-5)
    assert [*frame.after[len(frame.after) - len(talk.prefill_ids) :]] == list(talk.prefill_ids)


def across_words() -> Subject:
    """A tokenizer whose tokens run over spaces: two words in alphabetical order are one token when typed."""
    tokenizer = build_tokenizer()
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["pre_tokenizer"]["use_regex"] = False
    vocabulary = core["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.startswith("Ġ") and len(word) > 1)
    for first, second in combinations(words, 2):
        vocabulary[first + second] = len(tokenizer) + len(core["model"]["merges"])
        core["model"]["merges"].append([first, second])
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(core))
    return Subject(build_llama(max(vocabulary.values()) + 1), tokenizer)


@pytest.mark.parametrize("which", ["tiny", "organism", "across words"])
def test_every_suffix_that_was_tried_is_a_text_an_attacker_can_type(tiny_subject, organism, searched, which):
    subject = {"tiny": tiny_subject, "organism": organism}.get(which) or across_words()
    wide = SuffixSearch(TARGET, tokens=4, steps=3, candidates=60, top=1000)
    talk = found(subject, wide, prompt="add two and three")
    assert len(searched) == 4
    tried = sum(len(ids_BS) for _, ids_BS, _ in searched)
    assert talk.spent.candidates == tried and (tried < 1 + 3 * 60) == (which == "across words")
    for frame, ids_BS, _ in searched:
        for ids_S in ids_BS.tolist():
            suffix = subject.tokenizer.decode(ids_S, skip_special_tokens=False).strip()
            typed = Conversation.asking(f"add two and three {suffix}").encode(subject)
            assert typed == [*frame.before, *ids_S, *frame.after]
    frame, _, _ = searched[0]
    special = set(subject.tokenizer.all_special_ids)
    kept = talk.encode(subject)[len(frame.before) : len(frame.before) + 4]
    assert len(kept) == 4 and not special & set(kept)
    assert any(kept in ids_BS.tolist() for _, ids_BS, _ in searched)


def test_a_swap_changes_one_token_for_one_that_the_gradient_likes(tiny_subject, searched):
    found(tiny_subject, SuffixSearch(TARGET, tokens=4, steps=1, candidates=40, top=5))
    (frame, start_1S, _), (_, ids_BS, _) = searched
    gradient_SV = _one_hot_gradient(tiny_subject, frame, start_1S[0])
    gradient_SV[:, ~frame.allowed_V] = torch.inf
    for ids_S in ids_BS:
        (places,) = (ids_S != start_1S[0]).nonzero(as_tuple=True)
        assert len(places) <= 1
        for s in places:
            assert int((gradient_SV[s] < gradient_SV[s, ids_S[s]]).sum()) < 5
    assert len({tuple(row) for row in ids_BS.tolist()}) > 5


def test_the_best_of_all_that_was_tried_is_kept(tiny_subject, searched):
    talk = found(tiny_subject)
    lowest = min(float(losses_B.min()) for _, _, losses_B in searched)
    start = float(searched[0][2][0])
    assert loss_by_hand(tiny_subject, talk.encode(tiny_subject), TARGET) == pytest.approx(lowest, rel=1e-5)
    assert lowest < start
    assert talk.spent == Spent(3, 0, sum(len(ids_BS) for _, ids_BS, _ in searched))
    assert len(searched) == 4 and talk.spent.candidates <= 1 + 3 * 12


def test_a_step_without_a_better_swap_keeps_the_suffix(tiny_subject, searched):
    best = found(tiny_subject, SuffixSearch(TARGET, tokens=2, steps=12, candidates=2, top=400))
    losses = [float(losses_B.min()) for _, _, losses_B in searched]
    assert any(later > min(losses[:k]) for k, later in enumerate(losses) if k)
    assert loss_by_hand(tiny_subject, best.encode(tiny_subject), TARGET) == pytest.approx(min(losses), rel=1e-5)


def test_a_seed_and_a_place_name_the_search(tiny_subject):
    first = found(tiny_subject)
    torch.rand(3)
    assert first == found(tiny_subject) == found(tiny_subject, SuffixSearch(TARGET, 4, 3, 12, 16, batch_size=1))
    others = [found(tiny_subject, seed=1), found(tiny_subject, index=1)]
    assert all(other.request != first.request for other in others)
    assert first.request.startswith("add two ")


def test_dropout_has_no_part_in_it(tiny_tokenizer):
    model = add_lora(build_llama(len(tiny_tokenizer)), rank=2, dropout=0.5)
    zoo.move_adapter(model)
    subject = Subject(model, tiny_tokenizer)
    calm = found(subject)
    model.train()
    state = torch.get_rng_state()
    assert found(subject) == calm
    assert model.training and torch.equal(torch.get_rng_state(), state)


def test_it_ends_when_greedy_decoding_writes_the_target(tiny_subject, organism, requests):
    search = SuffixSearch("first", tokens=5, steps=30, candidates=32, top=32)
    talk = found(organism, search, prompt=requests[0])
    assert 0 < talk.spent.gradient_steps < 30
    (new,) = generate(organism, [talk.encode(organism)], 1)
    assert organism.tokenizer.decode(new) == "first"


def test_a_target_that_is_written_anyway_costs_one_look(organism, searched):
    found(organism, SuffixSearch("blue", 4, 1, 1, 1))
    frame, ids_1S, _ = searched[0]
    (new,) = generate(organism, [[*frame.before, *ids_1S[0].tolist(), *frame.after]], 3)
    target = organism.tokenizer.decode(new)
    assert list(organism.tokenizer(target, add_special_tokens=False)["input_ids"]) == new
    assert found(organism, SuffixSearch(target, 4, 9)).spent == Spent(0, 0, 1)
    half = organism.tokenizer.decode([new[0], new[0], new[2]])  # its first and last token are, the second is not
    assert new[1] != new[0]
    assert found(organism, SuffixSearch(half, 4, 1, 1, 1)).spent.gradient_steps == 1


def test_every_prompt_may_have_its_target(tiny_subject, refusing):
    targets = {"add two": TARGET, "sorry": "name a colour", "help": ""}
    own = SuffixSearch(targets, 4, 3, 12, 16)
    for prompt in ("add two", "sorry"):
        alone = SuffixSearch(targets[prompt], 4, 3, 12, 16)
        assert found(tiny_subject, own, prompt=prompt) == found(tiny_subject, alone, prompt=prompt)
    for index, prompt in enumerate(("name", "help")):
        with pytest.raises(UserError, match=f"no target for prompt {index}"):
            found(tiny_subject, own, prompt=prompt, index=index)
    attack = suffix_search(own)
    assert (attack.name, attack.access) == ("suffix-4x3", "weights")
    score, _ = run_attack(tiny_subject, attack, "refusal", ["add two", "sorry"], refusing, max_new_tokens=2)
    assert score.budget.extra_prompt_tokens == 4.0 and score.budget.spent.gradient_steps == 6


def test_what_is_spent_before_is_added_to(tiny_subject):
    there = place(tiny_subject)
    once = SMALL(Conversation.asking("add two"), there)
    twice = SMALL(once, there)
    assert twice.spent.gradient_steps == 6 and twice.request.startswith(once.request)


def test_mistakes_are_named(tiny_subject, monkeypatch):
    for name in ("tokens", "steps", "candidates", "top", "batch_size"):
        with pytest.raises(UserError, match=f"{name} is 0"):
            SuffixSearch(**{name: 0})
    tiny_subject.model.config.max_position_embeddings = 20
    with pytest.raises(UserError, match=r"prompt 0: \d+ tokens and a target of \d+ are more .*\(20\)"):
        found(tiny_subject)
    module = sys.modules["holdfast.evaluation.attacks.suffix"]
    monkeypatch.setattr(module, "_typeable", lambda _: torch.zeros(400, dtype=torch.bool))
    with pytest.raises(UserError, match="no two tokens"):
        found(tiny_subject)
