"""Arithmetic coding with integers only: symbols to bits and back, exactly.

Source: Witten, Neal and Cleary 1987. What is coded takes ``log2(total / count)`` bits, and the whole message at
most two more. Knows: intervals of integers. Does not know: where counts come from.
"""

_BITS = 62
_TOP, _HALF, _QUARTER = 1 << _BITS, 1 << (_BITS - 1), 1 << (_BITS - 2)
LARGEST_TOTAL = 1 << 40  # intervals are then at least 2^20 wide a count: rounding them costs no bit worth counting


class Encoder:
    """Give it symbols by their interval of counts; :meth:`finish` gives the bytes."""

    def __init__(self) -> None:
        self._low, self._high, self._pending = 0, _TOP - 1, 0
        self._bits: list[int] = []

    def encode(self, below: int, count: int, total: int) -> None:
        """Code the symbol that takes ``below <= x < below + count`` of ``total``."""
        width = self._high - self._low + 1
        self._high = self._low + width * (below + count) // total - 1
        self._low = self._low + width * below // total
        while True:
            if self._high < _HALF:
                self._emit(0)
            elif self._low >= _HALF:
                self._emit(1)
                self._low, self._high = self._low - _HALF, self._high - _HALF
            elif self._low >= _QUARTER and self._high < 3 * _QUARTER:
                self._pending += 1
                self._low, self._high = self._low - _QUARTER, self._high - _QUARTER
            else:
                return
            self._low, self._high = 2 * self._low, 2 * self._high + 1

    def _emit(self, bit: int) -> None:
        self._bits += [bit, *([1 - bit] * self._pending)]
        self._pending = 0

    def finish(self) -> bytes:
        """The message, filled up to whole bytes with zeros."""
        self._pending += 1
        self._emit(0 if self._low < _QUARTER else 1)
        bits = self._bits + [0] * (-len(self._bits) % 8)
        return bytes(int("".join(map(str, bits[k : k + 8])), 2) for k in range(0, len(bits), 8))


class Decoder:
    """The inverse: ask :meth:`target` for a place in the counts, find its symbol, and :meth:`consume` it."""

    def __init__(self, message: bytes) -> None:
        self._message, self._read = message, 0
        self._low: int = 0
        self._high: int = _TOP - 1
        self._code: int = 0
        for _ in range(_BITS):
            self._code = 2 * self._code + self._bit()

    def _bit(self) -> int:
        byte, self._read = self._read // 8, self._read + 1
        return (self._message[byte] >> (7 - (self._read - 1) % 8)) & 1 if byte < len(self._message) else 0

    def target(self, total: int) -> int:
        """The next symbol is the one whose interval holds this number below ``total``."""
        return ((self._code - self._low + 1) * total - 1) // (self._high - self._low + 1)

    def consume(self, below: int, count: int, total: int) -> None:
        """Go on past the symbol, as :meth:`Encoder.encode` did."""
        width = self._high - self._low + 1
        self._high = self._low + width * (below + count) // total - 1
        self._low = self._low + width * below // total
        while True:
            if self._high < _HALF:
                less = 0
            elif self._low >= _HALF:
                less = _HALF
            elif self._low >= _QUARTER and self._high < 3 * _QUARTER:
                less = _QUARTER
            else:
                return
            self._low, self._high = 2 * (self._low - less), 2 * (self._high - less) + 1
            self._code = 2 * (self._code - less) + self._bit()
