import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from haba_hf.utils.files import (
    atomic_directory,
    atomic_file,
    check_free_disk,
    check_writable,
    locked,
    remove_leftovers,
)
from tiny import files_of_at_most


def tree(folder):
    """Everything below a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def raise_error(error):
    def function(*args, **kwargs):
        raise error

    return function


def cannot_write(path, reason=".*", kind=OSError):
    return pytest.raises(kind, match=f"Cannot write {path}: {reason}Nothing was changed there")


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_appears_whole(tmp_path, kind):
    path = tmp_path / "runs" / "one" / "results.json"
    with atomic_file(kind(path)) as aside:
        aside.write_text("new")
        assert aside.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "new"
    with atomic_file(kind(path)) as aside:
        aside.write_text("newer")
        assert path.read_text() == "new"
    assert path.read_text() == "newer"
    assert tree(tmp_path) == ["runs", "runs/one", "runs/one/results.json"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), RuntimeError("mine")])
@pytest.mark.parametrize("exists", [False, True])
def test_an_error_leaves_the_file_as_it_was(tmp_path, error, exists):
    path = tmp_path / "results.json"
    if exists:
        path.write_text("old")
    with pytest.raises(type(error)) as raised, atomic_file(path) as aside:
        aside.write_text("half")
        raise error
    assert raised.value is error
    assert tree(tmp_path) == (["results.json"] if exists else [])
    assert not exists or path.read_text() == "old"


def test_a_full_disk_while_writing_a_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    with cannot_write(path) as raised, files_of_at_most(1000), atomic_file(path) as aside:
        aside.write_bytes(b"0" * 5000)
    assert raised.value.errno == errno.EFBIG
    with cannot_write(path, ".*File too large.*"), files_of_at_most(1000), atomic_file(path) as aside:
        save_file({"expert": torch.zeros(5000)}, aside)
    assert path.read_text() == "old"
    assert tree(tmp_path) == ["results.json"]


def test_no_space_for_the_final_name(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", raise_error(OSError(errno.ENOSPC, "No space left on device")))
    with cannot_write(path, "No space left on device. ") as raised, atomic_file(path) as aside:
        aside.write_text("new")
    assert raised.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert tree(tmp_path) == ["results.json"]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_parent_that_is_a_file(tmp_path, depth):
    (tmp_path / "runs").write_text("a file")
    path = tmp_path / "runs" / "/".join(["x"] * depth)
    for atomic in (atomic_file, atomic_directory):
        with cannot_write(path, f".*{tmp_path / 'runs'}.*"), atomic(path):
            raise AssertionError("entered")
    with cannot_write(path / ".writable", f".*{tmp_path / 'runs'}.*"):
        check_writable(path)
    assert (tmp_path / "runs").read_text() == "a file"
    assert tree(tmp_path) == ["runs"]


def test_a_folder_without_permission(tmp_path, monkeypatch):
    path = tmp_path / "runs" / "out"
    monkeypatch.setattr(Path, "mkdir", raise_error(PermissionError(errno.EACCES, "Permission denied", str(tmp_path))))
    for write in (lambda: atomic_file(path).__enter__(), lambda: atomic_directory(path).__enter__()):
        with cannot_write(path, f"Permission denied .{tmp_path}.. ", PermissionError):
            write()
    with cannot_write(path / ".writable", "Permission denied.*", PermissionError):
        check_writable(path)
    assert tree(tmp_path) == []


def test_a_file_does_not_replace_a_directory(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "kept").write_text("old")
    with cannot_write(path), atomic_file(path) as aside:
        aside.write_text("new")
    assert tree(tmp_path) == ["out", "out/kept"]


def test_nothing_written_is_an_error(tmp_path):
    with cannot_write(tmp_path / "out", "No such file.*"), atomic_file(tmp_path / "out"):
        pass
    assert tree(tmp_path) == []


# ------------------------------------------------------------------------------------------------------- directories


def old_directory(path):
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "old").write_text("old")
    return path


OLD_TREE = ["out", "out/sub", "out/sub/old"]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_directory_appears_whole(tmp_path, kind):
    path = tmp_path / "runs" / "artifact"
    with atomic_directory(kind(path)) as aside:
        (aside / "weights").write_text("new")
        (aside / "sub").mkdir()
        assert aside.parent == path.parent
        assert not path.exists()
    assert tree(tmp_path) == ["runs", "runs/artifact", "runs/artifact/sub", "runs/artifact/weights"]
    assert path.stat().st_mode & 0o777 == 0o755  # others may read it, unlike a temporary directory


def test_a_directory_is_replaced_and_its_old_files_go(tmp_path):
    path = old_directory(tmp_path / "out")
    with atomic_directory(path) as aside:
        (aside / "new").write_text("new")
        assert tree(aside) == ["new"]
        assert (path / "sub" / "old").read_text() == "old"
    assert tree(tmp_path) == ["out", "out/new"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [False, True])
def test_an_error_leaves_the_directory_as_it_was(tmp_path, error, exists):
    path = tmp_path / "out"
    if exists:
        old_directory(path)
    with pytest.raises(type(error)) as raised, atomic_directory(path) as aside:
        (aside / "new").write_text("half")
        raise error
    assert raised.value is error
    assert tree(tmp_path) == (OLD_TREE if exists else [])


def test_a_full_disk_while_filling_a_directory(tmp_path):
    path = old_directory(tmp_path / "out")
    for write in (
        lambda aside: (aside / "state").write_bytes(b"0" * 5000),
        lambda aside: save_file({"bases": torch.zeros(5000)}, aside / "model.safetensors"),
    ):
        with cannot_write(path, ".*File too large.*"), files_of_at_most(1000), atomic_directory(path) as aside:
            write(aside)
        assert tree(tmp_path) == OLD_TREE


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_while_exchanging_puts_the_old_directory_back(tmp_path, monkeypatch, failing):
    path = old_directory(tmp_path / "out")
    calls, replace = [], os.replace

    def replace_or_fail(*args):
        calls.append(args)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*args)

    monkeypatch.setattr(os, "replace", replace_or_fail)
    with cannot_write(path, "No space left on device. "), atomic_directory(path) as aside:
        (aside / "new").write_text("new")
    assert tree(tmp_path) == OLD_TREE
    assert (path / "sub" / "old").read_text() == "old"


def test_a_directory_does_not_replace_a_file(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")
    with cannot_write(path, "Not a directory. ", NotADirectoryError), atomic_directory(path):
        raise AssertionError("entered")
    assert path.read_text() == "old"
    assert tree(tmp_path) == ["out"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_link_stays_a_link(tmp_path, exists):
    target, link = tmp_path / "big_disk" / "out", tmp_path / "out"
    target.parent.mkdir()
    link.symlink_to(target)
    if exists:
        old_directory(target)
    with atomic_directory(link) as aside:
        (aside / "new").write_text("new")
    assert link.is_symlink()
    assert tree(target) == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big_disk", "out"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]


# ---------------------------------------------------------------------------------------------------- check_writable


def test_check_writable_leaves_only_the_directory(tmp_path):
    check_writable(tmp_path / "runs" / "out")
    check_writable(str(tmp_path / "runs" / "out"))
    assert tree(tmp_path) == ["runs", "runs/out"]


def test_check_writable_finds_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", raise_error(OSError(errno.ENOSPC, "No space left on device")))
    with cannot_write(tmp_path / ".writable", "No space left on device. "):
        check_writable(tmp_path)
    assert tree(tmp_path) == []


def test_what_a_disk_has_no_room_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * 10**9))
    check_free_disk(tmp_path, 2 * 10**9, "the pixels", "make them smaller")
    says = rf"the pixels take 2\.5 GB and 2\.0 GB are free in {tmp_path}; make them smaller"
    with pytest.raises(OSError, match=says):
        check_free_disk(tmp_path, 25 * 10**8, "the pixels", "make them smaller")


# --- runs that were killed, and runs that meet -----------------------------------------------------------------------


def a_dead_process():
    """A process number that no process has."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_what_a_killed_process_left_is_removed_when_its_target_is_written(tmp_path):
    dead, alive = a_dead_process(), os.getppid()
    (tmp_path / f".x.json.{dead}.tmp").write_text("half")
    (tmp_path / f".x.json.{alive}.tmp").write_text("another process is writing this")
    (tmp_path / f".y.{dead}.abc.tmp").mkdir()
    (tmp_path / ".mine.tmp").write_text("a user's")
    with atomic_file(tmp_path / "x.json") as aside:
        aside.write_text("whole")
    assert tree(tmp_path) == sorted([f".x.json.{alive}.tmp", f".y.{dead}.abc.tmp", ".mine.tmp", "x.json"])
    with atomic_directory(tmp_path / "y"):
        pass
    assert tree(tmp_path) == sorted([f".x.json.{alive}.tmp", ".mine.tmp", "x.json", "y"])


def test_a_folder_that_was_about_to_be_replaced_comes_back(tmp_path):
    dead = a_dead_process()
    for name in ("gone", "there"):
        (tmp_path / f".{name}.{dead}.abc.old").mkdir()
        (tmp_path / f".{name}.{dead}.abc.old" / "content").write_text("old")
    (tmp_path / "there").mkdir()
    remove_leftovers(tmp_path)
    assert tree(tmp_path) == ["gone", "gone/content", "there"]
    remove_leftovers(tmp_path / "nowhere")


def test_a_folder_is_locked_for_one_run(tmp_path):
    held = "import sys, time\nfrom haba_hf.utils.files import locked\n"
    held += "with locked(sys.argv[1]):\n    print(flush=True)\n    time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", held, tmp_path / "run"], stdout=subprocess.PIPE)
    other.stdout.readline()
    with (
        pytest.raises(OSError, match=r"Another run is writing to .*run: wait for it, stop it, or choose"),
        locked(tmp_path / "run"),
    ):
        raise AssertionError("two runs")
    other.kill()
    other.wait()
    with locked(tmp_path / "run"):
        assert tree(tmp_path) == ["run", "run/.lock"]
    assert tree(tmp_path) == ["run"]
