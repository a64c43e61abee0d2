"""Keeps the measurement of coverage from hanging the interpreter.

CPython 3.11 never gets past the entry of a traced function that is called from within a pending
call while another pending call waits. coverage asks in every thread for its greenlet. So greenlet
leaves a pending call behind at the end of each of them, and in that call the greenlet's end runs a
function of coverage's weak dictionary: where many threads ended at once, a test hung for ever.
"""

import threading
from typing import Any

from coverage.collector import Collector

_NAME = "concur_id_func"


def ask_for_greenlets_in_the_main_thread_only() -> None:
    """Have coverage do so from now on: no other thread of the tests switches between greenlets."""

    def asks(collector: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            return vars(collector)[_NAME]
        return None

    def set_(collector: Any, asks: Any) -> None:
        vars(collector)[_NAME] = asks

    setattr(Collector, _NAME, property(asks, set_))
