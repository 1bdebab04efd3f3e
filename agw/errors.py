"""Errors of the gateway: the peer is wrong (what to answer is inside), and the caller is wrong."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot be executed; nothing of its request was done.

    code: what the controller is told, see `agw.iq.messages.ErrorCode`.
    text: one line, never key material.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class BadFrame(Exception):
    """Bytes on Iq that are no frame, too large a frame, or no message."""


class StaleBuild(OSError):
    """The packet loop that is there is not what its sources say; the text says what to do."""


class UsageError(Exception):
    """Our own caller broke a precondition; nothing from the network can cause it."""
