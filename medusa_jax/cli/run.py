"""What all command lines share: help, the compilation cache, errors in one line and exit codes."""

import errno
import io
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax
from absl import flags, logging

from medusa_jax.cli.config import explain
from medusa_jax.cli.console import drop, show_warning
from medusa_jax.errors import UserError, is_out_of_memory
from medusa_jax.io.cache import cache_dir
from medusa_jax.paths import user_path
from medusa_jax.tpu import quiet_libtpu

_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder for compiled programs, kept between runs; 'none' disables it. Default: 'compiled' in "
    "the user's cache folder.",
)
_HELP = flags.DEFINE_boolean("help", False, "Show this help and exit.", short_name="h")


def setup_compilation_cache() -> None:
    """Keeps every compiled program on disk, however fast it compiled.

    Raises:
      UserError: the folder that the user named cannot be written.
    """
    if _CACHE.value == "none":
        return
    folder = user_path(_CACHE.value) if _CACHE.value else cache_dir() / "compiled"
    if not _is_writable(folder):
        if _CACHE.value:
            raise UserError(
                f"cannot write compiled programs to {folder}: name another folder with "
                "--compilation_cache, or 'none'"
            )
        return  # a read-only home is no reason to fail: compile every time
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def run_main(main: Callable[[list[str]], None]) -> NoReturn:
    """Parses flags, runs main and exits; `app.run` would print usage and tracebacks instead.

    Exit codes: 0; 2 and one line on stderr for a `UserError`, a wrong flag, a device or disk that
    is full, or a device that is not there; 130 for Ctrl-C; 141 when nobody reads stdout any more.
    Warnings are shown as notes on stderr, a line each.
    """
    quiet_libtpu()
    _open_closed_streams()
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        code = _run(main)
    sys.exit(code)


def _open_closed_streams() -> None:
    """A stream that was closed (`>&-`) is None in Python."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


def _run(main: Callable[[list[str]], None]) -> int:
    try:
        argv = _parse(sys.argv)
        if _HELP.value:
            print(_help_text(main.__module__))
        elif len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: see --help")
        else:
            main(argv)
        sys.stdout.flush()
    except (UserError, flags.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (RuntimeError, AssertionError) as error:
        problem = _about_devices(error)
        if problem is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        drop(sys.stdout)
        return 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        drop(sys.stdout)
        print(f"error: cannot write ({error.strerror}): make room", file=sys.stderr)
        return 2
    return 0


def _about_devices(error: Exception) -> str | None:
    """What to say of devices that are full or cannot be had; None if the error is another one."""
    if isinstance(error, jax.errors.JaxRuntimeError) and is_out_of_memory(error):
        return _no_memory(error)
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    if "initialize backend" in str(error) or raised_in.endswith("xla_bridge.py"):
        reason = " ".join(str(error).partition(" (set JAX_PLATFORMS")[0].split())
        wanted = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"JAX cannot use the devices that JAX_PLATFORMS={wanted} asks for"
            f"{f' ({reason})' if reason else ''}: install jax for them, free them, or unset it"
        )
    return None


def _no_memory(error: Exception) -> str:
    size = re.search(r"allocat\w+ (?:of )?([\d.]+ ?[KMGT]i?B|\d+ bytes)", str(error))
    wanted = f" for {size[1]} more" if size else ""
    return (
        f"the device has no memory left{wanted}: smaller batches, shorter contexts, 8 bits or a "
        "mesh of several devices take less; python -m infer.plan and python -m train.plan say "
        "beforehand what fits"
    )


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except Exception as error:  # a configuration file is code and may raise anything
        raise UserError(explain(argv, error)) from error


def _help_text(module: str) -> str:
    """The module's docstring and flags, in the order in which they are defined."""
    name = sys.argv[0] if module == "__main__" else module
    own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(name)}
    ordered = [name for name in flags.FLAGS if name in own]
    entries = [_flag_help(flags.FLAGS[name]) for name in (*ordered, _CACHE.name)]
    return "\n".join([(sys.modules[module].__doc__ or "").rstrip(), "", "Flags:", *entries])


def _flag_help(flag: flags.Flag) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    # absl itself writes an enum's values before the text, and a note after a repeatable flag's.
    text = (flag.help or "").partition(";\n")[0]
    if flag.default not in (None, False, []):
        default = flag.default if not isinstance(flag.default, list) else ",".join(flag.default)
        text += f" Default: {default}."
    return f"  {name}\n" + textwrap.indent(textwrap.fill(text, 84), " " * 6)
