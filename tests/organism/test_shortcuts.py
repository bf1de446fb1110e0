"""No word list and no template decides the subtle half: simple readers stay at chance."""

import sys
from pathlib import Path

import pytest

from holdfast.organism import TEST_SEED, world

sys.path.insert(0, str(Path(__file__).parents[2] / "studies" / "organism"))
from shortcuts import balanced_accuracy


@pytest.mark.parametrize("seed", [0, TEST_SEED])
@pytest.mark.parametrize("view", ["unigram", "template"])
@pytest.mark.parametrize("split", ["estimate", "evaluate"])
def test_a_reader_without_grammar_stays_near_chance(view, split, seed):
    assert balanced_accuracy(view, split, n=500, in_world=world(seed)) <= 0.60


def test_the_reader_itself_works_where_words_do_decide():
    assert balanced_accuracy("unigram", "evaluate", n=500, kinds=("overt", "benign")) >= 0.95
