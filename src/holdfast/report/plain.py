"""Untrusted text made harmless to look at: what a model or a file says must not steer a page or a terminal.

Knows: controls, direction marks, length. Does not know: HTML (the template escapes), terminals.
"""

LIMIT = 2000  # characters of one answer; the whole stands in the run folder
_FINE = "\n\t\u200c\u200d"  # the joiners are part of words and emoji
_MARK = "⟨{}⟩"


def shown(text: str, limit: int = LIMIT) -> str:
    """``text`` without anything that acts: controls and direction marks are named, what is too long is cut.

    Args:
        limit: characters that stay.
    """
    cut = text[:limit]
    safe = "".join(
        c if c.isprintable() or c in _FINE or _space(c) else _MARK.format(f"U+{ord(c):04X}") for c in cut
    )
    more = len(text) - limit
    return f"{safe} … and {more:,} more characters" if more > 0 else safe


def one_line(text: str, limit: int = LIMIT) -> str:
    """The same in one line."""
    return shown(" ".join(text[: 4 * limit].split()), limit)


def _space(character: str) -> bool:
    return character.isspace() and character not in "\x0b\x0c\x1c\x1d\x1e\x1f\x85\r\u2028\u2029"
