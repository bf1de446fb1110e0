"""One self-contained HTML page from one run folder or several.

Knows: Jinja2 (autoescape on: whatever a model wrote is text, never markup), the order of the page, how much fits.
Does not know: models, stages, how a picture is drawn.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from holdfast.core.errors import UserError
from holdfast.core.files import write_text
from holdfast.report import bars, pictures
from holdfast.report.judgement import Judgement, Verdict, gate_limits, judge_all, verdict
from holdfast.report.marks import Look, looks
from holdfast.report.plain import one_line, shown
from holdfast.report.story import KINDS, REASONS, Asked, Story, TrainingRow, fitting
from holdfast.report.wording import COLUMNS, INTERVALS, difference_sentence, interval, seeds, value

HERE = Path(__file__).parent
TEMPLATE = "page.html.jinja"
ANSWERS_CHARACTERS, ROWS_CHARACTERS = 420_000, 180_000  # of a whole page, so that it stays below 1.5 MB
SETTING_CHARACTERS = 20_000
SHOWN_FIRST = 6  # prompts in sight; the others open at a click, or when something is looked for


@dataclass(frozen=True)
class Chapter:
    """One run, ready to be written.

    Attributes:
        key: begins the ids of its parts. left: answers and rows that did not fit.
    """

    key: str
    title: str
    summary: Mapping[str, Any]
    verdict: Verdict
    judgements: tuple[Judgement, ...]
    panels: tuple[bars.Panel, ...]
    training: tuple[pictures.Picture, ...]
    defended: tuple[str, ...]
    differences: tuple[str, ...]
    asked: tuple[Asked, ...]
    asked_left: int
    rows: tuple[TrainingRow, ...]
    rows_left: int
    norms: pictures.Picture | None
    spectrum: pictures.Picture | None
    concluded: str
    plane: pictures.Picture | None
    layers: pictures.Picture | None
    elasticity: tuple[bars.Panel, ...]
    attacks: tuple[tuple[bars.Panel, str, tuple[str, ...]], ...]
    costs: bars.Panel | None
    setting: str


def write_report(run_folder: str | Path) -> Path:
    """Draw the report of a finished run.

    Returns:
        Path of ``report.html``: one file, no network needed to read it.

    Raises:
        UserError: the folder holds no ``summary.json``.
    """
    return write_page([run_folder], Path(run_folder) / "report.html")


def write_page(run_folders: Sequence[str | Path], out: str | Path) -> Path:
    """Draw one page of several runs, in the order given. A method has one colour on all of it.

    Raises:
        UserError: no folder, or one without ``summary.json``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    if not run_folders:
        raise UserError("a report needs a run folder; give one or more")
    stories = [Story.read(folder) for folder in run_folders]
    of_all = looks(row["name"] for story in stories for row in story.summary["rows"])
    chapters = [_chapter(k, story, of_all, len(stories)) for k, story in enumerate(stories, start=1)]
    environment = Environment(
        loader=PackageLoader("holdfast.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["raw"] = Markup
    environment.filters["shown"] = shown
    script = (HERE / "page.js").read_text(encoding="utf-8")
    page = environment.get_template(TEMPLATE).render(
        chapters=chapters,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=_script_hash(script),
        looks=of_all,
        labels={row["name"]: row["label"] for story in stories for row in story.summary["rows"]},
        columns=COLUMNS,
        intervals=INTERVALS,
        kinds=KINDS,
        shown_first=SHOWN_FIRST,
        value=value,
        interval=interval,
        seeds=seeds,
        csv_link=csv_link,
    )
    write_text(out, page)
    return Path(out)


def csv_link(csv: str) -> str:
    """Data as an address that needs no network."""
    return f"data:text/csv;charset=utf-8,{quote(csv)}"


def _script_hash(script: str) -> str:
    """The one script that may run, for the page's own policy: whatever else gets into the page stays text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _chapter(number: int, story: Story, of: Mapping[str, Look], chapters: int) -> Chapter:
    summary = story.summary
    traces = summary.get("drift_traces") or []
    arms = (summary.get("setting") or {}).get("arms") or []
    trained = {arm["name"]: arm.get("budget") for arm in arms if isinstance(arm, dict) and "name" in arm}
    asked, asked_left = fitting(story.asked(), ANSWERS_CHARACTERS // chapters, lambda a: a.size)
    rows, rows_left = fitting(story.training_rows(), ROWS_CHARACTERS // chapters, lambda r: len(r.text) + 250)
    scores, spectrum = summary.get("scores"), summary.get("spectrum")
    return Chapter(
        f"r{number}",
        one_line(str(summary["title"]), 200),
        summary,
        verdict(summary, story.gates),
        tuple(judge_all(summary)),
        tuple(bars.panels(summary["rows"], of, trained, gate_limits(story.gates, summary["rows"]))),
        tuple(pictures.training(traces, of)),
        tuple(_defended(traces)),
        tuple(difference_sentence(difference) for difference in summary["differences"]),
        tuple(asked),
        asked_left,
        tuple(rows),
        rows_left,
        pictures.gradient_norms(scores) if scores else None,
        pictures.fisher_spectrum(spectrum) if spectrum else None,
        _concluded(summary),
        pictures.safety_task_plane(summary["rows"], of),
        pictures.drift_by_layer(summary.get("layers") or [], of),
        tuple(bars.elasticity_panels(summary.get("elasticity") or [], of)),
        tuple(bars.attack_panels(summary.get("attacks") or [], of)),
        bars.cost_panel(summary.get("costs") or []),
        _setting(summary.get("setting")),
    )


def _concluded(summary: Mapping[str, Any]) -> str:
    """The audit in one sentence."""
    spectrum, lines = summary.get("spectrum"), summary.get("audit") or ()
    parts = []
    if spectrum:
        above, prompts = spectrum["rank_above_edge"], spectrum.get("prompts") or len(spectrum["eigenvalues"])
        parts.append(f"Refusals sit in {above} of {prompts} directions that stand above noise")
    pull = next((line for line in lines if line["name"].startswith("first ")), None)
    if pull is not None:
        parts.append(f"the {pull['name']} pulls on them with {pull['value']} (0 would be no pull)")
    return "; ".join(parts) + ("; forecasts below rank tasks and are no nats." if parts else "")


def _defended(traces: Sequence[Mapping[str, Any]]) -> list[str]:
    """What guarded each fine-tune, and what it did."""
    found = []
    for trace in traces:
        who, did = f"{trace['arm']}, seed {trace['seed']}", []
        kept = trace.get("kept")
        if kept and kept["reasons"]:
            total, learned = sum(kept["reasons"].values()), kept["reasons"].get("kept", 0)
            left = ", ".join(f"{n} {_reason(r)}" for r, n in kept["reasons"].items() if r != "kept")
            did.append(f"the rule “{trace.get('rule')}” learned from {learned} of {total} candidates ({left})")
        if trace.get("defence"):
            did.append(f"held by “{trace['defence']}”")
        if stop := trace.get("stopped"):
            did.append(f"stopped at step {stop['step']} ({stop['reason']}), back to step {stop['restored_step']}")
        elif any(limit for name, limit in (trace.get("budget") or {}).items() if name != "then"):
            acts = [then for then in trace.get("then") or () if then]
            acted = f"acted on its budget {len(acts)} times ({', '.join(sorted(set(acts)))})"
            did.append(acted if acts else "stayed inside its budget to the end")
        found.append(f"{who}: {'; '.join(did) if did else 'nothing guarded it'}.")
    return found


def _reason(word: str) -> str:
    return REASONS.get(word, word)


def _setting(setting: Any) -> str:
    return shown(json.dumps(setting, indent=1, ensure_ascii=False), SETTING_CHARACTERS)
