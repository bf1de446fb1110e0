"""The example that README and the documentation print runs as it stands, in TRL's own trainer."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "trl_two_lines.py"


def test_the_two_line_example_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(EXAMPLE))
    monitor = names["trainer"].callback_handler.callbacks[-1]
    assert [row["step"] for row in monitor.trace] == [0, 10, 20]
    assert monitor.trace[0]["kl_nats"] == 0.0 < monitor.trace[-1]["kl_nats"] <= 2.0
    assert f"step 20: drift {monitor.trace[-1]['kl_nats']:.3f} nats" in capsys.readouterr().out
    assert type(names["trainer"]).__name__ == "SFTTrainer"
