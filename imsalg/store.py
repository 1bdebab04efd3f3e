"""Where the records of the core are kept over a restart: a small interface, and SQLite behind it.

`Keeping` joins a core and a store: DELAY after something has changed, one transaction has all that changed.
One save is under way at a time, in a thread; what changes meanwhile waits in the core, which forgets its keys
for "everything" when they become too many. So nothing here grows, whatever the disk does. What a `kill -9`
costs is what the last DELAY brought; what the power costs is a little more, as commits are not synced one by
one (WAL with synchronous=NORMAL never leaves a broken file).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from imsalg.kept import Changes
from imsalg.records import SCHEMA

DELAY = 0.02  # seconds from a change to the transaction that has it
RETRY = 10.0  # seconds after a save that failed
BUSY = 1.0  # seconds that another process may hold the file, such as the one we replace
APPLICATION = 0x696D7361  # "imsa": what SQLite writes into the file's head

log = logging.getLogger(__name__)


class StoreError(OSError):
    """What is stored cannot be read or written; the text says where, why, and what to do."""


class Store(Protocol):
    """Records by key. Raises StoreError."""

    def load(self) -> list[bytes]: ...

    def save(self, whole: bool, records: Mapping[str, bytes | None]) -> None:
        """All of it or nothing. None: the key goes. whole: all other keys go as well."""

    def close(self) -> None: ...


class SqliteStore:
    """One file, for one process at a time, and for its owner's eyes only: records have keys in them."""

    def __init__(self, path: str) -> None:
        """Opens or creates the file, and its directory. Raises StoreError."""
        self._path = path
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), 0o700, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(file, 0o600)  # SQLite gives its other files the same
            finally:
                os.close(file)
        except OSError as error:
            raise self._error(error.strerror or str(error)) from None
        self._database = sqlite3.connect(path, BUSY, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._database.close()
            raise self._error(_reason(error)) from None
        except StoreError:
            self._database.close()
            raise

    def load(self) -> list[bytes]:
        try:
            # in a damaged file it may be a text
            rows = self._database.execute("SELECT CAST(value AS BLOB) FROM record")
            return [value for (value,) in rows]
        except sqlite3.Error as error:
            raise self._error(_reason(error)) from None

    def save(self, whole: bool, records: Mapping[str, bytes | None]) -> None:
        run = self._database.execute
        try:
            run("BEGIN IMMEDIATE")
            if whole:
                run("DELETE FROM record")
            self._database.executemany(
                "INSERT OR REPLACE INTO record VALUES (?, ?)",
                [(key, value) for key, value in records.items() if value is not None],
            )
            self._database.executemany(
                "DELETE FROM record WHERE key = ?",
                [(key,) for key, value in records.items() if value is None],
            )
            run("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                run("ROLLBACK")
            raise self._error(_reason(error)) from None

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()

    def _prepare(self) -> None:
        run = self._database.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("PRAGMA secure_delete = ON")  # no keys of calls that are over
        run("BEGIN IMMEDIATE")
        (application,) = run("PRAGMA application_id").fetchone()
        (schema,) = run("PRAGMA user_version").fetchone()
        (tables,) = run("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and application != APPLICATION:
            raise self._error("it is a database of something else")
        run("CREATE TABLE IF NOT EXISTS record (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        if tables and schema != SCHEMA:
            run("DELETE FROM record")
            log.warning(
                "%s was written by another version (schema %d, here %d): nothing of it is restored, phones"
                " have to register again",
                self._path,
                schema,
                SCHEMA,
            )
        run(f"PRAGMA application_id = {APPLICATION}")
        run(f"PRAGMA user_version = {SCHEMA}")
        run("COMMIT")

    def _error(self, reason: str) -> StoreError:
        return StoreError(f"cannot keep registrations and calls in {self._path}: {reason}")


class Machine(Protocol):
    """What has something to store; see `core`."""

    @property
    def has_to_store(self) -> bool: ...
    def to_store(self, epoch: float) -> Changes: ...
    def store_failed(self) -> None: ...


class Keeping:
    """Call `wake` after whatever may have changed the machine. failures: saves that failed."""

    def __init__(self, machine: Machine, store: Store) -> None:
        self.failures = 0
        self.failing = ""
        """Why nothing is stored at present; "" if all is well."""
        self._machine = machine
        self._store = store
        self._thread = ThreadPoolExecutor(1, "store")
        self._saving: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def behind(self) -> bool:
        """Whether something has changed that is not stored yet."""
        return self._saving is not None or self._machine.has_to_store

    def wake(self) -> None:
        if self._saving is None and not self._closed and self._machine.has_to_store:
            self._saving = asyncio.create_task(self._save_soon(RETRY if self.failing else DELAY))

    async def close(self) -> None:
        """Saves what is left."""
        self._closed = True
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)
        if self._machine.has_to_store:
            await self._save()
        self._thread.shutdown()
        self._store.close()

    async def _save_soon(self, delay: float) -> None:
        await asyncio.sleep(delay)
        await asyncio.shield(self._save())
        self._saving = None
        self.wake()

    async def _save(self) -> None:
        changes = self._machine.to_store(epoch())
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._store.save, changes.whole, changes.records)
        except StoreError as error:
            if not self.failing:
                log.error("%s; going on without, and trying again every %.0f s", error, RETRY)
            self.failures += 1
            self.failing = str(error)
            self._machine.store_failed()
        else:
            if self.failing:
                log.info("registrations and calls are kept again")
            self.failing = ""


def epoch() -> float:
    """What the wall clock shows at zero of the monotonic clock."""
    return time.time() - time.monotonic()


def _reason(error: sqlite3.Error) -> str:
    """SQLite's words, and what to do about it."""
    match getattr(error, "sqlite_errorname", "").split("_")[1:2]:
        case ["BUSY" | "LOCKED"]:
            return "another process has it open; [store] path must be of one proxy only"
        case ["NOTADB" | "CORRUPT"]:
            return f"{error}; move it away, and phones will have to register again"
        case ["READONLY"]:
            return f"{error}; it and its directory must be writable"
        case _:
            return str(error)
