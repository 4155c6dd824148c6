"""Paths as users write them."""

from pathlib import Path

from medusa_jax.paths import user_path


def test_the_home_folder_is_found_and_nobodys_is_left_alone(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/a") == Path("/somewhere/a")
    assert user_path("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")
    assert user_path("a/~b") == Path("a/~b")
