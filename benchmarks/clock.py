"""How long a call takes."""

from __future__ import annotations

import time
from collections.abc import Callable


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    """Of one call: by default the processor time of this thread, on which other work on the machine weighs little."""
    start = clock()
    run()
    return clock() - start
