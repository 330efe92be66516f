"""Notice that the process that started this one is gone; a killed parent tells its children nothing."""

import os
import threading
import time
from collections.abc import Callable

EVERY = 0.5  # seconds


def when_orphaned(call: Callable[[], object]) -> None:
    """Call once, from a thread of its own, when this process's parent has died."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY)
        call()

    threading.Thread(target=watch, daemon=True).start()
