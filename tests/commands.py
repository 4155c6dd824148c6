"""Runs many command lines of a module in one process, as importing jax costs seconds.

`python -m tests.commands MODULE`: JSON in, a list of lists of arguments; JSON out, what each did.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from absl import flags
from absl.testing import flagsaver

ROOT = Path(__file__).resolve().parents[1]
# Names, for tests in a process that a test has started, the folder of that test's programs.
PROGRAMS = "MEDUSA_JAX_TESTS_PROGRAMS"
_QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS"


def quick(without: tuple[str, ...] = ()) -> dict[str, str]:
    """Environment of a command that compiles quickly.

    Args:
      without: how variables begin that it is not told.
    """
    rest = {name: x for name, x in os.environ.items() if not name.startswith(without)}
    return rest | {"JAX_PLATFORMS": "cpu", _QUICK: "true"}


def ordinary() -> dict[str, str]:
    """Environment of a command that compiles as it does for users."""
    return {name: x for name, x in os.environ.items() if name != _QUICK}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int | None
    out: str
    err: str


def run_one(argv: Sequence[str], command: Callable[[], object]) -> dict:
    """What a command, such as `infer.generate.run`, would exit with and print."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    sys.argv = [command.__module__, *argv]
    # Keys of a configuration that an earlier command line has set are flags of their own.
    flags.FLAGS.unparse_flags()
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    with (
        flagsaver.flagsaver(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            command()
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def run_many(
    module: str,
    commands: Sequence[Sequence[str]],
    environment: Mapping[str, str],
    cwd: Path = ROOT,
) -> list[Result]:
    """What each of `python -m MODULE ARGUMENTS` would do, in one process for all."""
    paths = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.commands", module],
        cwd=cwd,
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=900,
    )
    # Whatever bypasses Python's stderr, such as XLA's log, shows up here.
    assert (done.returncode, done.stderr) == (0, "")
    return [Result(**result) for result in json.loads(done.stdout)]


if __name__ == "__main__":
    run = importlib.import_module(sys.argv[1]).run
    results = [run_one(argv, run) for argv in json.load(sys.stdin)]
    json.dump(results, sys.stdout)
