"""Floor 8: the command line. One file a verb; each parses, calls and prints, and holds no science.

Knows: exit codes, how an error becomes one line on standard error.
Does not know: anything about models; torch is imported only when a verb needs it.
"""

import os
import sys
import traceback


def main() -> None:
    """Entry point of ``holdfast`` and ``python -m holdfast``."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code (design section 1)."""
    from holdfast.cli.app import build_app
    from holdfast.core.errors import EXIT_INTERNAL, EXIT_PASS, EXIT_USER, HoldfastError

    # Measured numbers must not depend on a tokenizer's thread pool; forked workers must not warn about it.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        build_app()(arguments, prog_name="holdfast")
        return EXIT_PASS
    except SystemExit as leave:  # typer's own way out: help, wrong usage, typer.Exit, Control-C
        return leave.code if isinstance(leave.code, int) else EXIT_PASS
    except HoldfastError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return error.exit_code
    except MemoryError:
        print("holdfast: out of memory; choose a smaller batch or a smaller model", file=sys.stderr)
        return EXIT_USER
    except Exception as error:
        if (code := _full_disk(error)) is not None:
            return code
        traceback.print_exc()
        print("holdfast: internal error; please report the lines above", file=sys.stderr)
        return EXIT_INTERNAL


def _full_disk(error: BaseException | None) -> int | None:
    """A full disk can surface inside any library; it is always the user's to mend."""
    import errno

    while error is not None:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            print(f"holdfast: no space left on the device ({error}); free some and run again", file=sys.stderr)
            return 2
        error = error.__cause__ or error.__context__
    return None
