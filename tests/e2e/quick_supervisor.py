"""``custody serve`` whose supervisor is less patient with a process that gives no sign of life."""

from custody import supervisor
from custody.cli import main

LIFE_SECONDS = 6.0

if __name__ == "__main__":
    supervisor._LIFE_SECONDS = LIFE_SECONDS
    main()
