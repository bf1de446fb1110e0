"""Floor 8: the command line. One file a verb; each parses, calls and prints, and holds no science.

Knows: exit codes, how an error becomes one line on standard error.
Does not know: anything about models; torch is imported only when a verb needs it.
"""

import os
import sys
import traceback


def main() -> None:
    """Entry point of ``holdfast`` and ``python -m holdfast``."""
    from holdfast.cli.endings import end_like_control_c

    end_like_control_c()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code (design section 1)."""
    from holdfast.cli.app import build_app
    from holdfast.cli.endings import StoppedError, say, users_error
    from holdfast.core.errors import EXIT_INTERNAL, EXIT_PASS, HoldfastError

    # Measured numbers must not depend on a tokenizer's thread pool; forked workers must not warn about it.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        build_app()(arguments, prog_name="holdfast")
        return EXIT_PASS
    except SystemExit as leave:  # typer's own way out: help, wrong usage, typer.Exit
        return leave.code if isinstance(leave.code, int) else EXIT_PASS
    except KeyboardInterrupt:
        return say(StoppedError("stopped"))
    except HoldfastError as error:
        return say(error)
    except Exception as error:
        if (known := users_error(error)) is not None:
            return say(known)
        traceback.print_exc()
        print("holdfast: internal error; please report the lines above", file=sys.stderr)
        return EXIT_INTERNAL
