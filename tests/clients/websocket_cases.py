"""WebSocket transparency: each case is sent to the echo server directly and through weir, and weir must not change a byte.

A case is the client's bytes after the handshake; every case ends with a close frame, so each conversation ends by itself.
The direct run is also held against what RFC 6455 demands (an echo, a close code), so that the comparison compares something.
The ground is that of the well-known WebSocket test suites: framing, ping and pong, reserved bits, opcodes, fragmentation,
UTF-8, closing, sizes, compression.
"""

import concurrent.futures
import random
import re
import socket
import struct
import time
import zlib
from dataclasses import dataclass

from rig import Listener, in_parallel

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"
BYE = struct.pack(">H", 1000)
DEFLATE = "permessage-deflate; client_max_window_bits"


def frame(opcode, payload=b"", fin=True, rsv=0, mask=MASK, length_bytes=None):
    """A client's frame; `length_bytes` (2 or 8) forces a longer length field than needed, mask None leaves it unmasked."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    head = bytes([first, (0x80 if mask else 0) | (size if length_bytes == 0 else 126 if length_bytes == 2 else 127)])
    head += size.to_bytes(length_bytes, "big") if length_bytes else b""
    if mask is None:
        return head + payload
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return head + mask + (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")


def reply(opcode, payload=b""):
    return frame(opcode, payload, mask=None)


@dataclass
class Case:
    name: str
    sent: bytes
    # What the server's bytes must be: exact bytes, a close code (int) they must end with, or None for not judged.
    expected: object = None
    chop: int = 0
    extensions: str = ""


def cases():
    yield from framing()
    yield from pings()
    yield from reserved_bits_and_opcodes()
    yield from fragmentation()
    yield from utf8()
    yield from closing()
    yield from sizes()
    yield from compression()


END = frame(CLOSE, BYE)
ENDED = reply(CLOSE, BYE)


def framing():
    for opcode, name in ((TEXT, "text"), (BINARY, "binary")):
        for size in (0, 1, 124, 125, 126, 127, 128, 65535, 65536, 65537):
            payload = b"*" * size if opcode == TEXT else random.Random(size).randbytes(size)
            yield Case(f"framing: {name} of {size}", frame(opcode, payload) + END, reply(opcode, payload) + ENDED)
        for chop in (1, 3, 997):
            payload = b"*" * 2000
            yield Case(f"framing: {name} of 2000 in pieces of {chop}", frame(opcode, payload) + END, reply(opcode, payload) + ENDED, chop)
    for mask in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        yield Case(f"framing: mask {mask.hex()}", frame(TEXT, b"hello", mask=mask) + END, reply(TEXT, b"hello") + ENDED)
    yield Case("framing: unmasked text", frame(TEXT, b"hello", mask=None) + END, 1002)
    yield Case("framing: unmasked close", frame(CLOSE, BYE, mask=None), 1002)
    for length_bytes in (2, 8):
        yield Case(f"framing: length 5 in {length_bytes} bytes", frame(TEXT, b"hello", length_bytes=length_bytes) + END)
    yield Case("framing: length with the top bit", b"\x82\xff" + b"\xff" * 8 + MASK + b"x" * 20)
    yield Case("framing: only half a header, then the end", b"\x81")
    yield Case("framing: only half a payload, then the end", frame(TEXT, b"hello")[:-2])
    yield Case("framing: nothing at all, then the end", b"")


def pings():
    for size in (0, 1, 4, 125):
        payload = random.Random(size).randbytes(size)
        yield Case(f"ping: payload of {size}", frame(PING, payload) + END, reply(PONG, payload) + ENDED)
        yield Case(f"ping: unsolicited pong of {size}", frame(PONG, payload) + END, ENDED)
        yield Case(f"ping: payload of {size} byte by byte", frame(PING, payload) + END, reply(PONG, payload) + ENDED, 1)
    yield Case("ping: payload of 126", frame(PING, b"x" * 126) + END, 1002)
    yield Case("ping: pong of 126", frame(PONG, b"x" * 126) + END, 1002)
    many = [b"payload-%d" % n for n in range(10)]
    for chop in (0, 1):
        yield Case(f"ping: ten of them, pieces of {chop}", b"".join(frame(PING, p) for p in many) + END, b"".join(reply(PONG, p) for p in many) + ENDED, chop)
    yield Case("ping: pong, then ping", frame(PONG, b"a") + frame(PING, b"b") + END, reply(PONG, b"b") + ENDED)
    yield Case(
        "ping: between messages",
        frame(TEXT, b"1") + frame(PING, b"p") + frame(TEXT, b"2") + END,
        reply(TEXT, b"1") + reply(PONG, b"p") + reply(TEXT, b"2") + ENDED,
    )


def reserved_bits_and_opcodes():
    for rsv in range(1, 8):
        for opcode in (TEXT, BINARY, PING, PONG, CLOSE):
            yield Case(f"reserved: bits {rsv} with opcode {opcode}", frame(opcode, BYE if opcode == CLOSE else b"x", rsv=rsv) + END, 1002)
        yield Case(f"reserved: bits {rsv} after a message", frame(TEXT, b"good") + frame(TEXT, b"bad", rsv=rsv) + frame(PING) + END, 1002, rsv % 2)
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield Case(f"opcode: {opcode}", frame(opcode) + END, 1002)
        yield Case(f"opcode: {opcode} with payload", frame(opcode, b"payload") + END, 1002)
        yield Case(f"opcode: {opcode} after a message, in pieces", frame(TEXT, b"good") + frame(opcode, b"bad") + frame(PING) + END, 1002, 1)


def fragmentation():
    for opcode in (PING, PONG, CLOSE):
        yield Case(f"fragments: control frame {opcode} in two", frame(opcode, b"\x03\xe8", fin=False) + frame(0, b"2") + END, 1002)
    for chop in (0, 1, 2):
        two = frame(TEXT, b"frag-1 ", fin=False) + frame(0, b"frag-2")
        yield Case(f"fragments: text in two, pieces of {chop}", two + END, reply(TEXT, b"frag-1 frag-2") + ENDED, chop)
        with_ping = frame(TEXT, b"frag-1 ", fin=False) + frame(PING, b"p") + frame(0, b"frag-2")
        yield Case(f"fragments: text in two around a ping, pieces of {chop}", with_ping + END, reply(PONG, b"p") + reply(TEXT, b"frag-1 frag-2") + ENDED, chop)
        bad = frame(0, b"no start") + frame(TEXT, b"after")
        yield Case(f"fragments: continuation of nothing, pieces of {chop}", bad + END, 1002, chop)
        bad = frame(0, b"no start", fin=False) + frame(TEXT, b"after")
        yield Case(f"fragments: unfinished continuation of nothing, pieces of {chop}", bad + END, 1002, chop)
        bad = frame(TEXT, b"one", fin=False) + frame(TEXT, b"two")
        yield Case(f"fragments: a message inside a message, pieces of {chop}", bad + END, 1002, chop)
    five = b"".join(frame(TEXT if n == 0 else 0, b"f%d" % n, fin=n == 4) + (frame(PING, b"%d" % n) if n in (1, 3) else b"") for n in range(5))
    yield Case("fragments: five with two pings", five + END, reply(PONG, b"1") + reply(PONG, b"3") + reply(TEXT, b"f0f1f2f3f4") + ENDED)
    yield Case("fragments: two messages of two", (frame(TEXT, b"a", fin=False) + frame(0, b"b")) * 2 + END, reply(TEXT, b"ab") * 2 + ENDED)
    yield Case("fragments: continuation after a whole message", frame(TEXT, b"a") + frame(0, b"b") + END, 1002)
    yield Case("fragments: three empty ones", frame(TEXT, fin=False) + frame(0, fin=False) + frame(0) + END, reply(TEXT) + ENDED)
    yield Case("fragments: middle one not empty", frame(TEXT, fin=False) + frame(0, b"middle", fin=False) + frame(0) + END, reply(TEXT, b"middle") + ENDED)
    for size in (64, 256, 1024, 4096, 16384):
        payload = random.Random(size).randbytes(65536)
        parts = [payload[at : at + size] for at in range(0, len(payload), size)]
        sent = b"".join(frame(BINARY if n == 0 else 0, part, fin=n == len(parts) - 1) for n, part in enumerate(parts))
        yield Case(f"fragments: 64 KiB in fragments of {size}", sent + END, reply(BINARY, payload) + ENDED)


VALID_UTF8 = [
    "κόσμε",
    "hello µ@ßöäüàá utf-8",
    "\x00",
    "\x7f",
    "\x80",
    "߿",
    "ࠀ",
    "\uffff",
    "\U00010000",
    "\U0010ffff",
    "\ud7ff",
    "\ue000",
    "�",
    "\ufdd0",
    "\ufffe",
    "\U0001fffe",
    "𐍈𐍈",
    "日本語" * 30,
]
INVALID_UTF8 = [
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xed\xa0\x80",
    b"\xed\xad\xbf",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\x80",
    b"\xbf",
    b"\x80\xbf\x80",
    b"\xc0 ",
    b"\xe0 ",
    b"\xf0 ",
    b"\xc0",
    b"\xe0\x80",
    b"\xf0\x80\x80",
    b"\xdf",
    b"\xef\xbf",
    b"\xf7\xbf\xbf",
    b"\xfe",
    b"\xff",
    b"\xfe\xfe\xff\xff",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xc1\xbf",
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"good then \xff bad",
]


def utf8():
    for number, text in enumerate(VALID_UTF8):
        data = text.encode()
        yield Case(f"utf8: valid {number}", frame(TEXT, data) + END, reply(TEXT, data) + ENDED)
        split = b"".join(frame(TEXT if n == 0 else 0, data[n : n + 1], fin=n == len(data) - 1) for n in range(len(data)))
        yield Case(f"utf8: valid {number}, a fragment per byte", split + END, reply(TEXT, data) + ENDED)
    for number, data in enumerate(INVALID_UTF8):
        yield Case(f"utf8: invalid {number}", frame(TEXT, data) + END, 1007)
        yield Case(f"utf8: invalid {number}, in two fragments", frame(TEXT, data[:1], fin=False) + frame(0, data[1:]) + END, 1007)
    yield Case("utf8: binary need not be", frame(BINARY, b"\xff\xfe") + END, reply(BINARY, b"\xff\xfe") + ENDED)


def closing():
    for chop in (0, 1):
        yield Case(f"close: normal, pieces of {chop}", END, ENDED, chop)
    yield Case("close: without a code", frame(CLOSE))
    yield Case("close: payload of one byte", frame(CLOSE, b"a"), 1002)
    yield Case("close: twice", END + END, ENDED)
    yield Case("close: ping after it", END + frame(PING, b"late"), ENDED)
    yield Case("close: message after it", END + frame(TEXT, b"late"), ENDED)
    yield Case("close: inside a fragmented message", frame(TEXT, b"frag", fin=False) + END + frame(0, b"late"), ENDED)
    yield Case("close: message before and after", frame(TEXT, b"good") + END + frame(TEXT, b"late") * 1000, reply(TEXT, b"good") + ENDED)
    yield Case("close: reason", frame(CLOSE, BYE + b"bye bye"), reply(CLOSE, BYE + b"bye bye"))
    yield Case("close: longest reason", frame(CLOSE, BYE + b"*" * 123), reply(CLOSE, BYE + b"*" * 123))
    yield Case("close: reason too long", frame(CLOSE, BYE + b"*" * 124), 1002)
    yield Case("close: reason not UTF-8", frame(CLOSE, BYE + b"\xce\xba\xff"))
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        payload = struct.pack(">H", code)
        yield Case(f"close: code {code}", frame(CLOSE, payload), reply(CLOSE, payload))
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        yield Case(f"close: forbidden code {code}", frame(CLOSE, struct.pack(">H", code)), 1002)


def sizes():
    for size in (1 << 18, 1 << 20, 4 << 20):
        for opcode in (TEXT, BINARY):
            payload = b"*" * size if opcode == TEXT else random.Random(size).randbytes(size)
            yield Case(f"size: message of {size} with opcode {opcode}", frame(opcode, payload) + END, reply(opcode, payload) + ENDED)
    payload = random.Random(1).randbytes(1 << 20)
    for chop in (1000, 65536):
        yield Case(f"size: 1 MiB in pieces of {chop}", frame(BINARY, payload) + END, reply(BINARY, payload) + ENDED, chop)
    for size in (0, 16, 64, 256, 1024, 4096, 16384):
        count = 200 if size else 1000
        yield Case(f"size: {count} messages of {size} in one go", frame(BINARY, b"x" * size) * count + END, reply(BINARY, b"x" * size) * count + ENDED)


def deflated(data, level=9):
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def compression():
    for size in (0, 16, 1000, 100000, 1 << 20):
        for kind, data in (("text", b"compressible " * (size // 13)), ("random", random.Random(size).randbytes(size))):
            yield Case(f"compression: {kind} of {size}", frame(BINARY, deflated(data) or b"\0", rsv=4) + END, None, 0, DEFLATE)
    for parameters in (
        "permessage-deflate",
        "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; server_max_window_bits=10",
        "permessage-deflate; nonsense",
        "x-unknown",
    ):
        yield Case(f"compression: offer {parameters}", frame(TEXT, deflated(b"hello " * 100), rsv=4) * 3 + END, None, 0, parameters)
    yield Case("compression: uncompressed message all the same", frame(TEXT, b"plain") + END, None, 0, DEFLATE)
    yield Case("compression: broken data", frame(TEXT, b"\xff\xff\xff\xff", rsv=4) + END, None, 0, DEFLATE)
    yield Case("compression: bit on a continuation", frame(TEXT, deflated(b"ab"), fin=False, rsv=4) + frame(0, b"x", rsv=4) + END, 1002, 0, DEFLATE)


def converse(port, case):
    """(the handshake's answer as far as it matters, every byte after it)"""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        offer = f"Sec-WebSocket-Extensions: {case.extensions}\r\n" if case.extensions else ""
        sock.sendall(
            f"GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n".encode()
        )
        got = b""
        while b"\r\n\r\n" not in got:
            got += sock.recv(1 << 16) or exit_early(got)
        head, got = got.split(b"\r\n\r\n", 1)
        fields = sorted(re.findall(rb"(?im)^(sec-websocket-[a-z]+: [^\r\n]*)", head.replace(b"\r\n", b"\n")), key=bytes.lower)
        verdict = head.split(b"\r\n")[0], [f.lower() for f in fields]
        # A server that fails the connection stops reading: sending goes on beside reading and may end in an error.
        sender = concurrent.futures.ThreadPoolExecutor(1)
        sending = sender.submit(send, sock, case)
        try:
            while piece := sock.recv(1 << 18):
                got += piece
        except ConnectionResetError:
            got += b" and then a reset"
        sending.result(10)
        sender.shutdown()
        return verdict, got


def exit_early(got):
    raise EOFError(f"closed in the handshake after {got!r}")


def send(sock, case):
    try:
        for at in range(0, len(case.sent), case.chop or len(case.sent) or 1):
            sock.sendall(case.sent[at : at + case.chop] if case.chop else case.sent)
            if case.chop == 1 or case.chop == 2 or case.chop == 3:
                time.sleep(0.0005)
        if not case.sent.endswith(END):
            sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def judge(case, got):
    """What is wrong with the direct run, or None."""
    if isinstance(case.expected, bytes) and got != case.expected:
        return f"got {got[:80]!r}, expected {case.expected[:80]!r}"
    if isinstance(case.expected, int):
        closes = re.search(rb"\x88([\x02-\x7d])(..)", got, re.S)
        if not closes or struct.unpack(">H", closes[2])[0] != case.expected:
            return f"got {got[:80]!r}, expected close code {case.expected}"


def checks(rig):
    origin = rig.start_origin()
    rig.start_weir({"plain": Listener(origin)})

    def run(case):
        return converse(origin, case), converse(rig.ports["plain"], case)

    for case, results, error in in_parallel(8, run, cases()):
        if error:
            rig.score.check(case.name, False, f"{type(error).__name__}: {error}")
            continue
        direct, through = results
        if wrong := judge(case, direct[1]):
            rig.score.check(f"{case.name}: the echo server itself", False, wrong)
        else:
            rig.score.check(case.name, through == direct, f"through weir {str(through)[:250]}, direct {str(direct)[:250]}")
