"""selection.md 1.3 and 4.4: the numbers, the edge cases, the invariances."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from holdfast.core.errors import UserError
from holdfast.selection import OnlineSelection, Selection, kept_count, loss_bounds, select

LOSSES = (1.0, 1.1, 0.9, 1.0, 5.0, 0.0)
NORMS = (1.0, 2.0, 3.0, 4.0, 100.0, 0.0)


def pool(losses=None, norms=None, tokens=None):
    given = losses if losses is not None else norms
    assert given is not None
    size = len(given)
    return {
        "loss_nats": losses if losses is not None else [1.0] * size,
        "grad_norm": norms if norms is not None else [1.0] * size,
        "completion_tokens": tokens if tokens is not None else [5] * size,
    }


def test_the_worked_example_keeps_0_1_2():
    chosen = select(pool(LOSSES, NORMS), keep=0.5)
    assert chosen.indices == (0, 1, 2)
    assert chosen.thresholds["median"] == 2.0
    assert chosen.reasons == ("kept", "kept", "kept", "g_high", "loss_high", "g_low")
    # mean 1.5, population sigma 1.6155: the loss of 0 stays in
    assert chosen.thresholds["loss_low"] == pytest.approx(1.5 - np.std(LOSSES))
    assert chosen.thresholds["loss_high"] == pytest.approx(1.5 + np.std(LOSSES))


@pytest.mark.parametrize(
    ("keep", "size", "count"),
    [(0.2, 8, 1), (0.29, 100, 29), (0.2, 3, 1), (1.0, 7, 7), (0.5, 1, 1), (0.7, 10, 7), (0.1 + 0.2, 10, 3)],
)
def test_the_count_is_guarded_and_never_zero(keep, size, count):
    assert kept_count(keep, size) == count


def test_less_than_one_sample_is_one_with_a_warning(caplog):
    assert len(select(pool(norms=[1.0, 2.0, 3.0]), keep=0.2).indices) == 1
    assert "less than one sample" in caplog.text


def test_the_count_is_of_the_pool_not_of_the_candidates():
    losses = [1.0] * 8 + [9.0, 9.0]
    chosen = select(pool(losses, list(range(10))), keep=0.5)
    assert chosen.thresholds["candidates"] == 8
    assert len(chosen.indices) == 5


def test_too_few_candidates_are_all_kept():
    losses = [1.0, 1.0, 1.0, 30.0, 1.0]
    chosen = select(pool(losses, NORMS[:5]), keep=1.0)
    assert chosen.indices == (0, 1, 2, 4)


def test_equal_norms_go_by_position():
    assert select(pool(norms=[3.0] * 6), keep=0.5).indices == (0, 1, 2)


def test_the_median_of_an_even_count_is_the_mean_of_the_middle():
    assert select(pool(norms=[1.0, 2.0, 3.0, 4.0]), keep=0.5).thresholds["median"] == 2.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", ["loss_nats", "grad_norm"])
def test_a_bad_number_is_never_a_candidate_and_does_not_move_the_others(column, bad):
    scores = pool([1.0, 1.1, 0.9, 1.0, 1.05], [1.0, 2.0, 3.0, 4.0, 5.0])
    scores[column] = list(scores[column])
    scores[column][1] = bad
    chosen = select(scores, keep=0.6)
    assert chosen.reasons[1] == "invalid"
    rest = {name: [v for k, v in enumerate(values) if k != 1] for name, values in scores.items()}
    alone = select(rest, keep=0.75)  # 3 of 4, as 3 of 5 above
    assert [k - (k > 1) for k in chosen.indices] == list(alone.indices)


def test_samples_without_tokens_are_never_candidates():
    assert select(pool(norms=[2.0, 2.0, 2.0], tokens=[3, 0, 4]), keep=1.0).indices == (0, 2)


def test_an_unusable_pool_keeps_nothing():
    chosen = select(pool([math.nan] * 3, [1.0] * 3), keep=0.5)
    assert chosen.indices == ()
    assert set(chosen.reasons) == {"invalid"}


@pytest.mark.parametrize("value", [0.1, 1 / 3, 2.3, 0.0, 1e-8])
@pytest.mark.parametrize("size", [3, 7, 10, 49])
def test_equal_losses_keep_everybody_in(value, size):
    assert select(pool([value] * size, list(range(size))), keep=1.0).indices == tuple(range(size))


def test_two_losses_are_each_exactly_one_sigma_away_and_stay():
    losses = [0.1, 0.7] * 6
    assert len(select(pool(losses, list(range(12))), keep=1.0).indices) == 12


def test_the_quantile_filter_is_numpys():
    losses = np.arange(50.0)
    low, high = loss_bounds(losses, "quantile")
    assert (low, high) == pytest.approx((7.84, 41.16))
    chosen = select(pool(losses, losses), loss_filter="quantile", keep=1.0)
    assert chosen.indices == tuple(range(8, 42))


def test_low_high_and_drop_high():
    scores = pool(norms=[5.0, 1.0, 4.0, 2.0, 3.0])
    assert select(scores, "low", 0.4).indices == (1, 3)
    assert select(scores, "high", 0.4).indices == (0, 2)
    assert select(scores, "drop_high", 0.8).indices == (1, 2, 3, 4)
    assert select(scores, "none").indices == (0, 1, 2, 3, 4)


def test_a_band_is_a_run_of_ranks():
    norms = np.random.default_rng(3).permutation(20) + 0.5
    rank = np.argsort(np.argsort(norms))
    for keep, low, ranks in ((0.5, None, range(5, 15)), (0.3, 0.1, range(2, 8)), (0.25, 0.75, range(15, 20))):
        chosen = select(pool(norms=norms), "band", keep, "none", low=low)
        assert sorted(rank[list(chosen.indices)]) == list(ranks)
        assert {chosen.reasons[k] for k in np.flatnonzero(rank < ranks.start)} <= {"g_low"}
        assert {chosen.reasons[k] for k in np.flatnonzero(rank >= ranks.stop)} <= {"g_high"}
        assert (
            OnlineSelection(keep, "band", "none", low=low).decide(None, norms, None, 1).indices == chosen.indices
        )
    for rule, low, message in (("band", 0.6, "begins at a share of 0 to 0.5"), ("low", 0.1, "the rule is 'low'")):
        with pytest.raises(UserError, match=message):
            select(pool(norms=norms), rule, 0.5, low=low)


def test_random_depends_on_the_seed_alone():
    scores = pool(norms=list(range(40)))
    first = select(scores, "random", 0.5, seed=1)
    assert first.indices == select(scores, "random", 0.5, seed=1).indices
    assert first.indices != select(scores, "random", 0.5, seed=2).indices
    assert len(set(first.indices)) == 20


def test_inverse_length_is_the_moderate_rule_on_one_over_n_and_needs_no_model():
    lengths = [1, 2, 4, 8, 16, 32, 64]
    by_length = select({"completion_tokens": lengths}, "inverse_length", 0.5, loss_filter="none")
    by_norm = select(pool(norms=[1 / n for n in lengths]), "moderate", 0.5)
    assert by_length.indices == by_norm.indices
    assert by_length.reasons[0] == "short" and by_length.reasons[-1] == "long"


def test_length_matched_random_has_the_lengths_of_the_moderate_choice():
    rng = np.random.default_rng(0)
    lengths = np.repeat([3, 10, 40, 90], 100)
    norms = 30 / lengths * rng.uniform(0.5, 2.0, 400)
    scores = pool(rng.normal(1, 0.1, 400), norms, lengths)
    moderate = select(scores, "moderate", 0.25, loss_filter="none")
    drawn = select(scores, "length_matched_random", 0.25, loss_filter="none", seed=3)
    assert sorted(lengths[list(drawn.indices)]) == sorted(lengths[list(moderate.indices)])
    assert drawn.indices != moderate.indices


def test_unknown_options_and_missing_columns_name_the_way_out():
    with pytest.raises(UserError, match="use one of moderate"):
        select(pool(norms=[1.0]), "medium")
    with pytest.raises(UserError, match="above 0"):
        select(pool(norms=[1.0]), keep=0)
    with pytest.raises(UserError, match="unknown; use one of sigma"):
        select(pool(norms=[1.0]), loss_filter="two")
    with pytest.raises(UserError, match="grad_norm"):
        select({"loss_nats": [1.0]})
    with pytest.raises(UserError, match="different lengths"):
        select({"loss_nats": [1.0], "grad_norm": [1.0, 2.0]})


def test_apply_cuts_the_data_set_that_was_scored_and_no_other(tmp_path):
    from datasets import Dataset

    chosen = select({**pool(LOSSES, NORMS), "id": list("abcdef")})
    assert chosen.apply(list("uvwxyz")) == ["u", "v", "w"]
    assert chosen.apply(Dataset.from_dict({"k": list(range(6))}))["k"] == [0, 1, 2]
    with pytest.raises(UserError, match="5 rows but 6"):
        chosen.apply(list("uvwxy"))
    chosen.save(tmp_path / "selection.json")
    assert Selection.load(tmp_path / "selection.json") == chosen


def test_data_frames_and_parquet_files_are_tables_too(tmp_path):
    import pandas
    import pyarrow

    from holdfast.core.files import write_table

    frame = pandas.DataFrame(pool(LOSSES, NORMS))
    write_table(tmp_path / "scores.parquet", pyarrow.Table.from_pandas(frame))
    for scores in (frame, pyarrow.Table.from_pandas(frame), tmp_path / "scores.parquet"):
        assert select(scores).indices == (0, 1, 2)


def test_apply_refuses_reordered_examples():
    from holdfast.data import Example

    rows = [Example((1,), (2,), name) for name in "abc"]
    chosen = select({**pool(norms=[1.0, 2.0, 3.0]), "id": list("abc")}, keep=1.0)
    assert chosen.apply(rows) == rows
    with pytest.raises(UserError, match="keep the order"):
        chosen.apply(rows[::-1])


def test_online_decisions_are_the_offline_ones_and_random_moves_with_the_step():
    online = OnlineSelection(keep=0.5)
    assert online.decide(LOSSES, NORMS, [5] * 6, step=3).indices == (0, 1, 2)
    random = OnlineSelection(keep=0.5, rule="random", loss_filter="none")
    draws = {random.decide(None, None, [5] * 20, step).indices for step in range(5)}
    assert len(draws) == 5
    assert random.decide(None, None, [5] * 20, 2) == random.decide(None, None, [5] * 20, 2)
    assert not random.needs_norm and not random.needs_loss
    with pytest.raises(UserError):
        OnlineSelection(rule="best")


finite = st.floats(0.01, 100)
pools = st.integers(2, 30).flatmap(
    lambda n: st.tuples(
        st.lists(finite, min_size=n, max_size=n), st.lists(finite, min_size=n, max_size=n, unique=True)
    )
)
rules = st.sampled_from(["moderate", "low", "high", "drop_high", "band"])


def _clear_of_the_border(losses):
    """No loss so near one sigma that rounding could move it across."""
    losses = np.asarray(losses)
    distance = np.abs(losses - losses.mean()) - losses.std()
    assume(bool((np.abs(distance) > 1e-6 * losses.max()).all()))


@settings(max_examples=150, deadline=None)
@given(pools, rules, st.sampled_from([0.2, 0.5, 0.8]), st.randoms(use_true_random=False))
def test_permuting_the_pool_permutes_the_choice(scores, rule, keep, random):
    losses, norms = scores
    _clear_of_the_border(losses)
    order = list(range(len(losses)))
    random.shuffle(order)
    direct = select(pool(losses, norms), rule, keep)
    shuffled = select(pool([losses[k] for k in order], [norms[k] for k in order]), rule, keep)

    def place(position):  # two norms at one distance from the median are a tie: either may be kept
        median = direct.thresholds.get("median", 0.0)
        return round(abs(norms[position] - median), 9)

    assert sorted(map(place, direct.indices)) == sorted(place(order[k]) for k in shuffled.indices)


@settings(max_examples=200, deadline=None)
@given(pools, rules, st.floats(1e-3, 1e3))
def test_the_scale_of_the_norms_does_not_matter(scores, rule, factor):
    losses, norms = scores
    scaled = [factor * norm for norm in norms]
    assume(len(set(scaled)) == len(norms))
    assert select(pool(losses, scaled), rule).indices == select(pool(losses, norms), rule).indices


@settings(max_examples=150, deadline=None)
@given(pools, rules, st.floats(-50, 50))
def test_a_constant_added_to_the_losses_does_not_matter(scores, rule, shift):
    losses, norms = scores
    _clear_of_the_border(losses)
    before = select(pool(losses, norms), rule).indices
    assert select(pool([loss + shift for loss in losses], norms), rule).indices == before


def scored(**origin):
    from holdfast.gradients import ScoreTable

    n = len(NORMS)
    return ScoreTable(
        tuple("abcdef"),
        np.array(NORMS),
        np.array(LOSSES),
        np.full(n, 5),
        **{"scope": "all", "model": "m"} | origin,
    )


def readings(table, tmp_path):
    """The ways in which one table comes into `select`."""
    import pandas
    import pyarrow.parquet

    path = tmp_path / "scores.parquet"
    table.to_parquet(path)
    columns = {name: list(table[name]) for name in table.columns}
    return {
        "table": table,
        "read back": type(table).from_parquet(path),
        "path": path,
        "text": str(path),
        "arrow": pyarrow.parquet.read_table(path),
        "frame": table.to_pandas(),
        "frame of the file": pandas.read_parquet(path),
        "mapping": columns,
        "mapping, said once": columns | {"proxy": table.proxy, "reduction": table.reduction},
        "slice": table[:],
    }


def test_a_selection_records_what_its_norms_were(tmp_path):
    for name, scores in readings(scored(), tmp_path).items():
        chosen = select(scores)
        found = (chosen.reduction, chosen.proxy, chosen.scope, chosen.model)
        assert found == ("mean", "full", "all", "m"), name
    chosen = select(pool(LOSSES, NORMS))
    assert (chosen.reduction, chosen.proxy, chosen.scope, chosen.model) == ("unknown",) * 4


@pytest.mark.parametrize("scope", ["all", None])
def test_a_norm_rule_takes_a_proxy_only_by_name_however_the_table_comes_in(tmp_path, scope):
    table = scored(proxy="length", scope=scope)
    for name, scores in readings(table, tmp_path).items():
        for rule in ("moderate", "low", "high", "drop_high", "length_matched_random"):
            with pytest.raises(UserError, match=r"holds proxy 'length'.*--allow-proxy"):
                select(scores, rule)
        assert select(scores, allow_proxy=True).proxy == "length", name
        for rule in ("random", "none", "inverse_length"):  # these read no norm
            assert select(scores, rule, loss_filter="none").proxy == "length", name


def test_norms_of_the_sum_are_taken_only_by_name_and_those_of_the_mean_are_none(tmp_path):
    for name, scores in readings(scored(reduction="sum"), tmp_path).items():
        with pytest.raises(UserError, match=r"norms of the mean loss but .* of the sum"):
            select(scores)
        assert select(scores, reduction="sum").reduction == "sum", name
        assert select(scores, "random").reduction == "sum"
    with pytest.raises(UserError, match=r"norms of the sum loss but .* of the mean"):
        select(scored(), reduction="sum")
    with pytest.raises(UserError, match="reduction 'total'"):
        select(scored(), reduction="total")


@pytest.mark.parametrize("other", [{"proxy": "head"}, {"reduction": "sum"}, {"scope": "adapter"}, {"model": "n"}])
def test_a_table_of_two_kinds_is_refused(tmp_path, other):
    import pandas
    import pyarrow
    import pyarrow.parquet

    from holdfast.gradients import ScoreTable

    (name,) = other
    frame = pandas.concat([scored().to_pandas(), scored(**other).to_pandas()])
    arrow = pyarrow.Table.from_pandas(frame, preserve_index=False)
    path = tmp_path / "both.parquet"
    pyarrow.parquet.write_table(arrow, path)
    for scores in (frame, arrow, path):
        with pytest.raises(UserError, match=f"more than one {name}"):
            select(scores, allow_proxy=True)
    with pytest.raises(UserError, match=f"both.parquet: scores of more than one {name}"):
        ScoreTable.from_parquet(path)


def test_a_table_that_says_nothing_joined_to_one_that_does_is_refused():
    import pandas

    bare = pandas.DataFrame(pool(LOSSES, NORMS))
    with pytest.raises(UserError, match=r"more than one reduction .mean and not recorded"):
        select(pandas.concat([scored().to_pandas(), bare]))


def test_norms_scored_in_memory_and_offline_say_what_they_are(tiny_subject, tiny_examples, tmp_path):
    from holdfast.gradients import gradient_norms
    from holdfast.gradients.offline import score_examples

    quick = gradient_norms(tiny_subject, tiny_examples, reduction="sum", progress=False)
    offline = score_examples(tiny_subject, tiny_examples, tmp_path / "w", reduction="sum", progress=False)
    for table in (quick, offline):
        assert (table.reduction, table.proxy, table.scope) == ("sum", "full", "all")
        assert table.content_hash == tuple(example.content_hash for example in tiny_examples)
        with pytest.raises(UserError, match=r"norms of the mean"):
            select(table)
    with pytest.raises(UserError, match="holds proxy 'loss'"):
        select(gradient_norms(tiny_subject, tiny_examples, proxy="loss", progress=False))


@pytest.mark.parametrize(
    ("options", "size", "said"),
    [
        ({}, 31, True),
        ({}, 32, False),
        ({"keep": 1.0}, 8, True),  # the loss filter still decides
        ({"keep": 1.0, "loss_filter": "none"}, 8, False),
        ({"rule": "none", "loss_filter": "none"}, 8, False),
        ({"rule": "none"}, 8, True),
        ({"rule": "random", "loss_filter": "none"}, 8, False),
        ({"rule": "inverse_length", "loss_filter": "none"}, 8, True),
    ],
)
def test_a_small_pool_is_said_once_where_scores_decide(options, size, said, caplog):
    online = OnlineSelection(**options)
    numbers = np.arange(1.0, size + 1)
    for step in (1, 2):
        online.decide(numbers, numbers, numbers, step)
    assert caplog.text.count(f"a pool of {size} samples is under 32") == int(said)
    online.decide(numbers[:3], numbers[:3], numbers[:3], 3)  # the last pool of an epoch is nobody's mistake
    assert "a pool of 3 " not in caplog.text


def test_every_sample_that_is_left_out_has_its_reason():
    scores = pool(norms=[5.0, 1.0, 4.0, 2.0, 3.0], tokens=[2, 4, 6, 8, 10])
    assert select(scores, "low", 0.4).reasons == ("g_high", "kept", "g_high", "kept", "g_high")
    assert select(scores, "high", 0.4).reasons == ("kept", "g_low", "kept", "g_low", "g_low")
    assert select(scores, "drop_high", 0.8).reasons == ("g_high", *["kept"] * 4)
    for rule in ("random", "length_matched_random"):
        assert set(select(scores, rule, 0.4).counts) == {"kept", "not_drawn"}


def test_length_matched_random_depends_on_the_seed_alone():
    scores = pool(norms=list(range(40)), tokens=[7] * 40)
    draws = {select(scores, "length_matched_random", 0.5, seed=seed).indices for seed in range(4)}
    assert len(draws) == 4
    again = select(scores, "length_matched_random", 0.5, seed=2)
    assert again == select(scores, "length_matched_random", 0.5, seed=2)


def test_the_range_of_what_is_kept_is_recorded():
    scores = pool(norms=[5.0, 1.0, 4.0, 2.0, 3.0])
    for rule, low, high in (
        ("low", 1.0, 2.0),
        ("high", 4.0, 5.0),
        ("moderate", 3.0, 4.0),
    ):  # of a tie, the earlier
        found = select(scores, rule, 0.4).thresholds
        assert (found["kept_low"], found["kept_high"]) == (low, high), rule
