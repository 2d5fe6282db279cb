"""HTTP/2 by hand: frames and header blocks as raw bytes, so that also what no library would send can be sent."""

import socket
import ssl
import time

import hpack

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR = range(7)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(7, 12)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ERROR_NAMES = "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM".split()


def u32(number):
    return number.to_bytes(4, "big")


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + u32(stream) + payload


def settings(**values):
    return frame(SETTINGS, 0, 0, b"".join(globals()[name.upper()].to_bytes(2, "big") + u32(value) for name, value in values.items()))


def integer(value, prefix_bits, first=0):
    """RFC 7541 §5.1."""
    top = (1 << prefix_bits) - 1
    if value < top:
        return bytes([first | value])
    out, value = bytearray([first | top]), value - top
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    return bytes(out) + bytes([value])


def string(text):
    return integer(len(text), 7) + text


def literal(name, value, first=0x00):
    """A field with a new name, by default without indexing; 0x40 indexes it, 0x10 says never to."""
    return bytes([first]) + string(name) + string(value)


def block(fields):
    return b"".join(literal(name, value) for name, value in fields)


def request(method=b"GET", path=b"/hello", *more, scheme=b"http", authority=b"localhost"):
    return [(b":method", method), (b":scheme", scheme), (b":path", path), (b":authority", authority), *more]


class Peer:
    """A client's connection and every frame that came back: (kind, flags, stream, payload)."""

    def __init__(self, port, tls, preface=True, first=settings()):
        self.sock = socket.create_connection(("127.0.0.1", port), 5)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        self.raw, self.frames, self.closed, self.statuses = b"", [], False, {}
        self.decoder = hpack.Decoder()
        if preface:
            self.send(PREFACE + first)
            self.wait(lambda: self.has(SETTINGS, flag=False) and self.has(SETTINGS, flag=True))
            self.send(frame(SETTINGS, ACK, 0))

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError:
            self.closed = self.closed or not self.read()

    def has(self, kind, stream=None, flag=None, code=None):
        """Whether such a frame came; `flag` is that of bit 0 (ACK, END_STREAM), `code` the error code."""
        for k, flags, s, payload in self.frames:
            if k != kind or (stream is not None and s != stream) or (flag is not None and bool(flags & 1) != flag):
                continue
            if code is None or int.from_bytes(payload[4:8] if kind == GOAWAY else payload[:4], "big") == code:
                return True
        return False

    def answered(self, stream=1):
        return self.has(HEADERS, stream, True) or self.has(DATA, stream, True)

    def body_bytes(self, stream=1):
        return sum(len(payload) for kind, _, s, payload in self.frames if kind == DATA and s == stream)

    def wait(self, until, seconds=1.5):
        """Reads until the condition holds, the connection ends, or the time is up; returns the condition."""
        deadline = time.monotonic() + seconds
        while not until() and not self.closed:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self.sock.settimeout(left)
            if not self.read():
                break
        return until()

    def read(self):
        try:
            piece = self.sock.recv(1 << 16)
        except TimeoutError:
            return True
        except OSError:
            piece = b""
        self.closed = not piece
        self.raw += piece
        while len(self.raw) >= 9 and not self.raw.startswith(b"HTTP/"):
            size = int.from_bytes(self.raw[:3], "big")
            if len(self.raw) < 9 + size:
                break
            self.take((self.raw[3], self.raw[4], int.from_bytes(self.raw[5:9], "big") & 0x7FFFFFFF, self.raw[9 : 9 + size]))
            self.raw = self.raw[9 + size :]
        return bool(piece)

    def take(self, got):
        self.frames.append(got)
        if got[0] == HEADERS and got[1] & END_HEADERS:
            for name, value in self.decoder.decode(got[3], raw=True):
                if name == b":status":
                    self.statuses[got[2]] = int(value)

    def told(self):
        """What came back, in words."""
        words = []
        for kind, _, stream, payload in self.frames[2:] if self.frames else []:
            if kind == GOAWAY:
                words.append(f"GOAWAY {name_of(payload[4:8])}")
            elif kind == RST_STREAM:
                words.append(f"RST_STREAM {stream} {name_of(payload)}")
            elif kind == HEADERS:
                words.append(f"HEADERS {stream} {self.statuses.get(stream, '')}")
            elif kind == DATA:
                words.append(f"DATA {stream} of {len(payload)}")
        if self.raw:
            words.append(repr(self.raw[:40]))
        return ", ".join(words[:8] + (["closed"] if self.closed else [])) or "nothing"

    def close(self):
        self.sock.close()


def name_of(code):
    code = int.from_bytes(code, "big")
    return ERROR_NAMES[code] if code < len(ERROR_NAMES) else str(code)
