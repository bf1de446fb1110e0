"""Nothing half-written, whatever goes wrong."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch

from holdfast.core import files
from holdfast.core.errors import UserError


def test_a_full_disk_leaves_no_file_and_says_so(tmp_path, monkeypatch):
    def full(self, *_args, **_kwargs):
        with open(self, "w") as stream:
            stream.write("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"out\.json: no space left"):
        files.write_json(tmp_path / "out.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "value.json"
    files.write_json(target, {"a": 1})
    with pytest.raises(RuntimeError), files.replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert files.read_json(target) == {"a": 1}
    assert os.listdir(tmp_path) == ["value.json"]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "run") as temporary:
        (temporary / "part").write_text("x")
        raise RuntimeError("killed")
    assert list(tmp_path.iterdir()) == []
    with files.new_folder(tmp_path / "run") as temporary:
        (temporary / "part").write_text("x")
    assert (tmp_path / "run" / "part").read_text() == "x"


def test_a_folder_with_content_is_refused(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="not empty"), files.new_folder(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(UserError, match="not writable"):
            files.write_text(tmp_path / "a", "x")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_safetensors_report_a_full_disk_only_in_words(tmp_path):
    with pytest.raises(UserError, match="no space left"), files.new_folder(tmp_path / "adapter"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_tensors_survive_bit_for_bit(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5)}
    files.write_tensors(tmp_path / "t.safetensors", tensors)
    read = files.read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(tensors[name], read[name]) for name in tensors)


def test_missing_and_wrong_files_are_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        files.read_json(tmp_path / "bad.json")
    (tmp_path / "bad.safetensors").write_text("{")
    with pytest.raises(UserError, match="not a safetensors file"):
        files.read_tensors(tmp_path / "bad.safetensors")


def test_json_hash_ignores_key_order_and_nan_becomes_null(tmp_path):
    assert files.hash_json({"a": 1, "b": 2}) == files.hash_json({"b": 2, "a": 1})
    files.write_json(tmp_path / "n.json", {"x": float("nan")})
    assert files.read_json(tmp_path / "n.json") == {"x": None}
