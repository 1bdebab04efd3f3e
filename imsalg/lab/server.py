"""The lab core as a process: the machine, the SIP shell around it, its status socket.

`python -m imsalg.lab.server FILE` runs it alone, from a TOML file with the fields of LabConfig.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from imsalg.config import parse_address
from imsalg.errors import PeerError
from imsalg.lab.core import LabConfig, LabCore
from imsalg.transport.listener import Listener
from imsalg.transport.shell import Shell

log = logging.getLogger("imsalg.lab.server")  # __name__ is __main__ when run alone


async def serve(config: LabConfig) -> None:
    """Runs the lab core until SIGTERM or SIGINT. Raises OSError when an address cannot be had, ValueError or
    PeerError for a wrong configuration."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    core = LabCore(config, random.SystemRandom())
    shell = Shell(core, [Listener(parse_address(config.listen))])

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(msgspec.json.encode(core.status(time.monotonic())))
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    await shell.start()
    status = await asyncio.start_unix_server(tell, config.status) if config.status else None
    log.info("lab core of %s on %s (UDP, TCP)", config.domain, config.listen)
    try:
        await stop.wait()
    finally:
        if status:
            status.close()
            with contextlib.suppress(OSError):
                os.unlink(config.status)
        await shell.close()


def main() -> None:
    line = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)-24s %(message)s"
    logging.basicConfig(level="INFO", format=line, datefmt="%H:%M:%S")
    try:
        uvloop.run(serve(msgspec.toml.decode(Path(sys.argv[1]).read_bytes(), type=LabConfig)))
    except (OSError, ValueError, PeerError) as error:
        sys.exit(f"lab core: {error}")


if __name__ == "__main__":
    main()
