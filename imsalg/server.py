"""The proxy as a process: the core, the SIP shell around it, the connection to the gateway, the status
socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import secrets
import signal
import time

import msgspec

from agw.iq.client import Client
from agw.iq.messages import ErrorReply, Hello, Notice, Reply
from imsalg.config import AccessConfig, CoreConfig, GatewayConfig, ProxyConfig
from imsalg.core import Core
from imsalg.names import Answer
from imsalg.sip.grammar import printable
from imsalg.sip.locate import Question
from imsalg.store import Keeping, SqliteStore, epoch
from imsalg.transport.connection import ConnectionLimits
from imsalg.transport.listener import Listener
from imsalg.transport.nameservers import Nameservers
from imsalg.transport.shell import Shell
from imsalg.transport.tls import Credentials, TlsFiles

COLLECT = 300.0  # seconds between two looks for garbage, each of which stops everything
FEW, MANY = 100_000, 10_000_000  # objects that came and stayed: not worth a look; not to be waited with
MAX_READERS = 16  # of the status at a time
READING = 10.0  # seconds in which one must have read it
FAREWELL = 2.0  # seconds for the BYEs and releases of a shutdown

log = logging.getLogger(__name__)


class Proxy:
    """`start`, then `close`; both once. For a process of its own there is `serve`.

    core: its registrations and calls, for those who run it in their own process.
    """

    def __init__(self, config: ProxyConfig) -> None:
        self.core = Core(config, random.SystemRandom())
        self._config = config
        limits = config.limits
        self._shell = Shell(
            self.core,
            _listeners(config),
            limits=ConnectionLimits(
                limits.connections,
                limits.connections_per_source,
                limits.connection_idle,
                limits.handshake,
                limits.write_buffer,
                limits.write_buffers,
            ),
            also_drain=self._drain,
            judge=self.core,
        )
        self._iq = Client(
            config.gateway.iq,
            name=config.name,
            incarnation=secrets.token_hex(8),
            claims=self.core.claims,
            on_up=self._gateway_up,
            on_down=self._gateway_down,
            on_message=self._gateway_message,
            tls=Credentials(gateway).client if (gateway := _files(config.gateway)) else None,
        )
        self._nameservers = Nameservers(config.core.nameservers, self._dns_answer)
        self._iq_task: asyncio.Task[None] | None = None
        self._status: asyncio.Server | None = None
        self._readers = 0  # of the status
        self._keeping: Keeping | None = None

    async def start(self) -> None:
        """Raises OSError when the store, an address or the status socket cannot be had."""
        if path := self._config.store.path:
            store = SqliteStore(path)
            self.core.restore(store.load(), time.monotonic(), epoch())
            self._keeping = Keeping(self.core, store)
        try:
            await self._start()
        except OSError:
            if self._keeping is not None:
                await self._keeping.close()
            raise

    async def _start(self) -> None:
        await self._shell.start()
        if path := self._config.status.socket:
            try:
                self._status = await asyncio.start_unix_server(self._tell_status, path)
            except OSError as error:
                await self._shell.close()
                missing = isinstance(error, FileNotFoundError)
                why = "its directory is not there; make it first" if missing else error.strerror or error
                raise OSError(error.errno, f"cannot listen on {path}: {why}") from None
        self._iq_task = asyncio.create_task(self._iq.run())
        for access in self._config.access:
            log.info("access %s on %s (%s)", access.name, access.listen, ", ".join(access.transports))
        core = self._config.core
        transports, next_hops = ", ".join(core.transports), ", ".join(core.next_hops)
        log.info("core on %s (%s), next hop %s", core.listen, transports, next_hops)

    async def close(self) -> None:
        """Ends every call, waits a moment for what that takes, and closes everything."""
        self._shell.run(self.core.shutdown, time.monotonic())
        until = time.monotonic() + FAREWELL
        while self._has_calls() and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if self._status:
            self._status.close()
            with contextlib.suppress(OSError):
                os.unlink(self._config.status.socket)
        await self._shell.close()
        await self._nameservers.close()
        await self._iq.close()
        if self._iq_task:
            await self._iq_task
        if self._keeping is not None:
            await self._keeping.close()

    def reload(self) -> None:
        """Read the certificates again."""
        self._shell.reload()

    def _has_calls(self) -> bool:
        status = self.core.status(time.monotonic())
        return bool(status["calls"] or status["asked"])

    # -- the gateway -----------------------------------------------------------------------------------------

    def _gateway_up(self, hello: Hello) -> None:
        log.info("gateway %s is there, realms: %s", hello.name, " ".join(hello.realms))
        self._shell.run(self.core.gateway_up, hello, time.monotonic())

    def _gateway_down(self, reason: str) -> None:
        log.warning("no gateway at %s: %s", self._config.gateway.iq, reason)
        self._shell.run(self.core.gateway_down, time.monotonic())

    def _gateway_message(self, message: Reply | ErrorReply | Notice) -> None:
        self._shell.run_soon(self.core.gateway_message, message)

    # -- the DNS ---------------------------------------------------------------------------------------------

    def _dns_answer(self, question: Question, answer: Answer) -> None:
        self._shell.run(self.core.answered, question, answer, time.monotonic())

    def _drain(self) -> None:
        """What the core has for others than SIP: the gateway, the DNS and the log. A command that cannot be
        sent is answered by the core's own time limit."""
        for question in self.core.to_ask():
            self._nameservers.ask(question)
        for request in self.core.iq_to_send():
            self._iq.send(request)
        while (note := self.core.next_note()) is not None:
            if log.isEnabledFor(note.level):
                log.log(note.level, "%s", printable(note.text))
        if self._keeping is not None:
            self._keeping.wake()

    # -- status ----------------------------------------------------------------------------------------------

    async def _tell_status(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Who does not read is not waited for, as each holds what it was told."""
        if self._readers >= MAX_READERS:
            writer.transport.abort()
            return
        self._readers += 1
        try:
            async with asyncio.timeout(READING):
                writer.write(self._status_document())
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            writer.transport.abort()
        finally:
            self._readers -= 1

    def _status_document(self) -> bytes:
        transport = {"connections": self._shell.connections, "drops": dict(self._shell.drops)}
        document = {**self.core.status(time.monotonic()), "transport": transport}
        if (keeping := self._keeping) is not None:
            document["store"] = {
                "behind": keeping.behind,
                "failing": keeping.failing,
                "failures": keeping.failures,
            }
        return msgspec.json.encode(_shown(document))


def _shown(value: object) -> object:
    """A status document whose texts, which peers may have written, can be encoded and printed."""
    match value:
        case str():
            return printable(value)
        case dict():
            return {key: _shown(each) for key, each in value.items()}
        case list() | tuple():
            return [_shown(each) for each in value]
        case _:
            return value


def _listeners(config: ProxyConfig) -> list[Listener]:
    listeners = [
        Listener(access.listen, access.transports, _files(access), access.path) for access in config.access
    ]
    core = config.core
    return [*listeners, Listener(core.listen, core.transports, _files(core), opens_tls=True, reserve=True)]


def _files(side: AccessConfig | CoreConfig | GatewayConfig) -> TlsFiles | None:
    return TlsFiles(side.cert, side.key, side.ca) if side.cert else None


async def serve(config: ProxyConfig) -> None:
    """Runs the proxy until SIGTERM or SIGINT; SIGHUP has it read its certificates again.
    Raises OSError when an address cannot be had."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    proxy = Proxy(config)
    await proxy.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, proxy.reload)
    collecting = asyncio.create_task(_collect_garbage())
    log.info("ready")
    try:
        await stop.wait()
    finally:
        log.info("leaving")
        collecting.cancel()
        await proxy.close()


async def _collect_garbage() -> None:
    """What ends is freed at once, by reference counts; what closed connections and errors may leave can wait.
    Python's own rule, to look at everything whenever a quarter has been added, stopped a proxy at 300 calls/s
    for a fifth of the time, up to a second at once."""
    gc.freeze()
    gc.set_threshold(MANY)
    while True:
        await asyncio.sleep(COLLECT)
        if gc.get_count()[0] > FEW:
            gc.collect()
