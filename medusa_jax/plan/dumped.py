"""Compiled programs with their text, which JAX cannot always read back from the compiler."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Program:
    """What `build` asks of a `jax.stages.Compiled`.

    Attributes:
      compiled: the program.
      text: its optimized HLO.
    """

    compiled: Any
    text: str

    def as_text(self) -> str:
        """The optimized HLO."""
        return self.text

    def memory_analysis(self) -> Any:
        """As that of `jax.stages.Compiled`."""
        return self.compiled.memory_analysis()


def compile_with_text(lowered: Any) -> Program:
    """Compiles; where JAX fails to read the program, its text is from the compiler's own dump.

    jaxlib 0.10 has stricter rules for asynchronous instructions than what libtpu 0.0.52 makes of
    large training steps ("async-update instruction should have 1 operands but sees 4").

    Args:
      lowered: a `jax.stages.Lowered`.
    """
    with tempfile.TemporaryDirectory(prefix="medusa-") as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = lowered.compile(compiler_options=options)
        try:
            text = compiled.as_text()
        except jax.errors.JaxRuntimeError as error:
            dumps = sorted(Path(folder).glob("*.after_codegen.txt"), key=lambda x: x.stat().st_size)
            if "RET_CHECK" not in str(error) or not dumps:
                raise
            text = dumps[-1].read_text(encoding="utf-8")
    return Program(compiled, text)
