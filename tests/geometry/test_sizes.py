"""What an audit may have in a given time: a share of what was asked for, and it is said."""

from holdfast.core.estimates import estimate_words, fit_words, largest_share
from holdfast.data import Example
from holdfast.geometry import sizes
from holdfast.models import Subject, add_lora
from tests.conftest import build_llama

EXAMPLES = [Example((1, 5 + k % 7), (9, 10 + k % 5, 11), str(k)) for k in range(40)]
PROMPTS = [[1, 5 + k % 9, 7] for k in range(30)]


def fitted(minutes, seconds, monkeypatch):
    monkeypatch.setattr(sizes, "timed", lambda work: (work(), seconds)[1])
    said = []
    m, rows = sizes.fitted(
        Subject(add_lora(build_llama(40), rank=2)), PROMPTS, EXAMPLES, 4, minutes, 0, said.append
    )
    return m, [example.id for example in rows], said


def test_what_fits_is_kept_whole_and_nothing_is_said(monkeypatch):
    m, ids, said = fitted(10, 1e-6, monkeypatch)
    assert (m, len(ids), said) == (30, 40, [])


def test_what_does_not_fit_is_cut_and_said(monkeypatch):
    m, ids, said = fitted(10, 20.0, monkeypatch)
    assert 8 <= m < 30 and 8 <= len(ids) < 40
    assert ids == sorted(ids, key=int) and ids == fitted(10, 20.0, monkeypatch)[1]  # a seeded choice, in order
    assert len(said) == 3 and "asked for" in said[0] and f"30 prompts to {m}" in said[1]
    assert f"40 task rows to {len(ids)}" in said[1] and "--minutes" in said[1]
    assert fitted(1e-9, 20.0, monkeypatch)[0] == 8  # never fewer than an audit can use


def test_words():
    assert estimate_words("audit", 59, 1) is None
    assert estimate_words("audit", 120, 3 << 30) == "audit: about 2.0 min and 3.0 GiB, by a timed first batch"
    assert fit_words("audit", 5, lambda share: 59 * share, 0.5, 1, {"rows": (4, 4)}) == []
    assert largest_share(lambda share: 100 * share, 50) == 0.5
    assert largest_share(lambda share: 100 * share, 0) == 0.05
    assert largest_share(lambda share: 100, 0) == 1.0, "what saves no time is not cut"


def test_a_time_that_cannot_be_kept_is_not_said_to_be():
    cuts = {"rows": (40, 4)}
    fits = fit_words("audit", 5, lambda share: 600 * share, 0.5, 0, cuts)
    assert fits[1] == "audit: cut to fit 5 min (--minutes): 40 rows to 4"
    late = fit_words("audit", 5, lambda share: 600 + share, 0.05, 0, cuts)
    assert "as far as it goes, which is more than 5 min" in late[1]
    assert "would not shorten it" in fit_words("audit", 5, lambda share: 600, 1.0, 0, cuts)[1]
