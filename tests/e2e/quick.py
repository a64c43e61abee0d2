"""``custody serve`` that looks, tells, tries again and stops sooner: what tests only wait for."""

from types import ModuleType

from custody import supervisor
from custody.cli import main
from custody.keks import watch
from custody.ops import health, report
from custody.rewrap import background
from custody.sockets import site
from kek_backends import breaker, calls
from kek_backends.transit import tokens

SHORT: tuple[tuple[ModuleType, str, float], ...] = (
    (site, "_FIRST_REQUEST_SECONDS", 0.05),
    (health, "_RETRY_SECONDS", 0.1),
    (health, "_AGAIN_SECONDS", 1.0),
    (watch, "_AGAIN_SECONDS", 0.1),
    (report, "_REPORT_SECONDS", 0.1),
    (background, "_FIRST_SECONDS", 0.2),
    (supervisor, "_LOOK_SECONDS", 0.1),
    (supervisor, "_FIRST_PAUSE_SECONDS", 0.1),
    (breaker, "OPEN_SECONDS", 0.1),
    (calls, "_PAUSE_SECONDS", 0.05),
    (tokens, "_AGAIN_SECONDS", 0.1),
    (tokens, "_BETWEEN_LOGINS_SECONDS", 0.1),
)

if __name__ == "__main__":
    for module, name, seconds in SHORT:
        setattr(module, name, seconds)
    main()
