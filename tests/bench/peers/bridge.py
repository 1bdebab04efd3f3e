"""What SIPp says over TCP goes on over TLS or secure WebSocket, and back: SIPp of Debian has neither.

Run as `bridge.py PORT TLS|WSS REMOTE_PORT`; each connection to PORT makes one to REMOTE_PORT. Over TLS octets
pass as they come; over WebSocket each SIP message is one of its messages (RFC 7118 section 4.2). No
certificate is checked.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
from asyncio import StreamReader, StreamWriter

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

HOST = "127.0.0.1"
LENGTH = re.compile(rb"^(?:content-length|l)[ \t]*:[ \t]*(\d+)", re.IGNORECASE | re.MULTILINE)


async def over_tls(reader: StreamReader, writer: StreamWriter, port: int) -> None:
    there, to = await asyncio.open_connection(HOST, port, ssl=context())
    await asyncio.gather(pass_on(reader, to), pass_on(there, writer))


async def pass_on(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def over_wss(reader: StreamReader, writer: StreamWriter, port: int) -> None:
    subprotocols = [Subprotocol("sip")]
    uri = f"wss://{HOST}:{port}/"
    async with connect(uri, ssl=context(), subprotocols=subprotocols, compression=None) as web:

        async def back() -> None:
            async for message in web:
                writer.write(message.encode() if isinstance(message, str) else message)

        returning = asyncio.create_task(back())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                await web.send((head + body).decode())
        except asyncio.IncompleteReadError:
            returning.cancel()


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


async def main(port: int, over: str, remote: int) -> None:
    go_on = {"TLS": over_tls, "WSS": over_wss}[over]
    server = await asyncio.start_server(lambda reader, writer: go_on(reader, writer, remote), HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
