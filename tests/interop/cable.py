"""A way to a TCP port that a test may cut, as when a phone leaves its network in the middle of a call."""

from __future__ import annotations

import contextlib
import socket
import threading

HOST = "127.0.0.1"


class Cable:
    """A context manager: what connects to one port goes on to another, until it ends or is cut."""

    def __init__(self, port: int, onward: int) -> None:
        self._onward = onward
        self._listener = socket.create_server((HOST, port))
        self._joined: list[tuple[socket.socket, socket.socket]] = []
        self._cut: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Cable:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *(end for pair in self._joined for end in pair)):
            each.close()

    @property
    def ports(self) -> list[int]:
        """From where each connection so far has gone on, the latest last."""
        return [far.getsockname()[1] for _, far in self._joined]

    def cut(self, *, here_only: bool = False) -> None:
        """All connections; who sees it may open others at once, which are not meant. here_only: to the other
        end they are silent."""
        for near, far in list(self._joined):
            self._cut.add(near)
            for end in (near,) if here_only else (near, far):
                _end(end)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((HOST, self._onward))
                self._joined.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._carry, args=(near, source, sink), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _carry(self, near: socket.socket, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        if near not in self._cut:
            _end(sink)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended
        end.shutdown(socket.SHUT_RDWR)
