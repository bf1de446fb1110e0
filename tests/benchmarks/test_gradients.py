"""The benchmark runs end to end at tiny sizes; what it measures is right; no timing is looked at."""

import pytest
import torch
from benchmarks import breakdown, cases, engines, gradients, models, peers, results

from holdfast.core.files import read_json

OURS = {engine.name: engine for engine in engines.ENGINES}


def quick(name="full-256-T32"):
    return cases.choose([name], "cpu", quick=True)[0]


def test_the_quick_run_writes_a_valid_file(tmp_path, capsys):
    path = tmp_path / "gradients.json"
    code = gradients.main(["--quick", "--part", "full-256-T32", "lora-256-V16384-T32", "--out", str(path)])
    assert code == 0
    value = read_json(path)
    assert results.problems(value) == []
    rows = {(row["params"]["case"], row["what"]): row for row in value["rows"]}
    assert len(rows) == len(value["rows"]) == 2 * len(engines.chosen([]))
    for (_, what), row in rows.items():
        if OURS[what].group in ("ours", "baseline"):
            assert "failed" not in row["params"], row
            assert row["params"].get("max_rel_err", 0.0) < 1e-5
            assert row["params"].get("gradient_rel_err", 0.0) < 1e-5
        elif "failed" in row["params"]:
            assert row["params"]["failed"].startswith(("not installed", "failed: ")), row
    assert "score only" in capsys.readouterr().out


def test_a_quick_run_without_out_writes_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert gradients.main(["--quick", "--part", "full-256-T32", "--only", "loop", "--pairs", "1"]) == 0
    assert "nothing written" in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--part", "nowhere"], "--part nowhere: unknown"),
        (["--only", "nobody"], "--only nobody: names no engine"),
        (["--show", "--out", "missing.json"], "missing.json: no such file"),
    ],
)
def test_wrong_words_end_in_one_line_and_exit_code_2(words, message, capsys):
    assert gradients.main(words) == 2
    assert message in capsys.readouterr().err


def test_the_listing_names_every_case_and_engine(capsys):
    assert gradients.main(["--list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in [*cases.CPU_CASES, *cases.GPU_CASES, *OURS])


def test_a_missing_peer_is_a_row_with_the_reason(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    row = gradients.time_case(quick(), [OURS["opacus ghost clipping"]], 1, 0.0)[0]
    assert row["params"]["failed"] == "not installed: opacus" and row["ratio_median"] is None


@pytest.mark.slow
def test_peak_memory_comes_from_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(gradients, "QUICK_PAIRS", 1)
    path = tmp_path / "gradients.json"
    words = ["--quick", "--memory", "--part", "full-256-T32", "--only", "score only", "--out", str(path)]
    assert gradients.main(words) == 0
    value = read_json(path)
    assert results.problems(value) == []
    assert [row["what"] for row in value["rows"]] == ["peak memory, score only"]


def test_the_profile_accounts_for_rules_and_leaves_them_as_they_were():
    from holdfast.gradients.rules import RULES

    before = [dict(vars(rule)) for rule in RULES]
    text = breakdown.table(quick(), [OURS["score only"]])
    assert "matrix products" in text and "in rule linear.squares" in text
    assert [dict(vars(rule)) for rule in RULES] == before


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mm", "matrix products"),
        ("aten::bmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_log_softmax_backward_data", "loss"),
        ("aten::embedding_dense_backward", "gather, scatter, embedding"),
        ("aten::mul_", "elementwise and sums"),
        ("aten::t", "views"),
        ("MmBackward0", "autograd's own"),
        ("aten::copy_", "copies and fills"),
    ],
)
def test_operators_are_counted_where_a_reader_looks_for_them(operator, kind):
    assert breakdown.kind_of(operator) == kind


def test_the_reference_is_the_gradient_of_one_sample_alone():
    setup, batch = models.Setup.of(quick("lora-256-T32")), models.build_batch(quick("lora-256-T32"))
    squares = models.loop_squares(setup.model, setup.parameters, batch)
    models.ordinary_step(setup.model, models.one_row(batch, 1))
    for name, parameter in setup.parameters.items():
        assert parameter.grad is not None
        assert squares[name][1].item() == pytest.approx(parameter.grad.double().square().sum().item(), rel=1e-5)
    assert all("lora_" in name for name in setup.parameters)
    # B is not zero, so the factors A have gradients that an engine could get wrong.
    assert min(value.min().item() for name, value in squares.items() if "lora_A" in name) > 0


def test_the_floor_leaves_the_summed_gradient_of_the_batch():
    setup, batch = models.Setup.of(quick()), models.build_batch(quick())
    models.ordinary_step(setup.model, batch)
    models.ordinary_step(setup.model, batch)
    name, parameter = next(iter(setup.parameters.items()))
    expected = models.kept_gradient(setup.model, setup.parameters, batch, [0, 1, 2])[name] * 3
    torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_the_labelled_share_is_the_end_of_each_row():
    batch = models.build_batch(quick("full-256-V16384-T32"))
    assert batch.completion_mask_BT.tolist() == [[0] * 6 + [1] * 6] * 3
    whole = models.build_batch(quick())
    assert whole.completion_mask_BT.tolist() == [[0] + [1] * 11] * 3


def test_the_rule_keeps_the_samples_nearest_the_median():
    choose = engines.nearest_to_median(0.5)
    assert list(choose(None, torch.tensor([1.0, 5.0, 2.0, 9.0]), None)) == [1, 2]
    assert len(engines.nearest_to_median(0.2)(None, torch.rand(16), None)) == 3
