"""The bar of a re-wrap run says a pace only once there is one."""

import io

from rich.console import Console

from custody.cli.commands.progress import new_bar
from tests.clock import Clock


def test_two_batches_at_once_are_no_rate() -> None:
    clock, out = Clock(100.0), io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    bar = new_bar(console, clock)
    task = bar.add_task("to env-v2", total=100_000)

    def drawn() -> str:
        out.truncate(0)
        console.print(bar.get_renderable())
        return out.getvalue()

    bar.update(task, completed=500)
    clock.now += 0.001
    bar.update(task, completed=1000)
    assert "1000/100000" in drawn()
    assert "rows/s" not in drawn()
    assert "0:00:" not in drawn()
    clock.now += 1.999
    bar.update(task, completed=2500)
    assert "1000 rows/s" in drawn()
    assert "0:01:38" in drawn()
