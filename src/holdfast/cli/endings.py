"""How a command ends when it does not end well: one line on standard error, and the exit code.

Knows: interruptions, closed pipes, files that cannot be used, a full disk. Does not know: any verb.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from holdfast.core.errors import HoldfastError, UserError

EXIT_STOPPED = 130
EXIT_PIPE = 141  # as the shell says of a program whose reader went away
_USERS = {
    errno.EACCES: "may not be read or written by you",
    errno.EPERM: "may not be read or written by you",
    errno.EROFS: "stands on a disk that is read only",
    errno.ENOENT: "no such file or folder",
    errno.EISDIR: "is a folder, and a file is needed",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "exists already",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ELOOP: "a link that leads back to itself",
    errno.EMFILE: "too many files are open",
}


class StoppedError(HoldfastError):
    """Control-C, or a request to end."""

    exit_code = EXIT_STOPPED


class PipeClosedError(HoldfastError):
    """Nobody reads what is printed any more."""

    exit_code = EXIT_PIPE


@contextlib.contextmanager
def ending(words: str) -> Iterator[None]:
    """Turn what interrupts a verb into an error of ours, so that typer lets it through.

    Args:
        words: said when the verb is stopped.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise StoppedError(words) from None
    except BrokenPipeError:
        raise PipeClosedError("") from None
    except SystemExit as leave:
        if isinstance(leave.__context__, BrokenPipeError):  # rich's own way out
            raise PipeClosedError("") from None
        raise


def say(error: HoldfastError) -> int:
    """Print an error of ours and return its exit code."""
    if isinstance(error, PipeClosedError):
        # What is still to be flushed at exit goes nowhere, without a word.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        print(f"holdfast: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code


def users_error(error: BaseException) -> UserError | None:
    """What the user can mend, however deep in a library it came to light; None for everything else."""
    chain: BaseException | None = error
    while chain is not None:
        number = getattr(chain, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(chain):
            return UserError(f"no space left on the device ({chain}); free some and run again")
        if isinstance(chain, MemoryError) or type(chain).__name__ == "OutOfMemoryError" or _allocation(chain):
            return UserError(
                "out of memory; take fewer rows at once (--batch-size, --micro-batch), shorter ones "
                "(--max-length), a lighter --dtype or a smaller model"
            )
        chain = chain.__cause__ or chain.__context__
    if isinstance(error, OSError) and error.filename is not None and error.errno in _USERS:
        return UserError(f"{error.filename}: {_USERS[error.errno]}; check the path")
    if isinstance(error, UnicodeDecodeError):
        return UserError(
            f"a file that was read is not {error.encoding} text ({error.reason}); convert it to UTF-8"
        )
    return None


def _allocation(error: BaseException) -> bool:
    """Torch's failed allocation, on a CPU a plain RuntimeError."""
    return isinstance(error, RuntimeError) and "alloc" in str(error) and "memory" in str(error)


def end_like_control_c() -> None:
    """Let a polite request to end (SIGTERM) be what Control-C is: cleaned up, and to be continued."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
