"""Scoring a data set too long for one sitting: batch by batch, shard by shard, from wherever the last run stopped.

Knows: the loop, what to do when a batch does not fit, how shards become a table.
Does not know: how a batch is scored (that is a function it is given), file formats.

Shapes: N samples, of a batch, a shard or the data set.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np

from holdfast.core.errors import UserError
from holdfast.core.progress import bar
from holdfast.data import Example, collate
from holdfast.gradients.directions import Directions
from holdfast.gradients.ghost import Reduction
from holdfast.gradients.memory import automatic_max_tokens, is_out_of_memory, release
from holdfast.gradients.norms import scope_of
from holdfast.gradients.offline import identity
from holdfast.gradients.offline.engine import ScoreBatch, by_group, default_score_batch
from holdfast.gradients.offline.plan import SHARD_BATCHES, halved, make_plan, with_smaller_batches
from holdfast.gradients.offline.shards import Rows, WorkFolder, recorded, remove_work
from holdfast.gradients.offline.summary import ScoreSummary, summarise
from holdfast.gradients.proxies import PROXIES, proxy_batch
from holdfast.gradients.scores import ScoreTable, source_columns
from holdfast.models import Subject

log = logging.getLogger(__name__)

MaxTokens = int | Literal["auto"]


class ScoringOptions(TypedDict, total=False):
    """The options of :func:`score_examples`."""

    reduction: Reduction
    max_tokens: MaxTokens
    groups: bool
    dataset: str | Sequence[str] | None
    strict: bool
    proxy: str
    seed: int
    progress: bool
    score_batch: ScoreBatch | None
    shard_batches: int
    directions: Directions | None


def score_to_parquet(
    subject: Subject,
    examples: Sequence[Example],
    out: str | Path,
    fresh: bool = False,
    **options: Unpack[ScoringOptions],
) -> tuple[ScoreTable, ScoreSummary]:
    """Score ``examples`` into ``out``, with a summary beside it; killed and called again, it continues.

    Args:
        subject: model and scope.
        examples: what to score.
        out: the Parquet file. An older one is replaced at the end. Finished shards wait in :func:`work_folder`,
            which is then removed.
        fresh: forget what an interrupted run finished.
        options: see :func:`score_examples`.

    Raises:
        UserError: as :func:`score_examples`; ``out`` is a folder.
    """
    out = Path(out)
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the name of a file, such as {out / 'scores.parquet'}")
    folder = work_folder(out)
    if fresh:
        remove_work(folder)
    table = score_examples(subject, examples, folder, **options)
    summary = summarise(table, subject, recorded(folder))
    table.to_parquet(out)
    summary.save(summary_path(out))
    remove_work(folder)
    return table, summary


def work_folder(out: str | Path) -> Path:
    """Where the shards of a table wait."""
    return Path(f"{out}.shards")


def summary_path(out: str | Path) -> Path:
    """Where the summary of a table lies: ``scores.parquet.json``, for ``scores.json`` could be anyone's."""
    return Path(f"{out}.json")


def score_examples(
    subject: Subject,
    examples: Sequence[Example],
    folder: str | Path,
    *,
    reduction: Reduction = "mean",
    max_tokens: MaxTokens = "auto",
    groups: bool = False,
    dataset: str | Sequence[str] | None = None,
    strict: bool = False,
    proxy: str = "full",
    seed: int = 0,
    progress: bool = True,
    score_batch: ScoreBatch | None = None,
    shard_batches: int = SHARD_BATCHES,
    directions: Directions | None = None,
) -> ScoreTable:
    """L2 norm of each sample's loss gradient over the scope, resumable at every shard.

    Args:
        subject: model and scope; nothing about it is changed.
        examples: what to score.
        folder: plan and finished shards. A run that finds its own ones there continues; they are left there.
        reduction: "mean" over a sample's completion tokens, or "sum".
        max_tokens: padded tokens of a batch; "auto" from the sizes of model and machine. It falls when memory
            runs out. A continued run keeps the batches of its plan, except that an explicit smaller number
            holds for what is not finished.
        groups: also squared norms by group of parameters (:func:`group_of`).
        dataset: name of the data set, one for all samples or one each.
        strict: an error instead of a slower exact path where the engine's fast one cannot go.
        proxy: what stands in for the norm (:func:`holdfast.gradients.proxies.proxy_batch`).
        seed: of the proxies that draw something.
        progress: show a bar with tokens/s when it takes over two seconds.
        score_batch: how a batch is scored, instead of the engine.
        shard_batches: batches to a shard.
        directions: what else the engine's pass compares each gradient with, a column each.

    Returns:
        A table in the order of ``examples``; samples without completion tokens get NaN and never see the model.

    Raises:
        UserError: ``folder`` belongs to a run with another model, scope, data or options; a single sample does
            not fit into memory; full disk.

    Source: selection.md 3.8. On a CPU the same bytes as an uninterrupted run's at the same number of threads.
    """
    names = _names(dataset, len(examples))
    lengths = [len(example.input_ids) for example in examples]
    if proxy not in PROXIES:  # before a work folder is opened for it
        raise UserError(f"proxy '{proxy}': unknown; use one of {', '.join(PROXIES)}")
    if proxy != "full" and groups:
        raise UserError(f"proxy '{proxy}': has no groups of parameters; leave --groups out")
    if directions is not None and (proxy != "full" or score_batch is not None):
        raise UserError(f"proxy '{proxy}': has no gradient to compare with directions; leave one of them out")
    drawn = f"{proxy}, seed {seed}" if proxy in ("lora", "random") else proxy
    known = directions.made_of if directions is not None else None
    fingerprint = identity.fingerprint(subject, examples, reduction, groups, drawn, known)
    work = _open(Path(folder), subject, lengths, fingerprint, max_tokens, shard_batches)
    if score_batch is None and proxy != "full":
        score_batch = proxy_batch(subject, proxy, reduction, seed, strict)
    trees = directions.trees if directions is not None else ()
    score = score_batch or default_score_batch(subject, reduction, groups, strict, trees)
    rows = _Loop(work, examples, lengths, subject.pad_id, score, directions).run(progress)
    origin = {"proxy": proxy, "scope": scope_of(subject), "model": fingerprint["model"]}
    return replace(_table(examples, rows, reduction, names), **origin, **source_columns(examples))


def _open(
    folder: Path,
    subject: Subject,
    lengths: list[int],
    fingerprint: dict[str, Any],
    max_tokens: MaxTokens,
    shard_batches: int,
) -> WorkFolder:
    if max_tokens != "auto" and max_tokens < 1:
        raise UserError(f"max_tokens {max_tokens}: give at least 1, or 'auto'")
    wanted = automatic_max_tokens(subject, max(lengths, default=1)) if max_tokens == "auto" else max_tokens
    work = WorkFolder.open(
        folder, fingerprint, identity.machine(subject), lambda: make_plan(lengths, wanted, shard_batches)
    )
    if max_tokens != "auto" and max_tokens < work.plan.max_tokens:
        # Who was killed for memory by the system, not by torch, comes back with a smaller number.
        waiting = [shard for shard in range(len(work.plan.shards)) if not work.shard_path(shard).exists()]
        start = work.plan.start(waiting[0]) if waiting else len(lengths)
        work.keep(with_smaller_batches(work.plan, lengths, max_tokens, start))
    return work


@dataclass(frozen=True)
class _Loop:
    work: WorkFolder
    examples: Sequence[Example]
    lengths: list[int]
    pad_id: int
    score: ScoreBatch
    directions: Directions | None = None

    def run(self, progress: bool) -> list[Rows]:
        """All shards: those found are read, the others scored and written."""
        shards = range(len(self.work.plan.shards))
        found = {shard: rows for shard in shards if (rows := self.work.read(shard)) is not None}
        done = self._tokens([k for shard in found for k in self.work.plan.positions(shard)])
        with bar("scoring", sum(self.lengths), progress, unit="tokens", done=done) as advance:
            for shard in shards:
                if shard not in found:
                    found[shard] = self._shard(shard, advance)
                    self.work.write(shard, found[shard])
        return [found[shard] for shard in shards]

    def _tokens(self, positions: Sequence[int]) -> int:
        return sum(self.lengths[position] for position in positions)

    def _shard(self, shard: int, advance: Callable[[float], None]) -> Rows:
        parts: list[Rows] = []
        done = self.work.plan.start(shard)
        # The plan is asked batch by batch, for it changes when one does not fit.
        while batch := self.work.plan.batch_from(shard, done):
            rows = self._attempt(batch)
            if rows is None:
                self._back_off(batch, done)
                continue
            parts.append(rows)
            done += len(batch)
            advance(self._tokens(batch))
        return _joined(parts)

    def _attempt(self, batch: Sequence[int]) -> Rows | None:
        """Scores of a batch; None when memory ran out. The exception, and what it holds, ends in here."""
        kept = [position for position in batch if self.examples[position].completion_tokens]
        try:
            scored = (
                self.score(collate([self.examples[k] for k in kept], self.pad_id, index=kept)) if kept else None
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        norm_N, loss_N = np.full((2, len(batch)), np.nan)
        tokens_N = np.zeros(len(batch), dtype=np.int64)
        squares: dict[str, np.ndarray] = {}
        compared: dict[str, np.ndarray] = {}
        if scored is not None:
            at = [row for row, position in enumerate(batch) if self.examples[position].completion_tokens]
            norm_N[at], loss_N[at], tokens_N[at] = (
                column.double().numpy() if column.is_floating_point() else column.numpy()
                for column in (scored.norm_N, scored.loss_N, scored.tokens_N)
            )
            for group, square_N in by_group(scored.squares).items():
                squares[group] = np.full(len(batch), np.nan)
                squares[group][at] = square_N.double().numpy()
            if self.directions is not None and scored.dots_NK is not None:
                for name, value_N in self.directions.columns(scored.dots_NK.numpy(), norm_N[at]).items():
                    compared[name] = np.full(len(batch), np.nan)
                    compared[name][at] = value_N
        return Rows(np.asarray(batch, dtype=np.int64), norm_N, loss_N, tokens_N, squares, compared)

    def _back_off(self, batch: Sequence[int], done: int) -> None:
        release()
        longest = self.examples[batch[0]]
        if len(batch) == 1:
            raise UserError(
                f"sample {batch[0]} ('{longest.id}', {len(longest.input_ids)} tokens): does not fit into memory "
                "even alone; cut long rows with --max-length, choose a smaller --scope or a lighter --dtype, "
                "or score it on a larger machine"
            )
        fewer = halved(self.lengths, batch)
        log.warning(
            "out of memory with %d samples of up to %d tokens: going on with at most %d tokens a batch",
            len(batch), self.lengths[batch[0]], fewer,
        )  # fmt: skip
        self.work.keep(with_smaller_batches(self.work.plan, self.lengths, fewer, done))


def _joined(parts: Sequence[Rows]) -> Rows:
    def side_by_side(columns: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        # Samples without completion tokens may fill a part, which then knows of no groups.
        gaps = [np.full(len(part.position_N), np.nan) for part in parts]
        return {
            name: np.concatenate([column.get(name, gap) for column, gap in zip(columns, gaps, strict=True)])
            for name in dict.fromkeys(name for column in columns for name in column)
        }

    return Rows(
        np.concatenate([part.position_N for part in parts]),
        np.concatenate([part.norm_N for part in parts]),
        np.concatenate([part.loss_N for part in parts]),
        np.concatenate([part.tokens_N for part in parts]),
        side_by_side([part.squares for part in parts]),
        side_by_side([part.directions for part in parts]),
    )


def _table(
    examples: Sequence[Example], shards: Sequence[Rows], reduction: Reduction, names: tuple[str, ...] | None
) -> ScoreTable:
    ids = tuple(example.id for example in examples)
    prompts = np.array([len(example.prompt_ids) for example in examples], dtype=np.int64)
    if not shards:
        empty = np.zeros(0)
        return ScoreTable(ids, empty, empty, prompts, reduction, names, prompts)
    rows = _joined(shards)
    order = np.argsort(rows.position_N)
    compared: dict[str, Any] = {name: value_N[order] for name, value_N in rows.directions.items()}
    return ScoreTable(
        ids,
        rows.norm_N[order],
        rows.loss_N[order],
        rows.tokens_N[order],
        reduction,
        names,
        prompts,
        {group: square_N[order] for group, square_N in rows.squares.items()},
        **compared,
    )


def _names(dataset: str | Sequence[str] | None, n: int) -> tuple[str, ...] | None:
    if dataset is None:
        return None
    names = (dataset,) * n if isinstance(dataset, str) else tuple(dataset)
    if len(names) != n:
        raise UserError(f"dataset: {len(names)} names for {n} examples; give one name, or one for each")
    return names
