"""A program's text, read back by JAX or, where that fails, from the compiler's own dump."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from medusa_jax.plan.dumped import compile_with_text


def failing(message, dumped=()):
    """A program that cannot be read, and what its compiler has written; and where."""
    folders = []

    def compile(compiler_options):
        folders.append(Path(compiler_options["xla_dump_to"]))
        for name, text in dumped:
            (folders[0] / name).write_text(text)
        return SimpleNamespace(as_text=as_text, memory_analysis=lambda: "memory")

    def as_text():
        raise jax.errors.JaxRuntimeError(message)

    return SimpleNamespace(compile=compile), folders


def test_the_text_is_that_of_jax():
    lowered = jax.jit(jnp.sin).lower(jnp.ones(3))
    program = compile_with_text(lowered)
    assert program.as_text() == lowered.compile().as_text()
    assert program.memory_analysis().argument_size_in_bytes == 12


def test_what_jax_cannot_read_is_read_from_the_dump():
    files = [("a.after_codegen.txt", "small"), ("b.after_codegen.txt", "the program"), ("c", "-")]
    lowered, folders = failing("INTERNAL: RET_CHECK failure: arity", files)
    program = compile_with_text(lowered)
    assert program.as_text() == "the program"
    assert program.memory_analysis() == "memory"
    assert not folders[0].exists()


@pytest.mark.parametrize("message", ["RET_CHECK failure", "another error"])
def test_other_failures_stay_what_they_are(message):
    files = [("a.after_codegen.txt", "text")] if message == "another error" else []
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        compile_with_text(failing(message, files)[0])
