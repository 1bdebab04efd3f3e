"""What the parts of one call have in common, and what makes the proxy call stateful (RFC 3261 section 6)."""

from __future__ import annotations

from msgspec import Struct

from imsalg.anchor import Side
from imsalg.branches import Branches
from imsalg.crossing import Effect, Note
from imsalg.sip.hop import Flow
from imsalg.steps import Steps


class CallState(Struct, frozen=True, eq=False):
    """token: names the call in our Record-Route URIs, and its context. branches: its dialogs. steps: what it
    asks of the gateway. effects: what it wants done, for `core` to carry out. flows: where requests to each
    side went last."""

    token: str
    branches: Branches
    steps: Steps
    effects: list[Effect]
    flows: dict[Side, Flow]

    def note(self, level: int, text: str) -> None:
        """A line for the log."""
        self.effects.append(Note(level, f"{self.token}: {text}"))
