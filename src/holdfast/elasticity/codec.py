"""A lossless codec with a language model: text to bytes and back. It shows that "bits a token" are bits.

Source: elasticity.md 1.4. Every token is coded with the model's own next-token distribution, rounded to integer
counts. A text is cut into windows that begin afresh; some run side by side as lanes of one batch. Decoding must
see the distributions of encoding bit for bit, so both make the same forward passes, one token at a time, on
batches of the same shape. That takes the same machine, versions and number of threads; a checksum tells.

Knows: windows, lanes, counts, the container. Does not know: how intervals become bits (arithmetic.py).

Shapes: L lanes, V vocabulary.
"""

import struct
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core.errors import UserError
from holdfast.core.seeds import undisturbed
from holdfast.elasticity.arithmetic import Decoder, Encoder
from holdfast.models import Subject, check_length, continuation_likelihoods, prefix_id

WINDOW, LANES = 256, 16  # tokens that share a context; windows that share a batch
_MAGIC, _HEAD = b"hfc1", ">4sIHHI"
_RESOLUTION = 1 << 32  # of the counts: rounding costs V / 2^32 of a nat a token
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Coded:
    """A coded text: ``payload`` and what its decoder must know (16 bytes more in :meth:`to_bytes`)."""

    payload: bytes
    tokens: int
    window: int
    lanes: int
    check: int

    @property
    def bits(self) -> int:
        """Of the payload, whole bytes."""
        return 8 * len(self.payload)

    def to_bytes(self) -> bytes:
        """The container, as it would lie in a file."""
        return struct.pack(_HEAD, _MAGIC, self.tokens, self.window, self.lanes, self.check) + self.payload

    @classmethod
    def from_bytes(cls, data: bytes) -> "Coded":
        """Read :meth:`to_bytes`.

        Raises:
            UserError: not such a container.
        """
        size = struct.calcsize(_HEAD)
        if len(data) < size or data[:4] != _MAGIC:
            raise UserError("coded text: not what this codec writes; give a file that it wrote")
        _, tokens, window, lanes, check = struct.unpack(_HEAD, data[:size])
        return cls(data[size:], tokens, window, lanes, check)


def encode_ids(subject: Subject, ids: Sequence[int], window: int = WINDOW, lanes: int = LANES) -> Coded:
    """Code token ids; the model reads each of them once.

    Raises:
        UserError: no tokens, more than 65535 lanes or tokens a window, a window longer than the model reads.
    """
    _check(subject, len(ids), window, lanes)
    encoder = Encoder()

    def code(place: int, counts_V: Counts) -> int:
        token = ids[place]
        encoder.encode(int(counts_V[token]), int(counts_V[token + 1] - counts_V[token]), int(counts_V[-1]))
        return token

    _walk(subject, len(ids), window, lanes, code)
    return Coded(encoder.finish(), len(ids), window, lanes, _checksum(ids))


def decode_ids(subject: Subject, coded: Coded) -> list[int]:
    """The token ids that were coded, with the model that coded them.

    Raises:
        UserError: another model, machine or set of versions (the checksum differs); as :func:`encode_ids`.
    """
    _check(subject, coded.tokens, coded.window, coded.lanes)
    decoder, ids = Decoder(coded.payload), [0] * coded.tokens

    def code(place: int, counts_V: Counts) -> int:
        total = int(counts_V[-1])
        token = int(np.searchsorted(counts_V, decoder.target(total), side="right")) - 1
        decoder.consume(int(counts_V[token]), int(counts_V[token + 1] - counts_V[token]), total)
        ids[place] = token
        return token

    _walk(subject, coded.tokens, coded.window, coded.lanes, code)
    if _checksum(ids) != coded.check:
        raise UserError(
            "coded text: what was decoded is not what was coded; use the model, machine, library versions and "
            "number of threads that coded it"
        )
    return ids


def encode_text(subject: Subject, text: str, window: int = WINDOW, lanes: int = LANES) -> Coded:
    """:func:`encode_ids` of a text.

    Raises:
        UserError: no tokenizer; a text that its own tokenizer does not give back (then the codec would lose
            something); as :func:`encode_ids`.
    """
    return encode_ids(subject, lossless_ids(subject, text), window, lanes)


def decode_text(subject: Subject, coded: Coded) -> str:
    """The text that was coded; raises as :func:`decode_ids`."""
    return _text(subject, decode_ids(subject, coded))


def predicted_bits(subject: Subject, ids: Sequence[int], window: int = WINDOW, batch_size: int = LANES) -> float:
    """What the code should take: ``-log2 p`` summed over tokens, from ordinary passes over whole windows.

    It is the sum behind lm-evaluation-harness's perplexities, for documents of ``window`` tokens.
    """
    prefix = [prefix_id(subject.tokenizer)]
    pairs = [(prefix, list(ids[start : start + window])) for start in range(0, len(ids), window)]
    found = continuation_likelihoods(subject, pairs, batch_size, max_length=window)
    return float(-found.log_N.sum() / np.log(2))


def lossless_ids(subject: Subject, text: str) -> list[int]:
    """Token ids that decode to exactly ``text``; raises as :func:`encode_text`."""
    if subject.tokenizer is None:
        raise UserError("a text needs a tokenizer; give Subject(model, tokenizer) or code token ids")
    ids = list(subject.tokenizer.encode(text, add_special_tokens=False))
    back = _text(subject, ids)
    if back != text:
        place = next(
            (k for k, (a, b) in enumerate(zip(back, text, strict=False)) if a != b), min(len(back), len(text))
        )
        near = text[max(0, place - 10) : place + 10]
        raise UserError(f"text near {near!r}: its tokenizer does not give it back; leave it out or code token ids")
    return ids


def _text(subject: Subject, ids: Sequence[int]) -> str:
    assert subject.tokenizer is not None
    return str(subject.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _check(subject: Subject, tokens: int, window: int, lanes: int) -> None:
    if tokens < 1:
        raise UserError("coded text: no tokens; give some")
    if not (1 <= window < 1 << 16 and 1 <= lanes < 1 << 16):
        raise UserError(f"window {window}, lanes {lanes}: give numbers from 1 to {(1 << 16) - 1}")
    check_length(subject.model, window)


def _checksum(ids: Sequence[int]) -> int:
    return zlib.crc32(np.asarray(ids, dtype="<i8").tobytes())


def _walk(subject: Subject, tokens: int, window: int, lanes: int, code: Callable[[int, Counts], int]) -> None:
    """Run over all places in the order both sides share; ``code`` gives the token at a place."""
    starts = list(range(0, tokens, window))
    begin = prefix_id(subject.tokenizer)
    with undisturbed(subject.model):
        for first in range(0, len(starts), lanes):
            group = starts[first : first + lanes]
            steps = _counts(subject, len(group))
            next(steps)
            counts_LV = steps.send([begin] * len(group))
            for t in range(min(window, tokens - group[0])):
                # the text's last window is shorter: its lane goes on with what it began with, unread
                told = [start + t < tokens for start in group]
                ids = [
                    code(start + t, counts_V) if inside else begin
                    for start, counts_V, inside in zip(group, counts_LV, told, strict=True)
                ]
                if t + 1 < min(window, tokens - group[0]):
                    counts_LV = steps.send(ids)


def _counts(subject: Subject, lanes: int) -> Generator[NDArray[np.int64], Sequence[int], None]:
    """A coroutine: send the tokens of all lanes, get the cumulated counts (L, V + 1) of what comes next."""
    cache, read_LT = None, torch.zeros((lanes, 0), dtype=torch.long, device=subject.device)
    counts_LV = np.zeros((lanes, 0), dtype=np.int64)
    while True:
        sent = yield counts_LV
        next_L1 = torch.tensor(sent, dtype=torch.long, device=subject.device)[:, None]
        read_LT = torch.cat([read_LT, next_L1], dim=1)
        output = subject.model(
            input_ids=read_LT if cache is None else next_L1,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        cache = getattr(output, "past_key_values", None)  # a model without one reads all of it again
        counts_LV = cumulated_counts(output.logits[:, -1].double().cpu().numpy())


def cumulated_counts(logits_LV: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integer counts of every token, at least one each, cumulated: (L, V + 1), a 0 in front."""
    shifted_LV = np.exp(logits_LV - logits_LV.max(1, keepdims=True))
    share_LV = shifted_LV / shifted_LV.sum(1, keepdims=True)
    counts_LV = np.floor(share_LV * (_RESOLUTION - share_LV.shape[1])).astype(np.int64) + 1
    return np.concatenate([np.zeros((len(counts_LV), 1), dtype=np.int64), counts_LV.cumsum(1)], axis=1)
