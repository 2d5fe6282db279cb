"""HTTP/1.1 requests read the strict way (RFC 9112).

Whatever two readers could read differently gets a name here: a *fault*. The origin refuses requests with faults;
the smuggling checks demand that weir never forwards one.
"""

import re
from dataclasses import dataclass, field

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])")
FIELD_LINE = re.compile(rb"(" + TOKEN + rb"):[ \t]*(.*?)[ \t]*", re.S)
CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,16})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
HOST = re.compile(rb"[A-Za-z0-9.\-_~%]*(:\d{0,5})?|\[[0-9a-fA-F:.]+\](:\d{0,5})?")
# A message that ends too early is an abort, not an ambiguity.
CUT = "cut"


@dataclass
class Request:
    """One request as a strict reader sees it."""

    method: str
    target: str
    version: str
    headers: list = field(default_factory=list)
    length: int = 0
    chunked: bool = False
    body: bytes = b""
    trailers: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    complete: bool = True

    def all(self, name):
        return [value for key, value in self.headers if key.lower() == name]

    def first(self, name, default=""):
        return (self.all(name) or [default])[0]


def read_fields(lines, faults):
    """Header or trailer lines, each without its line end."""
    fields = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            faults.append("obs-fold")
            continue
        match = FIELD_LINE.fullmatch(line)
        if not match:
            faults.append("field-syntax")
            continue
        name, value = match.groups()
        if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            faults.append("control-in-value")
        fields.append((name.decode(), value.decode("latin-1")))
    return fields


def read_head(head):
    """`head` is everything before the empty line, that line's own CRLFCRLF removed."""
    faults = []
    if b"\x00" in head:
        faults.append("nul")
    if re.search(rb"(?<!\r)\n", head):
        faults.append("bare-lf")
    if re.search(rb"\r(?!\n)", head):
        faults.append("bare-cr")
    first, *rest = head.split(b"\r\n")
    line = REQUEST_LINE.fullmatch(first)
    if not line:
        faults.append("request-line")
        return Request("", "", "", faults=faults)
    if re.search(rb"[\x80-\xff]", line[2]):
        faults.append("raw-byte-in-target")
    request = Request(line[1].decode(), line[2].decode("latin-1"), "1." + line[3].decode())
    request.headers = read_fields(rest, faults)
    hosts, lengths, codings = (request.all(n) for n in ("host", "content-length", "transfer-encoding"))
    if len(hosts) > 1 or (not hosts and request.version == "1.1"):
        faults.append("host-count")
    if hosts and not HOST.fullmatch(hosts[0].encode("latin-1")):
        faults.append("host-syntax")
    if lengths and codings:
        faults.append("length-and-coding")
    if len(lengths) > 1 or (lengths and not re.fullmatch(r"[0-9]{1,18}", lengths[0])):
        faults.append("length-syntax")
    if len(codings) > 1 or (codings and codings[0].lower() != "chunked"):
        faults.append("coding-value")
    if codings and request.version == "1.0":
        faults.append("coding-in-http10")
    if request.all("content_length") or request.all("transfer_encoding"):
        faults.append("framing-by-underscore")
    request.chunked = bool(codings)
    if lengths and "length-syntax" not in faults and not codings:
        request.length = int(lengths[0])
    request.faults = faults
    return request


def read_requests(data):
    """All requests in `data`: (requests, faults of the whole). A last one that ends early adds the fault CUT."""
    requests, faults, at = [], [], 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            faults.append(CUT)
            break
        request = read_head(data[at:end])
        requests.append(request)
        faults += request.faults
        at = end + 4
        if request.chunked:
            at = read_chunked(data, at, request, faults)
            request.complete = at is not None
        elif request.length:
            request.body = data[at : at + request.length]
            if len(request.body) < request.length:
                request.complete = False
                faults.append(CUT)
            at += request.length
        if at is None:
            break
    return requests, faults


def read_chunked(data, at, request, faults):
    """Reads a chunked body and its trailers; returns where the next request starts, None where none can."""
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            faults.append("chunk-line" if b"\n" in data[at:] else CUT)
            return None
        line = CHUNK_LINE.fullmatch(data[at:end])
        if not line:
            faults.append("chunk-line")
            return None
        size, at = int(line[1], 16), end + 2
        if size == 0:
            break
        if len(data) < at + size + 2:
            faults.append(CUT)
            return None
        if data[at + size : at + size + 2] != b"\r\n":
            faults.append("chunk-end")
            return None
        request.body += data[at : at + size]
        at += size + 2
    lines = []
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            faults.append(CUT)
            return None
        if end == at:
            break
        lines.append(data[at:end])
        at = end + 2
    request.trailers = read_fields(lines, faults)
    if any(name.lower() in ("content-length", "transfer-encoding", "host") for name, _ in request.trailers):
        faults.append("framing-in-trailer")
    return at + 2
