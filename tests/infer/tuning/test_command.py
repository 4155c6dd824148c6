"""The command in a process of its own: absl takes the name of a flag once per process."""

import os
import subprocess
import sys
from pathlib import Path

from tests.commands import PROGRAMS

FILE = Path(__file__).with_name("command.py")


def test_cases_in_a_process_of_their_own(program_folder):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FILE)],
        cwd=FILE.parents[3],
        env=os.environ | {PROGRAMS: str(program_folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
