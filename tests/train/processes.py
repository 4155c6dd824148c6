"""Several real processes of one run."""

import socket
import subprocess
from collections.abc import Sequence


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def ends_of(processes: Sequence[subprocess.Popen], seconds: float) -> list[tuple[int, str]]:
    """Their exit codes and what they print; none outlives this call."""
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, out) for process, out in zip(processes, outputs, strict=True)]


def outputs_of(processes: Sequence[subprocess.Popen], seconds: float) -> list[str]:
    """What they print; all must end well, and none outlives this call."""
    ends = ends_of(processes, seconds)
    for code, output in ends:
        assert code == 0, output
    return [output for _, output in ends]
