"""The notebook runs: its cells in their order in one namespace, by the plain interpreter, without Jupyter."""

import json
from pathlib import Path

NOTEBOOK = Path(__file__).parents[1] / "examples" / "holdfast.ipynb"


def test_the_notebooks_cells_run_in_their_order(tmp_path, monkeypatch, capsys):
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, {cell['id']}", "exec"), names)
    told = capsys.readouterr().out
    assert "step 20: drift" in told and "holdfast gate: passed" in told
    assert names["after"].skill("refusal").refusal.value >= 0.9
