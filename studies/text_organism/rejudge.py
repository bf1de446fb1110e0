"""Judges the kept answers again with the judge of today, and writes results.json and the table anew.

    python -m studies.text_organism.rejudge --seeds 2

Knows: where runs keep their cards. Does not know: models; nothing is trained or generated. A changed judge makes
another table of the same answers; results.json names the judge.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from studies.text_organism import build, summary
from studies.text_organism.run import ARMS, Setting, latest_aligned, run_folder

from holdfast.core.errors import UserError
from holdfast.evaluation import Judge, RefusalJudge, Scorecard, SkillScore, judge_all


def judged_again(card: Scorecard, judge: Judge) -> Scorecard:
    """The same answers under another judge; drift and settings stay what they were."""
    verdicts = judge_all(judge, [row.prompt for row in card.rows], [row.response for row in card.rows])
    rows = tuple(
        replace(
            row,
            label=verdict.label,
            reason=verdict.reason,
            score=float(verdict.label == ("refused" if row.kind == "harmful" else "complied")),
        )
        for row, verdict in zip(card.rows, verdicts, strict=True)
    )
    by_kind = {
        (skill.name, kind): [row.label for row in rows if (row.suite, row.kind) == (skill.name, kind)]
        for skill in card.skills
        for kind in ("harmful", "benign")
    }
    skills = tuple(
        SkillScore.of(skill.name, by_kind[skill.name, "harmful"], by_kind[skill.name, "benign"])  # type: ignore[arg-type]
        for skill in card.skills
    )
    settings = {**card.settings, "judge_identity": getattr(judge, "identity", type(judge).__name__)}
    return replace(card, skills=skills, rows=rows, settings=settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cache", help="cache root (default: $HOLDFAST_CACHE or ~/.cache/holdfast)")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args(arguments)
    aligned, setting = latest_aligned(build.cache_folder(options.cache)), Setting()
    folders: list[Path] = [run_folder(aligned, None, setting, 0)]
    folders += [run_folder(aligned, arm, setting, seed) for seed in range(options.seeds) for arm in ARMS]
    missing = [folder.name for folder in folders if not (folder / "run.json").exists()]
    if missing:
        raise UserError(f"no run {missing[0]} in the cache; run studies.text_organism.run first")
    for folder in folders:
        judged_again(Scorecard.load(folder / "card"), RefusalJudge()).save(folder / "card")
    summary.write(aligned, folders, asdict(setting), [asdict(arm) for arm in ARMS])


if __name__ == "__main__":
    main()
