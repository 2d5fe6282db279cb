"""WebSocket transparency where `autobahn_cases` does not go: octets that no WebSocket library would send.

Each case is sent to the echo server directly and through weir, and weir must not change a byte. A case is the client's bytes
after the handshake; each ends with a close frame or with the client's end of stream, so each conversation ends by itself.
The direct run is also held against what RFC 6455 demands (an echo, a close code), so that the comparison compares something.
"""

import concurrent.futures
import re
import socket
import struct
import zlib
from dataclasses import dataclass

from rig import Listener, in_parallel

TEXT, BINARY, CLOSE, PONG = 1, 2, 8, 10
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


END = frame(CLOSE, BYE)
ENDED = reply(CLOSE, BYE)


@dataclass
class Case:
    name: str
    sent: bytes
    # What the server's bytes must be: exact bytes, a close code (int) they must end with, or None for not judged.
    expected: object = None
    extensions: str = ""


def cases():
    yield from framing()
    yield from ends()
    yield from closing()
    yield from bursts()
    yield from compression()


def framing():
    for mask in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        yield Case(f"framing: mask {mask.hex()}", frame(TEXT, b"hello", mask=mask) + END, reply(TEXT, b"hello") + ENDED)
    yield Case("framing: unmasked text", frame(TEXT, b"hello", mask=None) + END, 1002)
    yield Case("framing: unmasked close", frame(CLOSE, BYE, mask=None), 1002)
    for length_bytes in (2, 8):
        yield Case(f"framing: length 5 in {length_bytes} bytes", frame(TEXT, b"hello", length_bytes=length_bytes) + END)
    yield Case("framing: length with the top bit", b"\x82\xff" + b"\xff" * 8 + MASK + b"x" * 20)
    yield Case("framing: pong of 126", frame(PONG, b"x" * 126) + END, 1002)


def ends():
    yield Case("end: after half a header", b"\x81")
    yield Case("end: after half a payload", frame(TEXT, b"hello")[:-2])
    yield Case("end: after nothing at all", b"")


def closing():
    yield Case("close: in two fragments", frame(CLOSE, BYE, fin=False) + frame(0, b"2") + END, 1002)
    yield Case("close: 1000 messages after it", frame(TEXT, b"good") + END + frame(TEXT, b"late") * 1000, reply(TEXT, b"good") + ENDED)
    yield Case("close: forbidden code 1015", frame(CLOSE, struct.pack(">H", 1015)), 1002)


def bursts():
    for size in (0, 16, 64, 256, 1024, 4096, 16384):
        count = 200 if size else 1000
        yield Case(f"burst: {count} messages of {size} in one go", frame(BINARY, b"x" * size) * count + END, reply(BINARY, b"x" * size) * count + ENDED)


def deflated(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def compression():
    for parameters in ("permessage-deflate; nonsense", "x-unknown"):
        yield Case(f"compression: offer {parameters}", frame(TEXT, deflated(b"hello " * 100), rsv=4) * 3 + END, None, parameters)
    yield Case("compression: uncompressed message all the same", frame(TEXT, b"plain") + END, None, DEFLATE)
    yield Case("compression: broken data", frame(TEXT, b"\xff\xff\xff\xff", rsv=4) + END, None, DEFLATE)
    yield Case("compression: bit on a continuation", frame(TEXT, deflated(b"ab"), fin=False, rsv=4) + frame(0, b"x", rsv=4) + END, 1002, DEFLATE)


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
        sock.sendall(case.sent)
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
