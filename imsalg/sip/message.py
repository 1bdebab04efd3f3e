"""SIP messages (RFC 3261 section 7): bytes to Request or Response and back, and what nobody touched is kept.

Parsing cuts the head into lines and checks the five header fields every element needs; the rest is looked at
when asked for. Not kept: CRLFs before the start line, bytes behind Content-Length, and the case of "SIP/2.0"
in the start line, which must be upper case (RFC 3261 section 7.1).
"""

from __future__ import annotations

import contextlib
import re

from imsalg.errors import BadMessage, UsageError
from imsalg.sip.grammar import MAX_PARAMS, TOKEN, URI_CHARS, number
from imsalg.sip.headers import Headers
from imsalg.sip.values import CSeq, NameAddr, Via

MAX_MESSAGE = 65535  # bytes, head and body; RFC 3261 section 18.1.1 asks for this much
MAX_URI = 4096  # characters in a Request-URI


class _Message:
    """What requests and responses share.

    The views parse on demand and raise BadMessage; in what parse_message() returns they are all in order.
    """

    __slots__ = ("body", "headers")

    def __init__(self, headers: Headers | None, body: bytes) -> None:
        self.headers = Headers() if headers is None else headers
        self.body = body

    @property
    def via(self) -> Via:
        """The topmost Via."""
        return self.headers.view(_via)

    @property
    def cseq(self) -> CSeq:
        return self.headers.view(_cseq)

    @property
    def call_id(self) -> str:
        return self.headers.view(_call_id)

    @property
    def from_(self) -> NameAddr:
        return self.headers.view(_from)

    @property
    def to(self) -> NameAddr:
        return self.headers.view(_to)

    def set_body(self, body: bytes, content_type: str | None = None) -> None:
        """Replaces the body, with Content-Length and Content-Type; None leaves Content-Type as it is.

        Without a body every header field that describes one goes; Content-Length stays, as streams need it.
        """
        self.body = body
        if not body:
            self.headers.remove("Content-Type", "Content-Disposition", "Content-Encoding", "Content-Language")
        elif content_type is not None:
            self.headers.set("Content-Type", content_type)
        self.headers.set("Content-Length", str(len(body)))


def _via(headers: Headers) -> Via:
    return Via.parse(headers.first("Via") or "")


def _cseq(headers: Headers) -> CSeq:
    return CSeq.parse(headers.get("CSeq") or "")


def _call_id(headers: Headers) -> str:
    value = headers.get("Call-ID")
    if not value:
        raise BadMessage("no Call-ID")
    return value


def _from(headers: Headers) -> NameAddr:
    return NameAddr.parse(headers.get("From") or "")


def _to(headers: Headers) -> NameAddr:
    return NameAddr.parse(headers.get("To") or "")


class Request(_Message):
    """A request. uri: the Request-URI as it came, unparsed."""

    __slots__ = ("method", "uri")

    def __init__(self, method: str, uri: str, headers: Headers | None = None, body: bytes = b"") -> None:
        super().__init__(headers, body)
        self.method = method
        self.uri = uri

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.uri}>"

    def copy(self) -> Request:
        """A copy whose header fields can be changed alone."""
        return Request(self.method, self.uri, self.headers.copy(), self.body)

    def __bytes__(self) -> bytes:
        start = f"{self.method} {self.uri} SIP/2.0"
        if _REQUEST_LINE.fullmatch(start) is None:
            raise UsageError("a method or Request-URI that cannot be sent")
        return f"{start}\r\n{self.headers}\r\n".encode("utf-8", "surrogateescape") + self.body


class Response(_Message):
    """A response. status: 100 to 699."""

    __slots__ = ("reason", "status")

    def __init__(self, status: int, reason: str, headers: Headers | None = None, body: bytes = b"") -> None:
        super().__init__(headers, body)
        self.status = status
        self.reason = reason

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason}>"

    def copy(self) -> Response:
        """A copy whose header fields can be changed alone."""
        return Response(self.status, self.reason, self.headers.copy(), self.body)

    def __bytes__(self) -> bytes:
        start = f"SIP/2.0 {self.status} {self.reason}"
        if _STATUS_LINE.fullmatch(start) is None:
            raise UsageError("a status or reason phrase that cannot be sent")
        return f"{start}\r\n{self.headers}\r\n".encode("utf-8", "surrogateescape") + self.body


class BadRequest(BadMessage):
    """A request that is wrong and can be told so: make_response(error.request, error.status)."""

    def __init__(self, reason: str, status: int, request: Request) -> None:
        super().__init__(reason, status)
        self.request = request


def parse_message(data: bytes) -> Request | Response:
    """One whole message, as a datagram carries it (RFC 3261 section 18.3).

    Raises BadMessage with the status to answer; it is a BadRequest, which holds the request, if it can be
    answered (see `refusal`).
    """
    if len(data) > MAX_MESSAGE:
        raise BadMessage("message too large", 513)
    head, blank, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")  # RFC 3261 section 7.5
    if not blank:
        raise BadMessage("no end of the header fields")
    message = parse_head(head)
    length = content_length(message)
    if length is not None and length > len(body):
        raise refusal(message, "Content-Length beyond the end of the datagram")
    message.body = body if length is None else body[:length]
    check(message)
    return message


def make_response(
    request: Request, status: int, reason: str | None = None, to_tag: str | None = None
) -> Response:
    """A response without body to `request` (RFC 3261 section 8.2.6.2); `to_tag` is added if To has none."""
    headers = Headers()
    headers.copy_lines(request.headers, "Via", "From", "To", "Call-ID", "CSeq")
    if to_tag is not None and _lacks_tag(request):
        headers.set("To", f"{headers.get('To')};tag={to_tag}")
    if 100 < status < 300:
        headers.copy_lines(request.headers, "Record-Route")  # RFC 3261 section 12.1.1
    headers.append("Content-Length", "0")
    return Response(status, REASONS.get(status, "") if reason is None else reason, headers)


def _lacks_tag(request: Request) -> bool:
    try:
        return request.to.tag is None
    except BadMessage:  # of a request that is refused for it
        return False


# The steps of parse_message(), which stream.py takes one at a time.

_REQUEST_LINE = re.compile(rf"({TOKEN}++) ({URI_CHARS}++) SIP/([0-9]++\.[0-9]++)", re.ASCII | re.IGNORECASE)
_BROKEN_REQUEST_LINE = re.compile(rf"({TOKEN}++)[ \t].*SIP/[0-9]++\.[0-9]++[ \t]*", re.ASCII | re.IGNORECASE)
_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6][0-9][0-9]) ([^\r\n\0]*+)", re.ASCII | re.IGNORECASE)
_MANDATORY = ("From", "To", "Call-ID", "CSeq")
_SINGLE = ("Call-ID", "CSeq", "From", "To", "Max-Forwards", "Content-Length", "Content-Type")


def parse_head(head: bytes) -> Request | Response:
    """The start line and header fields, without the CRLFs behind them; raises as parse_message() does.

    NUL is refused although RFC 3261 allows it behind a backslash (RFC 4475 section 3.1.1.2): some elements
    cut strings at it. So is a CR or LF that ends no line: some take it for a line end.
    """
    text = head.decode("utf-8", "surrogateescape")
    ends = text.count("\r\n")
    if text.count("\r") != ends or text.count("\n") != ends or "\0" in text:
        raise BadMessage("NUL or a stray CR or LF among the header fields")
    start, _, rest = text.partition("\r\n")
    if (status_line := _STATUS_LINE.fullmatch(start)) is not None:
        return Response(int(status_line[1]), status_line[2], Headers.parse(rest))
    request_line = _REQUEST_LINE.fullmatch(start)
    if request_line is None:
        if (method := _BROKEN_REQUEST_LINE.fullmatch(start)) is None:
            raise BadMessage("malformed start line")
        raise refusal(Request(method[1], "", Headers.parse(rest)), "malformed Request-Line")
    request = Request(request_line[1], request_line[2], Headers.parse(rest))
    if request_line[3] != "2.0":
        raise refusal(request, "unknown SIP version", 505)
    return request


def content_length(message: Request | Response) -> int | None:
    """The Content-Length, None if there is none; raises BadMessage if there are two or it is no length."""
    lines = message.headers.lines("Content-Length")
    if not lines:
        return None
    length = number(lines[0], 2**32)
    if length is None or len(lines) > 1:
        raise refusal(message, "malformed or repeated Content-Length")
    if length > MAX_MESSAGE:
        raise refusal(message, "body too large", 413)
    return length


def check(message: Request | Response) -> None:
    """What every element must see in order before it acts on a message (RFC 3261 sections 8.1.1 and 16.3)."""
    try:
        via, cseq = message.via, message.cseq
        _ = message.from_, message.to, message.call_id
    except BadMessage as error:
        raise refusal(message, error.reason) from None
    if (name := message.headers.repeated(*_SINGLE)) is not None:
        raise refusal(message, f"more than one {name}")
    if via.version != "2.0":
        raise refusal(message, "a Via of another SIP version")
    if isinstance(message, Request):
        if len(message.uri) > MAX_URI:
            raise refusal(message, "Request-URI too long", 414)
        if cseq.method != message.method:
            raise refusal(message, "CSeq is of another method")
        if len(message.to.params) == MAX_PARAMS and message.to.tag is None:
            raise refusal(message, "no room for a tag in To")  # else no answer to it could be read


def refusal(message: Request | Response, reason: str, status: int = 400) -> BadMessage:
    """The exception for a message that was read this far: a BadRequest if it can be answered.

    That takes a Via that can be read, and From, To, Call-ID and CSeq that are there, readable or not: they
    are only copied. Of a header field that may stand once the first is kept, so that the response is not as
    wrong as the request (RFC 3261 section 8.2.6.2 does not say which).
    """
    headers = message.headers
    if isinstance(message, Request) and all(headers.get(name) for name in _MANDATORY):
        with contextlib.suppress(BadMessage):
            _ = message.via
            headers.keep_first(_SINGLE)
            return BadRequest(reason, status, message)
    return BadMessage(reason, status)


REASONS = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    430: "Flow Failed",
    433: "Anonymity Disallowed",
    439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded",
    469: "Bad Info Package",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
}
