from pathlib import Path

import pytest

from medusa_jax.io.cache import cache_dir


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        ("/a/b", "/c", "/a/b"),
        (None, "/c", "/c/medusa_jax"),
        ("", "/c", "/c/medusa_jax"),
        (None, None, "/home/x/.cache/medusa_jax"),
        (None, "", "/home/x/.cache/medusa_jax"),
        ("~/d", None, "/home/x/d"),
    ],
)
def test_own_variable_then_xdg_then_home(monkeypatch, own, shared, expected):
    monkeypatch.setenv("HOME", "/home/x")
    for name, value in (("MEDUSA_JAX_CACHE", own), ("XDG_CACHE_HOME", shared)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)
