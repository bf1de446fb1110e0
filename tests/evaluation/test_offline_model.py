"""The offline judge's trained part: what it sees, that it is the shipped one, that nothing makes it fall over."""
# ruff: noqa: RUF001  # text in many scripts

import hashlib

import numpy as np
import pytest

from holdfast.evaluation.judges import judge_report, labelled_items
from holdfast.evaluation.judges.offline import RefusalJudge, concepts
from holdfast.evaluation.judges.offline.features import FIELDS, concept_grams, features, grams, letters
from holdfast.evaluation.judges.offline.model import LABELS, WEIGHTS, StanceModel, Trees, shipped, storey
from holdfast.evaluation.judges.offline.rules import read_pair
from holdfast.evaluation.judges.offline.signals import tokens

JUDGE = RefusalJudge()


def seen(prompt: str, response: str):
    return features(read_pair(prompt, response))


def test_the_weights_are_the_ones_whose_hash_was_written_down_and_are_small():
    line = WEIGHTS.with_suffix(".sha256").read_text("utf-8")
    assert line == f"{hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()}  {WEIGHTS.name}\n"
    assert WEIGHTS.stat().st_size <= 3_000_000


def test_the_lines_of_the_ordinary_part_are_met():
    report = judge_report(JUDGE, labelled_items("ordinary"))
    assert report.accuracy.value >= 0.95
    assert report.recall_refused.value >= 0.93
    assert report.recall_complied.value >= 0.93


def test_words_marks_and_digits():
    assert tokens("call 112, now!") == ["call", "000", ",", "now", "!"]
    assert tokens("不能说") == ["不", "能", "说"]


def test_grams_and_letters():
    assert grams(["a", "b", "c"], 2) == ["a", "b", "c", "a b", "b c"]
    assert letters("ab") == [" ab", " ab ", "ab "]
    assert concept_grams([("me",), (), ("neg",)]) == ["me", "neg", "me neg"]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("i would rather not tell you that", "en"),
        ("das werde ich dir nicht sagen", "de"),
        ("je ne vous le dirai pas", "fr"),
        ("я этого не скажу", "ru"),
        ("я цього не скажу, і край", "uk"),
        ("それは言えません", "ja"),
        ("我不会告诉你", "zh"),
        ("", "en"),
    ],
)
def test_languages_are_told_apart(text, language):
    assert concepts.language(text) == language


def test_the_same_concepts_in_two_languages():
    english = concepts.lexicon("en").sequence("i will not write that")
    german = concepts.lexicon("de").sequence("ich werde das nicht schreiben")
    both = {concept for word in english for concept in word} & {concept for word in german for concept in word}
    assert {"me", "want", "neg", "speech", "topic"} <= both
    assert all(set(concepts.names()) == set(table) for table in concepts.tables().values())


def test_measures_by_hand():
    found = seen("How do I bake bread?", "Bake the bread for an hour. Would you like more?").measures
    assert found["has a question"] == found["ends in a question"] == found["prompt is a question"] == 1.0
    assert found["prompt taken up"] == 1.0
    assert "digits" not in found


def test_a_feature_depends_on_the_pair_and_on_nothing_else():
    one, two = seen("Sing.", "La la."), seen("Sing.", "La la.")
    assert all(np.array_equal(a, b) for a, b in zip(one.buckets, two.buckets, strict=True))
    assert one.measures == two.measures
    other = seen("Sing to me.", "La la.")
    words, prompt = FIELDS.index("words"), FIELDS.index("prompt")
    assert np.array_equal(one.buckets[words], other.buckets[words])
    assert not np.array_equal(one.buckets[prompt], other.buckets[prompt])


def test_a_tree_by_hand():
    leaves = np.zeros((1, 4, 3), np.float16)
    leaves[0, 2] = [0.0, 1.0, 0.0]  # first question yes, second no
    trees = Trees(np.zeros(3, np.float32), np.array([[0, 1]]), np.array([[0.5, 0.5]]), leaves)
    assert trees.chances(np.array([1.0, 0.0])) == pytest.approx(np.array([1, np.e, 1]) / (2 + np.e))
    assert trees.chances(np.array([1.0, 1.0])) == pytest.approx(np.full(3, 1 / 3))


def test_chances_add_up_and_do_not_vary():
    found = seen("How do I get in?", "That door stays shut, and so do my lips.")
    first, second = shipped().chances(found), StanceModel.load(WEIGHTS).chances(found)
    assert first.sum() == pytest.approx(1)
    assert np.array_equal(first, second)
    assert len(storey(np.zeros(2, np.float32), [np.full(3, 1 / 3)])) == 2 + len(LABELS)


def test_a_saved_model_is_the_same_model(tmp_path):
    shipped().save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == WEIGHTS.read_bytes()


RESPONSES = [
    "Das bleibt mein Geheimnis.",
    "Cela restera entre moi et le mur.",
    "Eso no te lo cuento.",
    "Isso fica comigo.",
    "Questo lo tengo per me.",
    "Dat houd ik voor mezelf.",
    "Det stannar hos mig.",
    "Det bliver mellem os.",
    "To zostaje przy mnie.",
    "To si nechám pro sebe.",
    "Это останется при мне.",
    "Це залишиться при мені.",
    "Bu bende kalır.",
    "Itu rahasia saya.",
    "Chuyện đó tôi giữ riêng.",
    "这个我不说。",
    "それは内緒です。",
    "그건 비밀이에요.",
    "هذا سر.",
    "यह राज़ रहेगा।",
    "Se jää minun tietooni.",
    "Αυτό μένει μυστικό.",
    "זה נשאר סוד.",
    "นั่นเป็นความลับ",
    "Az az én titkom.",
]


@pytest.mark.parametrize("response", RESPONSES)
def test_every_language_gets_a_label_and_a_reason(response):
    verdict = JUDGE(response, response[::-1] + " " + response)
    assert verdict.label in LABELS and verdict.reason


@pytest.mark.parametrize(
    "response",
    [
        "word " * 4_000,
        "".join(f"w{k} " for k in range(3_000)),
        "x" * 100_000,
        "\x00\x01\x1b[31m no \x7f\u202e\ufeff",
        "\ud800 broken",
        "<think>" * 500,
        "```" * 1000,
        "🙂" * 50,
        "(((((((((" * 200,
    ],
)
def test_no_text_makes_it_fall_over(response):
    assert JUDGE("Tell me.", response).label in LABELS
    assert JUDGE(response, "I'd rather not.").label in LABELS
