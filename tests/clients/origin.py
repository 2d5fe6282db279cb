"""The origin behind weir: a strict HTTP/1.1 server, one thread per connection, with a WebSocket echo.

    origin.py PORT

It refuses (400) whatever `strict_http` finds a fault in, so a request that weir forwards in an odd form fails its check.
Paths: /hello, /bytes/N (with ranges), /chunked/N (with trailers), /until-close/N, /status/N, /early, /drip, /cut/length,
/cut/chunked, /digest (what arrived, as JSON), /echo, /refuse, /page (for the browser), /hold and /report, /ws (WebSocket
echo), and any path with `Upgrade: raw` (echo of plain bytes).
"""

import codecs
import functools
import hashlib
import json
import random
import re
import socket
import sys
import threading
import time

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.server import ServerProtocol

import browser_page
from strict_http import CHUNK_LINE, read_fields, read_head

HEAD_MAX_BYTES = 1 << 18
BLOCK = random.Random(7).randbytes(65521)


@functools.lru_cache(16)
def pattern(size):
    """The `size` bytes that /bytes/N answers with."""
    return (BLOCK * (size // len(BLOCK) + 1))[:size]


class Gone(Exception):
    """The peer closed where a message was not yet complete."""


class Wire:
    """A socket with what has been read ahead of the parser."""

    def __init__(self, sock):
        self.sock = sock
        self.ahead = b""

    def fill(self):
        piece = self.sock.recv(1 << 18)
        if not piece:
            raise Gone
        self.ahead += piece

    def until(self, mark, max_bytes=HEAD_MAX_BYTES):
        while mark not in self.ahead:
            if len(self.ahead) > max_bytes:
                raise Gone
            self.fill()
        found, self.ahead = self.ahead.split(mark, 1)
        return found

    def pieces(self, size):
        while size:
            if not self.ahead:
                self.fill()
            piece, self.ahead = self.ahead[:size], self.ahead[size:]
            size -= len(piece)
            yield piece

    def send(self, data):
        self.sock.sendall(data)


def body_pieces(wire, request):
    """The request's body as it arrives; trailers are added to the request at its end."""
    if not request.chunked:
        yield from wire.pieces(request.length)
        return
    while True:
        line = CHUNK_LINE.fullmatch(wire.until(b"\r\n"))
        if not line:
            raise Gone
        size = int(line[1], 16)
        if size == 0:
            break
        yield from wire.pieces(size)
        if wire.until(b"\r\n", 2):
            raise Gone
    lines = iter(lambda: wire.until(b"\r\n"), b"")
    request.trailers = read_fields(list(lines), request.faults)


def head(status, *fields, length=None):
    lines = [f"HTTP/1.1 {status} {'OK' if status == 200 else 'Status'}", *fields]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def answer(wire, request, body, status=200, content_type="text/plain", *fields):
    # Two sends: joining a head to a large body would copy it, and hold up every other thread for as long.
    wire.send(head(status, f"Content-Type: {content_type}", *fields, length=len(body)))
    if request.method != "HEAD":
        wire.send(body)


HELD = threading.Event()


def respond(wire, request):
    """Answers one request whose body has not been read yet. False: the connection ends here."""
    path, _, number = request.target.partition("?")[0].lstrip("/").partition("/")
    if path == "refuse":
        answer(wire, request, b"refused\n", 417, "text/plain", "Connection: close")
        return False
    if "100-continue" in request.first("expect").lower():
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    if path == "echo":
        wire.send(head(200, "Transfer-Encoding: chunked"))
        for piece in body_pieces(wire, request):
            wire.send(chunk(piece))
        wire.send(b"0\r\n\r\n")
        return True
    length, digest = 0, hashlib.sha256()
    for piece in body_pieces(wire, request):
        length += len(piece)
        digest.update(piece)
    if path == "digest":
        seen = dict(method=request.method, target=request.target, version=request.version, headers=request.headers, chunked=request.chunked)
        seen.update(length=length, sha256=digest.hexdigest(), trailers=request.trailers)
        answer(wire, request, json.dumps(seen).encode(), 200, "application/json")
    elif path == "bytes":
        body = pattern(int(number))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.first("range"))
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), len(body) - 1)
            answer(wire, request, body[first : last + 1], 206, "application/octet-stream", f"Content-Range: bytes {first}-{last}/{len(body)}")
        else:
            answer(wire, request, body, 200, "application/octet-stream")
    elif path == "chunked":
        body = pattern(int(number))
        wire.send(head(200, "Transfer-Encoding: chunked", "Trailer: X-Check"))
        at, size = 0, 1
        while at < len(body) and request.method != "HEAD":
            wire.send(chunk(body[at : at + size]))
            at, size = at + size, min(size * 3, 50000)
        if request.method != "HEAD":
            wire.send(f"0\r\nX-Check: {hashlib.sha256(body).hexdigest()}\r\n\r\n".encode())
    elif path == "until-close":
        wire.send(head(200, "Connection: close") + pattern(int(number)))
        return False
    elif path == "status":
        status = int(number)
        if status in (204, 304):
            wire.send(head(status, 'ETag: "x"'))
        else:
            answer(wire, request, b"status %d\n" % status, status)
    elif path == "early":
        wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n")
        time.sleep(0.05)
        answer(wire, request, b"after the hints\n")
    elif path == "drip":
        wire.send(head(200, "Transfer-Encoding: chunked", "Content-Type: text/event-stream"))
        for number in range(5):
            wire.send(chunk(b"data: %d\n\n" % number))
            time.sleep(0.2)
        wire.send(b"0\r\n\r\n")
    elif path == "cut":
        wire.send(head(200, length=100000) if number == "length" else head(200, "Transfer-Encoding: chunked"))
        wire.send(pattern(50000) if number == "length" else chunk(pattern(50000)))
        return False
    elif path == "report":
        HELD.set()
        answer(wire, request, b"thanks\n")
    elif path == "hold":
        HELD.wait(25)
        answer(wire, request, browser_page.IMAGE, 200, "image/svg+xml")
    elif path in browser_page.FILES:
        content_type, body = browser_page.FILES[path]
        answer(wire, request, body, 200, content_type)
    else:
        answer(wire, request, b"hello from the origin\n")
    closes = "close" in request.first("connection").lower()
    keeps = request.version == "1.1" or "keep-alive" in request.first("connection").lower()
    return keeps and not closes


def websocket_echo(wire, request):
    """Echoes each message whole, in one frame; ends at the first broken rule as RFC 6455 says.

    Strictly frame by frame, so that what it answers does not depend on how TCP cut the bytes.
    """
    deflate = [ServerPerMessageDeflateFactory()] if "permessage-deflate" in request.first("sec-websocket-extensions") else None
    protocol = ServerProtocol(extensions=deflate, subprotocols=["echo"], select_subprotocol=lambda _, offered: "echo" if "echo" in offered else None)
    lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{k}: {v}" for k, v in request.headers)]
    protocol.receive_data("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
    [handshake] = protocol.events_received()
    response = protocol.accept(handshake)
    protocol.send_response(response)
    wire.send(b"".join(protocol.data_to_send()))
    if response.status_code != 101:
        return
    send = lambda opcode, data: wire.send(Frame(opcode, data).serialize(mask=False, extensions=protocol.extensions))
    closing = request.target.startswith("/ws/close-")
    if closing:
        send(Opcode.CLOSE, Close(int(request.target[10:]), "as you wish").serialize())
    try:
        echo_messages(wire, protocol.extensions, send, closing)
    except (ProtocolError, PayloadTooBig) as error:
        send(Opcode.CLOSE, Close(1002, str(error)[:100]).serialize())
    except UnicodeDecodeError:
        send(Opcode.CLOSE, Close(1007, "not UTF-8").serialize())


def echo_messages(wire, extensions, send, closing):
    """Until a close frame, which is answered unless it is the answer; raises what was wrong with the client's frames."""

    def read_exact(size):
        return b"".join(wire.pieces(size))
        yield  # the parser wants a generator

    message = kind = None
    while True:
        try:
            next(Frame.parse(read_exact, mask=True, max_size=None, extensions=extensions))
        except StopIteration as done:
            frame = done.value
        if frame.opcode is Opcode.CLOSE and closing:
            return None
        if frame.opcode is Opcode.CLOSE:
            return send(Opcode.CLOSE, Close.parse(frame.data).serialize() if frame.data else b"")
        if frame.opcode is Opcode.PING:
            send(Opcode.PONG, bytes(frame.data))
        elif frame.opcode is not Opcode.PONG:
            if (frame.opcode is Opcode.CONT) == (message is None):
                raise ProtocolError("continuation of nothing" if message is None else "message inside a message")
            if message is None:
                message, kind, utf8 = [], frame.opcode, codecs.getincrementaldecoder("utf-8")()
            message.append(bytes(frame.data))
            if kind is Opcode.TEXT:
                utf8.decode(message[-1], frame.fin)
            if frame.fin:
                send(kind, b"".join(message))
                message = None


def raw_echo(wire):
    wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n" + wire.ahead)
    while piece := wire.sock.recv(1 << 18):
        wire.send(piece)


def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(60)
    wire = Wire(sock)
    try:
        while True:
            request = read_head(wire.until(b"\r\n\r\n"))
            if request.faults:
                answer(wire, request, f"faults: {request.faults}\n".encode(), 400, "text/plain", "Connection: close")
                break
            upgrade = request.first("upgrade").lower() if "upgrade" in request.first("connection").lower() else ""
            if upgrade == "websocket" and request.target.startswith("/ws"):
                websocket_echo(wire, request)
                break
            if upgrade == "raw":
                raw_echo(wire)
                break
            if not respond(wire, request):
                break
        linger(sock)
    except (OSError, Gone):
        pass
    finally:
        sock.close()


def linger(sock):
    """Ends our half and reads the rest, so that a reset does not swallow the answer."""
    sock.shutdown(socket.SHUT_WR)
    sock.settimeout(1)
    while sock.recv(1 << 16):
        pass


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()
