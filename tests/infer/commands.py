"""Runs many command lines in one process, as importing jax costs seconds: JSON in, JSON out."""

import contextlib
import io
import json
import sys
import traceback
from collections.abc import Callable

from absl.testing import flagsaver

from infer import generate


def run_one(argv: list[str], command: Callable[[], object] = generate.run) -> dict:
    """What a command, by default `python -m infer.generate`, would exit with and print."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    sys.argv = ["generate", *argv]
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


if __name__ == "__main__":
    results = [run_one(argv) for argv in json.load(sys.stdin)]
    json.dump(results, sys.stdout)
