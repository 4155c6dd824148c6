"""What every command line shares: the compilation cache, and errors in one line with exit code 2."""

import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from medusa_jax.errors import UserError
from medusa_jax.io.cache import cache_dir

_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder of compiled programs, kept between runs; 'none' disables it. Default: the user's "
    "cache folder.",
)


def setup_compilation_cache() -> None:
    """Keeps every compiled program on disk, however fast it compiled."""
    if _CACHE.value == "none":
        return
    folder = _CACHE.value or str(cache_dir() / "compiled")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def run_main(main: Callable[[list[str]], None]) -> None:
    """Parses flags and runs main; a `UserError` or a wrong flag ends in one line and exit code 2."""

    def guarded(argv: list[str]) -> None:
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected argument {argv[1]!r}: see --help")
            main(argv)
        except UserError as error:
            sys.exit(_report(error))

    logging.set_verbosity(logging.WARNING)
    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(argv))
    except flags.Error as error:
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
