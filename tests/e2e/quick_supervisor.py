"""``custody serve`` whose supervisor is less patient with a process that sends no watchdog ping."""

from custody import supervisor
from custody.cli import main

LIFE_SECONDS = 6.0

if __name__ == "__main__":
    supervisor._LIFE_SECONDS = LIFE_SECONDS
    main()
