"""The errors a user sees, and the exit code each one ends in.

Knows: exit codes of the command line (design section 1).
Does not know: how an error is printed (that is the command line's work).
"""

EXIT_PASS = 0
EXIT_INTERNAL = 1
EXIT_USER = 2
EXIT_FAILED = 3
EXIT_UNDECIDED = 4


class HoldfastError(Exception):
    """Base of every error that holdfast raises on purpose."""

    exit_code = EXIT_INTERNAL


class UserError(HoldfastError):
    """Something the user can mend: usage, data, a missing file, a full disk.

    The message names the thing, the value and the way out, in one line:
    ``train.jsonl line 17: no 'completion' or 'messages' field; add one or pass --skip-bad-rows``.
    """

    exit_code = EXIT_USER
