"""The DNS, asked through dnspython: one question at a time in, one answer out; what is remembered is in
`imsalg.names`.

Answers over 1,232 octets come over TCP; CNAMEs are followed as far as the answer holds them, which a
recursive name server's does. /etc/hosts is not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.resolver
import dns.ttl
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.NAPTR import NAPTR
from dns.rdtypes.IN.SRV import SRV

from imsalg.names import Answer
from imsalg.sip.grammar import printable
from imsalg.sip.locate import Naptr, Question, Record, Srv
from imsalg.sip.values import Address

ATTEMPT = 1.0  # seconds until a name server is asked again, or the next one
LIMIT = 2.0  # seconds for one question
PAYLOAD = 1232  # octets of an answer over UDP that meet no fragmentation
NEGATIVE_LIMIT = 300.0  # seconds for which a name is remembered not to exist, whatever its zone says

log = logging.getLogger(__name__)


class Nameservers:
    """addresses: none means those of /etc/resolv.conf, as they are now. answered: called once for each
    `ask`."""

    def __init__(self, addresses: Sequence[Address], answered: Callable[[Question, Answer], None]) -> None:
        self._answered = answered
        self._asking: set[asyncio.Task[None]] = set()
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=not addresses)
        except dns.resolver.NoResolverConfiguration:
            self._resolver = dns.asyncresolver.Resolver(configure=False)
        if addresses:
            self._resolver.nameservers = [dns.nameserver.Do53Nameserver(*address) for address in addresses]
        self._resolver.timeout = ATTEMPT
        self._resolver.use_edns(0, 0, PAYLOAD)

    def ask(self, question: Question) -> None:
        task = asyncio.create_task(self._ask(question))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def close(self) -> None:
        """What was asked is not answered any more."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _ask(self, question: Question) -> None:
        try:
            answer = await self._look_up(question)
        except (dns.exception.DNSException, OSError, ValueError):
            answer = Answer()
        except Exception:  # whatever an answer makes the library do: who asked waits in one of few places
            log.exception("the DNS: %s of %s", question.kind, printable(question.name))
            answer = Answer()
        self._answered(question, answer)

    async def _look_up(self, question: Question) -> Answer:
        """Raises DNSException where no server has an answer, and ValueError for what can be no name."""
        try:
            found = await self._resolver.resolve(
                dns.name.from_text(question.name),
                question.kind,
                lifetime=LIMIT,
                search=False,
                raise_on_no_answer=False,
            )
        except dns.resolver.NXDOMAIN as error:
            return Answer((), min(_negative_ttl(response) for response in error.kwargs["responses"].values()))
        if found.rrset is None:
            return Answer((), _negative_ttl(found.response))
        records = [record for rdata in found.rrset if (record := _record(rdata)) is not None]
        return Answer(records, float(found.chaining_result.minimum_ttl))


def _negative_ttl(response: dns.message.Message) -> float:
    """RFC 2308 section 5: what the SOA says, and not at all where there is none."""
    assert isinstance(response, dns.message.QueryMessage)
    ttl = response.resolve_chaining().minimum_ttl
    return min(float(ttl), NEGATIVE_LIMIT) if ttl < dns.ttl.MAX_TTL else 0.0


def _record(rdata: object) -> Record | None:
    match rdata:
        case A(address=address) | AAAA(address=address):
            return str(address)
        case SRV():
            return Srv(rdata.priority, rdata.weight, rdata.port, _plain(rdata.target))
        case NAPTR(regexp=b""):
            flags, service = (text.decode("latin-1").lower() for text in (rdata.flags, rdata.service))
            return Naptr(rdata.order, rdata.preference, flags, service, _plain(rdata.replacement))
    return None


def _plain(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower().rstrip(".")
