"""The command in a process of its own: absl takes the name of a flag once per process."""

import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("command.py")


def test_cases_in_a_process_of_their_own():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FILE)],
        cwd=FILE.parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
