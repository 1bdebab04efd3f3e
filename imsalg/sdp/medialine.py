"""The `m=` line of a media description (RFC 8866 section 5.14)."""

from __future__ import annotations

import re
from typing import NamedTuple

from imsalg.errors import BadSdp


class MediaLine(NamedTuple):
    """Its pieces, which joined are the line as it came, without its ending. ports: "/" and how many, or "".
    formats: with the blank before them. before, gap, between: other blanks."""

    before: str
    kind: str
    gap: str
    port: str
    ports: str
    between: str
    proto: str
    formats: str

    @classmethod
    def parse(cls, line: str) -> MediaLine:
        """line: with or without its ending. Raises BadSdp."""
        match = _PIECES.fullmatch(line.rstrip("\r\n"))
        found = cls(*match.groups()) if match else None
        if found is None or int(found.port) > 65535 or int(found.ports[1:] or 1) == 0:
            raise BadSdp("a malformed m= line", 400)
        if not found.formats.strip(" \t") and int(found.port):
            raise BadSdp("an m= line without a format", 400)
        return found


_TOKEN = r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]"
# Kind and protocol come into logs and Warnings: they are as RFC 8866 section 9 has them, and short.
_PIECES = re.compile(
    rf"(m=[ \t]*)({_TOKEN}{{1,64}})([ \t]+)([0-9]{{1,5}})((?:/[0-9]{{1,5}})?)"
    rf"([ \t]+)((?:{_TOKEN}|/){{1,64}})((?:[ \t][^\r\n]*)?)"
)
