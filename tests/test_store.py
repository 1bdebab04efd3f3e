"""The store over real files, and the task that saves what a machine has changed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from imsalg import store as module
from imsalg.kept import Changes
from imsalg.store import Keeping, SqliteStore, StoreError

HOLDER = """
import sys
from imsalg.store import SqliteStore
store = SqliteStore(sys.argv[1])
store.save(False, {"a": b"1"})
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "made" / "proxy.db")


def test_what_was_saved_is_there_when_it_is_opened_again(path: str) -> None:
    store = SqliteStore(path)
    store.save(False, {"a": b"1", "b": b"2", "c": b"3"})
    store.save(False, {"a": b"4", "b": None, "none": None})
    store.close()
    store = SqliteStore(path)
    assert sorted(store.load()) == [b"3", b"4"]
    store.save(True, {"d": b"5"})
    assert store.load() == [b"5"]
    store.close()


def test_its_files_are_for_their_owner_only(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).touch(0o644)
    store = SqliteStore(path)
    store.save(False, {"a": b"1"})
    files = list(Path(path).parent.iterdir())
    assert len(files) >= 2  # the write-ahead log as well
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    store.close()


def test_what_a_killed_process_had_saved_is_there_and_its_lock_is_not(path: str) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=-1, stdout=-1, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=r"another process has it open; \[store\] path must be of one proxy"):
        SqliteStore(path)
    holder.kill()
    holder.communicate()
    store = SqliteStore(path)
    assert store.load() == [b"1"]
    store.close()


def test_a_file_that_is_no_database_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "proxy.db"
    file.write_bytes(b"something else entirely " * 100)
    with pytest.raises(StoreError, match=f"{file}: file is not a database; move it away"):
        SqliteStore(str(file))
    assert file.read_bytes().startswith(b"something else")


def test_a_database_that_is_broken_is_named(path: str) -> None:
    store = SqliteStore(path)
    store.save(False, {f"key {i}": os.urandom(1000) for i in range(100)})
    store.close()
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    with pytest.raises(StoreError, match="malformed; move it away"):
        SqliteStore(path).load()


def test_a_database_of_something_else_is_not_touched(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE record (mine TEXT)")
    other.close()
    with pytest.raises(StoreError, match="it is a database of something else"):
        SqliteStore(path)


def test_a_directory_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"in .*/file/proxy.db: "):
        SqliteStore(str(tmp_path / "file" / "proxy.db"))
    with pytest.raises(StoreError, match="Is a directory"):
        SqliteStore(str(tmp_path))


def test_records_of_another_schema_are_dropped_and_that_is_told(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(path)
    store.save(False, {"a": b"1"})
    store.close()
    monkeypatch.setattr(module, "SCHEMA", module.SCHEMA + 1)
    store = SqliteStore(path)
    assert store.load() == []
    assert "another version" in caplog.text
    store.close()


class Machine:
    """Has what a test says to store."""

    def __init__(self) -> None:
        self.waiting: dict[str, bytes | None] = {}
        self.failed = 0

    @property
    def has_to_store(self) -> bool:
        return bool(self.waiting)

    def to_store(self, epoch: float) -> Changes:
        waiting, self.waiting = self.waiting, {}
        return Changes(bool(self.failed), waiting)

    def store_failed(self) -> None:
        self.failed += 1
        self.waiting = {"all": b"of it"}


def test_changes_are_saved_together_and_the_last_ones_when_it_is_closed(path: str) -> None:
    machine = Machine()

    async def run() -> list[bytes]:
        store = SqliteStore(path)
        keeping = Keeping(machine, store)
        for i in range(100):
            machine.waiting[f"{i}"] = b"1"
            keeping.wake()
        assert keeping.behind
        while keeping.behind:
            await asyncio.sleep(0.001)
        assert len(store.load()) == 100
        machine.waiting["last"] = b"2"
        assert keeping.behind
        await keeping.close()
        keeping.wake()
        store = SqliteStore(path)
        found = store.load()
        store.close()
        return found

    assert sorted(asyncio.run(run())) == [*[b"1"] * 100, b"2"]


def test_a_full_disk_is_told_once_and_everything_is_saved_when_there_is_room_again(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    machine = Machine()

    async def run() -> list[bytes]:
        store = SqliteStore(path)
        store._database.execute("PRAGMA max_page_count = 4")
        keeping = Keeping(machine, store)
        machine.waiting["much"] = os.urandom(100_000)
        keeping.wake()
        store.save(False, {"before": b"1"})
        while machine.failed < 1:
            await asyncio.sleep(0.001)
        machine.waiting["much"] = os.urandom(100_000)
        while machine.failed < 2:
            await asyncio.sleep(0.001)
        assert keeping.failing
        assert keeping.failures == 2
        store._database.execute("PRAGMA max_page_count = 100000")
        while keeping.failing:
            await asyncio.sleep(0.001)
        found = store.load()
        await keeping.close()
        return found

    assert asyncio.run(run()) == [b"of it"]
    assert [record.message for record in caplog.records if "disk is full" in record.message] == [
        f"cannot keep registrations and calls in {path}: database or disk is full; going on without, and"
        " trying again every 0 s"
    ]
