"""What tells that files have changed."""

import json

from medusa_jax.io.stamp import stamp


def test_a_folder_changes_with_its_files(tmp_path):
    (tmp_path / "inner").mkdir()
    weights = tmp_path / "inner" / "x.safetensors"
    weights.write_bytes(b"1234")
    before = stamp(tmp_path)
    assert stamp(tmp_path) == before == json.loads(json.dumps(before))
    of_file = stamp(weights)
    weights.write_bytes(b"12345")
    assert stamp(tmp_path) != before
    assert stamp(weights) != of_file
    assert [own[:2] for own in stamp(tmp_path)[1:]] == [["inner/x.safetensors", 5]]
    assert [own[:2] for own in stamp(weights)[1:]] == [["x.safetensors", 5]]


def test_files_of_other_kinds_and_in_other_folders_do_not_count(tmp_path):
    (tmp_path / "inner.bin").mkdir()
    for name in ("inner.bin/a.bin", "b.bin", "c.txt"):
        (tmp_path / name).write_bytes(b"1")
    assert [own[0] for own in stamp(tmp_path, (".bin",))[1:]] == ["b.bin"]
    assert [own[0] for own in stamp(tmp_path / "c.txt", (".bin",))[1:]] == ["c.txt"]


def test_what_is_missing_has_a_name_alone(tmp_path):
    assert stamp(tmp_path / "none") == [str((tmp_path / "none").resolve())]
