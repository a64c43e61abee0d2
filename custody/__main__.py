"""``python -m custody`` and the command ``custody``."""

from custody.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
