"""Several real processes of one run."""

import socket
import subprocess
from collections.abc import Sequence


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def outputs_of(processes: Sequence[subprocess.Popen], seconds: float) -> list[str]:
    """What they print; all must end well, and none outlives this call."""
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs
