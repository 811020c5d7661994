"""The process of one run of a comparison: `splitft run JOB --resume`, which stops when its input ends.

The parent holds the other end of its standard input. Closing it, or dying, interrupts the run as Ctrl-C
would, so that no run goes on alone.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading

from splitft.launch.cli import main


def _interrupt_at_the_end_of_input() -> None:
    while os.read(0, 1024):
        pass
    _thread.interrupt_main()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell may have it ignored
    threading.Thread(target=_interrupt_at_the_end_of_input, daemon=True).start()
    sys.argv = ["splitft", "run", "--resume", *sys.argv[1:]]  # from the checkpoint, if there is one
    main()
