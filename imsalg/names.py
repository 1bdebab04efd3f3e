"""What the DNS has said, for as long as it holds (RFC 1035 section 3.2.1, RFC 2308), and what it is to be
asked.

Whoever wants to know asks `known`, and where that knows nothing, `ask`; the question then comes out of
`to_ask`, once for all who want to know, and its answer goes into `answered`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from imsalg.sip.locate import MAX_RECORDS, Question, Record

MAX_NAMES = 4096  # answers remembered; the oldest go first
MAX_ASKED = 64  # questions at one time
MAX_KEPT = 86_400.0  # seconds, whatever the DNS says (RFC 8767 section 4: a week is the most)
UNANSWERED_FOR = 5.0  # seconds until a question that nobody answered is asked again


class Answer(Struct, frozen=True):
    """records: none if the name or its type does not exist. ttl: seconds; None: no server has answered."""

    records: Sequence[Record] = ()
    ttl: float | None = None


class Names:
    """A cache and the questions that are out; both are limited. Times are of one monotonic clock."""

    def __init__(self) -> None:
        self._answers: dict[Question, tuple[float, tuple[Record, ...]]] = {}  # until when
        self._asked: set[Question] = set()
        self._to_ask: list[Question] = []

    def known(self, question: Question, now: float) -> tuple[Record, ...] | None:
        """The records of an answer that still holds, () if there are none; None: nothing is known."""
        until, records = self._answers.get(question, (0.0, ()))
        return records if now < until else None

    def ask(self, question: Question) -> bool:
        """Whether an answer will come; False: too much has been asked already."""
        if question in self._asked:
            return True
        if len(self._asked) >= MAX_ASKED:
            return False
        self._asked.add(question)
        self._to_ask.append(question)
        return True

    def to_ask(self) -> list[Question]:
        """Takes them away; each wants one `answered`."""
        out, self._to_ask = self._to_ask, []
        return out

    def answered(self, question: Question, answer: Answer, now: float) -> tuple[Record, ...]:
        """The records it has from now on: without an answer those it had before (RFC 8767), which is better
        than no call at all."""
        self._asked.discard(question)
        _, before = self._answers.pop(question, (0.0, ()))
        while len(self._answers) >= MAX_NAMES:
            del self._answers[next(iter(self._answers))]
        kept = UNANSWERED_FOR if answer.ttl is None else min(answer.ttl, MAX_KEPT)
        records = before if answer.ttl is None else tuple(answer.records[:MAX_RECORDS])
        self._answers[question] = (now + kept, records)
        return records
