"""Runs, in a process of their own, the tests that import a command into their process.

Commands define flags of the same names, and absl takes each name once per process: no other test
of the same process could import another command.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.commands import PROGRAMS

FOLDER = Path(__file__).with_name("in_process")
ROOT = Path(__file__).resolve().parents[2]


def test_cases_in_a_process_of_their_own(program_folder):
    files = sorted(str(file) for file in FOLDER.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env=os.environ | {PROGRAMS: str(program_folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert len(files) == 6
