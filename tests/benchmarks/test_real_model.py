"""What follows from a part's figures, and the rows and table they become; nothing is timed."""

import pytest
from benchmarks import real_model, real_parts, results


def part(ratio, peak=2.0):
    return {
        "ratios": [ratio],
        "cpu_seconds": [1.0],
        "step_cpu_seconds": [1.0, 1.0],
        "peak": peak,
        "step_peak": 1.0,
    }


def test_ratios_of_the_verbs_follow_from_the_parts():
    kept = {"train": part(2.0), "monitor": part(3.0), "answers": part(10.0), "drift": part(4.0)}
    rows = {row["params"]["part"]: row for row in real_model.rows_of(kept, real_parts.Sizes(share=0.1))}
    assert rows["evaluate_adapter_over_answers"]["ratio_median"] == pytest.approx(1.4)
    # a measurement takes 30 units at full size; ten steps of 32 rows, two rows a unit, take 10 * 16 * 2 of them
    assert rows["train_monitored_over_plain"]["ratio_median"] == pytest.approx(1 + 30 / 320)
    assert rows["train"]["params"]["memory_ratio"] == 2.0
    assert "| train, a step of the batch | 2.00 |" in real_model.table({"rows": list(rows.values())})


def test_peers_that_are_not_installed_are_said_not_to_have_run():
    failed = [row for row in real_model.rows_of({}, real_parts.QUICK) if row["ratio_median"] is None]
    missing = {name for name in real_model.PEERS if name not in results.versions()}
    assert {row["params"]["part"] for row in failed} == missing


def test_the_quick_bench_has_what_the_parts_take_and_an_ordinary_step():
    bench = real_model.bench_of(None, quick=True)
    assert [len(example.input_ids) for example in bench.examples] == [9, 12]
    assert len(bench.skill.estimate.harmful) == len(bench.prompts) // 2
    before = {name: p.detach().clone() for name, p in bench.subject.parameters().items()}
    real_parts.ordinary(bench)()
    moved = [name for name, p in bench.subject.parameters().items() if not p.equal(before[name])]
    assert len(moved) == len(before)
