"""One of the two processes of test_two_process_training.py: `train.main`, stopped once, and again.

Arguments: those of `python -m train.main`. Process 1 gets SIGTERM in step 4.
"""

import os
import signal

import jax

from train import main
from train.metrics import MetricsWriter

_WRITE = MetricsWriter.write


def write_and_signal(self: MetricsWriter, row: dict) -> None:
    _WRITE(self, row)
    if jax.process_index() == 1 and row["step"] == 4:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    MetricsWriter.write = write_and_signal
    try:
        main.run()
    except SystemExit as end:
        if end.code:
            raise
    MetricsWriter.write = _WRITE
    print("again", flush=True)
    main.main([])
