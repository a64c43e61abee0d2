"""``python -m custody`` and the command ``custody``.

Most of a command's first second is imports. Nothing that takes time is imported here, so that a
Ctrl-C in that second ends a command as a later one does: with 130, and without a traceback.
"""

import signal
import sys

__all__ = ["main"]

# As a shell has it for a process that SIGINT ended.
_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    try:
        from custody.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    finally:
        # From here on nothing is left to be put in order: the interpreter's own end has no use for
        # an exception.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
