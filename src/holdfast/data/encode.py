"""The one path from a row to an :class:`Example`: shape recognised, template applied, one BOS, answers masked.

Knows: what to do with texts and conversations, with and without a template; lengths.
Does not know: files, spellings of columns, how templates mark turns, batches, models.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from holdfast.core.errors import UserError
from holdfast.data.dialects import fit
from holdfast.data.example import BadRow, BadRowError, Example, Examples
from holdfast.data.keys import row_key, unique_names
from holdfast.data.messages import canonical_messages
from holdfast.data.shapes import normalise_row, recognise
from holdfast.data.sources import Row, read_rows, source_name
from holdfast.data.templates import Kwargs, Tools, Turns
from holdfast.data.turns import Sequenced, common_prefix, sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

TruncationMode = Literal["keep_start", "keep_end"]


def read_examples(
    source: Any,
    tokenizer: "Tokenizer | None",
    max_length: int = 1024,
    limit: int | None = None,
    skip_bad_rows: bool = False,
    prompt_column: str | None = None,
    completion_column: str | None = None,
    truncation_mode: TruncationMode = "keep_start",
    called: str = "",
) -> Examples:
    """Read, recognise, template, tokenise and mask.

    Args:
        source: whatever :func:`holdfast.data.sources.read_rows` reads.
        tokenizer: of the model that will see the examples.
        max_length: longer sequences are cut and listed in ``truncated``; where nothing is left to learn the row is
            listed in ``dropped``, as TRL drops it.
        limit: at most this many rows (a conversation trained turn by turn gives several examples).
        skip_bad_rows: count and list bad rows instead of stopping at the first.
        prompt_column: with ``completion_column``: the columns that hold prompt and answer, whatever their names.
        completion_column: see ``prompt_column``.
        called: what messages call a source that is no path.
        truncation_mode: TRL's word for the end that is kept; "keep_end" keeps rows whose prompt alone is too long.

    Raises:
        UserError: missing file, empty data set, a bad row (unless skipped), nothing left, no tokenizer.
    """
    if tokenizer is None:
        raise UserError("text needs a tokenizer; load the model with its own, or build Examples from token ids")
    if truncation_mode not in ("keep_start", "keep_end"):
        raise UserError(f"truncation_mode '{truncation_mode}': use 'keep_start' or 'keep_end'")
    bad_rows: list[BadRow] | None = [] if skip_bad_rows else None
    notes: list[str] = []
    rows = read_rows(source, limit, bad_rows, notes)
    name = called or ("" if isinstance(source, (list, tuple)) else source_name(source))
    columns = _checked_columns(rows, prompt_column, completion_column, name)
    seen = recognise((row.values for row in rows), *columns)
    work = _Work(tokenizer, max_length, columns, truncation_mode, bad_rows)
    for row in rows:
        work.add(row)
    return work.examples(name, seen.line, [*notes, *seen.notes])


def check_rows(rows: Sequence[Row], prompt: str | None, completion: str | None, skip: bool, source: str) -> None:
    """Check columns and fields, which needs no tokenizer and no model.

    Args:
        prompt, completion: columns that were named.
        skip: whether rows without the right fields are to be skipped later.

    Raises:
        UserError: a named column that is not there, the first row that is none.
    """
    columns = _checked_columns(rows, prompt, completion, source)
    for row in () if skip else rows:
        _normalised(row, columns)


def _normalised(row: Row, columns: tuple[str | None, str | None]) -> dict[str, Any]:
    try:
        return normalise_row(row.values, *columns)
    except BadRowError as error:
        raise UserError(f"{row.where}: {error}; mend the row or pass --skip-bad-rows") from None


def encode_rows(
    rows: Iterable[Mapping[str, Any] | Row], tokenizer: "Tokenizer | None", max_length: int = 1024
) -> Examples:
    """Encode rows that are already in memory; those of :func:`read_rows` keep their names in messages and ids.

    Raises:
        UserError: as :func:`read_examples`.
    """
    return read_examples(list(rows), tokenizer, max_length)


def encode_prompt(
    prompt: str | Sequence[Mapping[str, Any]],
    tokenizer: "Tokenizer",
    tools: Tools = None,
    chat_template_kwargs: Kwargs = None,
) -> list[int]:
    """Token ids of a prompt that is about to be answered (chat template with generation prompt, one BOS).

    Raises:
        UserError: the chat template refuses the prompt.
    """
    if tools and tokenizer.chat_template is None:
        raise UserError("tools need a chat template, and this tokenizer has none; leave them out")
    if isinstance(prompt, str) and tokenizer.chat_template is None:
        return _one_bos(tokenizer(prompt, add_special_tokens=False)["input_ids"], tokenizer)
    turns = (
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else canonical_messages(prompt, "prompt")
    )
    if tokenizer.chat_template is None:
        return _one_bos(_plain_turns(turns, tokenizer, generation=True)[0].ids, tokenizer)
    _, text = fit(turns, tokenizer, tools, chat_template_kwargs, generation=True)
    return _one_bos(tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer)


def _checked_columns(
    rows: Sequence[Row], prompt: str | None, completion: str | None, source: str
) -> tuple[str | None, str | None]:
    """The named columns, once it is sure that the source has them."""
    if (prompt is None) != (completion is None):
        given = f"prompt column '{prompt}'" if completion is None else f"completion column '{completion}'"
        raise UserError(f"{given} is named alone; name the prompt's and the completion's column, or neither")
    for column in (prompt, completion):
        if column is not None and not any(column in row.values for row in rows):
            names = sorted({str(name) for row in rows for name in row.values})
            raise UserError(f"{source or 'rows'}: no column '{column}'; columns are {names}")
    return prompt, completion


@dataclass
class _Work:
    """Examples in the making."""

    tokenizer: "Tokenizer"
    max_length: int
    columns: tuple[str | None, str | None]
    truncation_mode: str
    bad_rows: list[BadRow] | None
    made: list[Example] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Encode one row; a bad one is an error, or listed."""
        key = row_key(row.values)
        try:
            parts = _encode_row(normalise_row(row.values, *self.columns), self.tokenizer)
            if not any(any(part.mask[1:]) for part in parts):
                raise BadRowError("no completion token")
        except BadRowError as error:
            if self.bad_rows is None:
                raise UserError(f"{row.where}: {error}; mend the row or pass --skip-bad-rows") from None
            self.bad_rows.append(BadRow(row.where, str(error)))
            self.left_out.append(key)
            return
        own = row.values.get("id")
        name = str(own) if own not in (None, "") else f"{row.where}#{key[:8]}"
        self.remarks.update({remark for part in parts for remark in part.remarks})
        for part in parts:
            self._add_part(part, row.position, key, f"{name}/turn {part.turn}" if part.turn else name)

    def _add_part(self, part: Sequenced, position: int, key: str, name: str) -> None:
        ids, mask = part.ids, part.mask
        if len(ids) > self.max_length:
            keep = slice(-self.max_length, None) if self.truncation_mode == "keep_end" else slice(self.max_length)
            ids, mask = ids[keep], mask[keep]
            if not any(mask[1:]):
                self.dropped.append(name)
                self.left_out.append(key)
                return
            self.cut.append(len(self.made))
        if any(mask[1:]):
            start = mask.index(True)
            rest = tuple(mask[start:])
            whole = None if all(rest) else rest
            self.made.append(Example(tuple(ids[:start]), tuple(ids[start:]), name, whole, position, key))

    def examples(self, source: str, recognised: str, notes: list[str]) -> Examples:
        """What was made, with unique names and everything a reader should know.

        Raises:
            UserError: nothing was made.
        """
        if not self.made and self.dropped:
            raise UserError(
                f"{source or 'rows'}: no completion token within max_length={self.max_length} in any row; "
                "raise it, or keep the ends of rows with truncation_mode 'keep_end'"
            )
        if not self.made:
            bad = self.bad_rows or [BadRow("rows", "none")]
            raise UserError(f"{source or 'rows'}: every row is bad; first: {bad[0].where}: {bad[0].reason}")
        names, renamed = unique_names([example.id for example in self.made])
        made = [replace(example, id=name) for example, name in zip(self.made, names, strict=True)]
        notes = [*notes, *(f"{count} {remark}" for remark, count in self.remarks.items())]
        if renamed:
            notes.append(f"{renamed} rows share the id of an earlier row; they are called 'id#2', 'id#3', ...")
        truncated = [names[k] for k in self.cut]
        bad = self.bad_rows or ()
        return Examples(made, bad, truncated, source, self.dropped, recognised, notes, self.left_out)


def _encode_row(row: Mapping[str, Any], tokenizer: "Tokenizer") -> list[Sequenced]:
    """The sequences of a canonical row, each with exactly one BOS."""
    if "text" in row:
        ids = _with_eos(
            _one_bos(tokenizer(row["text"], add_special_tokens=False)["input_ids"], tokenizer), tokenizer
        )
        return [Sequenced(ids, [False] + [True] * (len(ids) - 1))]
    turns, first = row.get("messages"), 0
    if turns is None:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, str) and tokenizer.chat_template is None:
            return [_plain_pair(prompt, completion, tokenizer)]
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
            completion = [{"role": "assistant", "content": completion}]
        turns, first = [*prompt, *completion], len(prompt)
    tools, kwargs = row.get("tools"), row.get("chat_template_kwargs")
    if tokenizer.chat_template is not None:
        parts = sequences(turns, tokenizer, tools, kwargs, first)
    elif tools:
        raise BadRowError("'tools' need a chat template, and this tokenizer has none")
    else:
        parts = _plain_turns(turns, tokenizer, first_scored=first)
    return [_with_one_bos(part, tokenizer) for part in parts]


def _plain_pair(prompt: str, completion: str, tokenizer: "Tokenizer") -> Sequenced:
    """Prompt and completion as one text, tokenised once; the completion begins where the prompt's tokens end."""
    prompt_ids = _one_bos(tokenizer(prompt, add_special_tokens=False)["input_ids"], tokenizer)
    ids = _one_bos(tokenizer(prompt + completion, add_special_tokens=False)["input_ids"], tokenizer)
    start = common_prefix(prompt_ids, ids)
    ids = _with_eos(ids, tokenizer)
    return Sequenced(ids, [k >= start for k in range(len(ids))])


def _plain_turns(
    turns: Turns, tokenizer: "Tokenizer", generation: bool = False, first_scored: int = 0
) -> list[Sequenced]:
    """A model without a chat template: 'role: content' lines, EOS after each assistant turn."""
    pieces: list[tuple[str, bool]] = [("", False)]
    for number, turn in enumerate(turns):
        if "content" not in turn:
            raise BadRowError(f"turn {number}: tool calls need a chat template, and this tokenizer has none")
        answer = turn["role"] == "assistant"
        head = ("\n" if number else "") + f"{turn['role']}: "
        if answer:
            end = tokenizer.eos_token or ""
            scored = number >= first_scored and turn.get("weight") != 0
            pieces[-1] = (pieces[-1][0] + head, False)
            pieces += [(turn["content"] + end, scored), ("", False)]
        else:
            pieces[-1] = (pieces[-1][0] + head + turn["content"], False)
    if generation:
        pieces[-1] = (pieces[-1][0] + "\nassistant: ", False)
    ids: list[int] = []
    mask: list[bool] = []
    for text, scored in pieces:
        piece = (
            _continued(text, tokenizer) if ids else list(tokenizer(text, add_special_tokens=False)["input_ids"])
        )
        ids += piece
        mask += [scored] * len(piece)
    return [Sequenced(ids, mask)]


def _continued(text: str, tokenizer: "Tokenizer") -> list[int]:
    """Tokens of a text that follows another: without the blank that some tokenizers put before a first word."""
    anchor = tokenizer("\n", add_special_tokens=False)["input_ids"]
    ids = list(tokenizer("\n" + text, add_special_tokens=False)["input_ids"])
    return ids[common_prefix(anchor, ids) :]


def _with_one_bos(part: Sequenced, tokenizer: "Tokenizer") -> Sequenced:
    ids = _one_bos(part.ids, tokenizer)
    shift = len(ids) - len(part.ids)
    return replace(part, ids=ids, mask=[False] * shift + part.mask if shift >= 0 else part.mask[-shift:])


def _one_bos(ids: Sequence[int], tokenizer: "Tokenizer") -> list[int]:
    """Exactly one BOS for tokenizers that have one, whether or not the template wrote it."""
    ids, bos = list(ids), _single_id(tokenizer.bos_token_id)
    if bos is None or not _adds_bos(tokenizer):
        return ids
    while len(ids) > 1 and ids[0] == bos and ids[1] == bos:
        ids = ids[1:]
    return ids if ids and ids[0] == bos else [bos, *ids]


def _adds_bos(tokenizer: "Tokenizer") -> bool:
    """Some tokenizers name a BOS that their models never saw first (Qwen): follow what the tokenizer does."""
    if tokenizer.chat_template is not None and "bos_token" in str(tokenizer.chat_template):
        return True
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def _single_id(value: Any) -> int | None:
    return int(value) if isinstance(value, int) else None


def _with_eos(ids: Sequence[int], tokenizer: "Tokenizer") -> list[int]:
    eos = _single_id(tokenizer.eos_token_id)
    return list(ids) if eos is None or (ids and ids[-1] == eos) else [*ids, eos]
