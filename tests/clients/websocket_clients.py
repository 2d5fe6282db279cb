"""The Python `websockets` client over plain and TLS, and WebSocket over HTTP/2 (RFC 8441) with the `h2` package."""

import asyncio
import os
import socket
import ssl

import h2.config
import h2.connection
import h2.events
import h2.settings
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from rig import Listener

MIB = 1 << 20


def checks(rig):
    origin = rig.start_origin()
    rig.start_weir({"plain": Listener(origin), "tls": Listener(origin, tls=True)})
    trust = ssl.create_default_context(cafile=rig.certificate)
    trust_h2 = ssl.create_default_context(cafile=rig.certificate)
    trust_h2.set_alpn_protocols(["h2"])
    for listener in ("plain", "tls"):
        clients(rig, listener, trust)
        over_h2(rig, listener, trust_h2 if listener == "tls" else None)


def clients(rig, listener, trust):
    """Python's `websockets`, the asyncio client (the threaded one shares a TLS connection between threads, which Python 3.11 cannot)."""
    score, tls = rig.score, listener == "tls"

    def dial(path="/ws", **options):
        uri = f"{'wss' if tls else 'ws'}://localhost:{rig.ports[listener]}{path}"
        return connect(uri, ssl=trust if tls else None, max_size=None, open_timeout=10, close_timeout=10, ping_interval=None, proxy=None, **options)

    def attempt(text, action, *arguments, **options):
        score.attempt(f"{listener}: {text}", lambda: asyncio.run(asyncio.wait_for(action(*arguments, **options), 20)))

    async def echo(message, **options):
        async with dial(**options) as ws:
            await ws.send(message)
            return await ws.recv() == message

    for compression in (None, "deflate"):
        attempt(f"text, compression {compression}", echo, "grüße " * 100, compression=compression)
        attempt(f"empty, compression {compression}", echo, "", compression=compression)
        attempt(f"binary, compression {compression}", echo, os.urandom(100000), compression=compression)
    attempt("16 MiB in one frame", echo, os.urandom(16 * MIB), compression=None)

    async def fragments():
        async with dial(compression=None) as ws:
            await ws.send(b"%d " % n for n in range(1000))
            return await ws.recv() == b"".join(b"%d " % n for n in range(1000))

    attempt("a message in 1000 fragments", fragments)

    async def pings():
        async with dial() as ws:
            for size in (1, 50, 125):
                await (await ws.ping(os.urandom(size)))

    attempt("pings are answered", pings)

    async def subprotocol():
        async with dial(subprotocols=["other", "echo"]) as ws:
            return ws.subprotocol == "echo"

    attempt("subprotocol", subprotocol)

    async def close_by_us(code, reason):
        ws = await dial()
        await ws.close(code, reason)
        return ws.protocol.close_rcvd.code == code or ws.protocol.close_rcvd

    for code, reason in ((1000, ""), (1001, "going"), (3000, "ü" * 60), (4999, "x" * 123)):
        attempt(f"client closes with {code}", close_by_us, code, reason)

    async def close_by_origin(code):
        async with dial(f"/ws/close-{code}") as ws:
            try:
                await ws.recv()
            except ConnectionClosed as closed:
                return (closed.rcvd.code, closed.rcvd.reason) == (code, "as you wish") or closed

    for code in (1000, 1011, 4321):
        attempt(f"origin closes with {code}", close_by_origin, code)

    async def refused():
        try:
            await dial("/status/403")
        except InvalidStatus as refusal:
            return refusal.response.status_code == 403 and bytes(refusal.response.body) == b"status 403\n"

    attempt("the origin's refusal of an upgrade passes", refused)

    async def idle():
        async with dial() as ws:
            await asyncio.sleep(2.5)
            await ws.send("still here")
            return await ws.recv() == "still here"

    attempt("idle over checkpoints", idle)

    async def many():
        return all(await asyncio.gather(*(echo(bytes([n]) * 20000, compression=None) for n in range(50))))

    attempt("50 at once", many)

    async def abort():
        ws = await dial()
        await ws.send(os.urandom(MIB))
        ws.transport.abort()

    attempt("client goes away without a close", abort)


class H2WebSocket:
    """One extended CONNECT on a connection of its own."""

    def __init__(self, port, trust):
        sock = socket.create_connection(("localhost", port), 10)
        if trust:
            sock = trust.wrap_socket(sock, server_hostname="localhost")
        self.sock = sock
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.received, self.status, self.ended, self.reset, self.settings = b"", None, False, None, {}
        self.flush()
        self.pump(lambda: h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS in self.settings or self.settings)

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def pump(self, until):
        self.sock.settimeout(10)
        while not until():
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError("weir closed the connection")
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    self.settings.update({code: change.new_value for code, change in event.changed_settings.items()})
                elif isinstance(event, h2.events.ResponseReceived):
                    self.status = int(dict(event.headers)[":status"])
                elif isinstance(event, h2.events.DataReceived):
                    self.received += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended = True
                elif isinstance(event, h2.events.StreamReset):
                    self.reset = event.error_code
            self.flush()

    def open(self, path, authority="localhost"):
        headers = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", path), (":authority", authority)]
        self.h2.send_headers(1, [*headers, ("sec-websocket-version", "13"), ("origin", "https://localhost")])
        self.flush()
        self.pump(lambda: self.status or self.reset is not None)
        return self.status

    def send(self, data):
        while data:
            room = min(self.h2.local_flow_control_window(1), self.h2.max_outbound_frame_size)
            if not room:
                before = self.h2.local_flow_control_window(1)
                self.pump(lambda: self.h2.local_flow_control_window(1) > before)
                continue
            self.h2.send_data(1, data[:room])
            self.flush()
            data = data[room:]

    def close(self):
        self.sock.close()


def over_h2(rig, listener, trust):
    say = lambda text: f"{listener} over h2: {text}"
    score = rig.score

    def announced():
        ws = H2WebSocket(rig.ports[listener], trust)
        ws.close()
        return ws.settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL) == 1 or ws.settings

    if not score.attempt(say("extended CONNECT is announced"), announced):
        return

    def echo(size):
        ws = H2WebSocket(rig.ports[listener], trust)
        if ws.open("/ws") != 200:
            return f"status {ws.status} reset {ws.reset}"
        message = os.urandom(size)
        ws.send(Frame(Opcode.BINARY, message).serialize(mask=True))
        expected = Frame(Opcode.BINARY, message).serialize(mask=False)
        ws.pump(lambda: len(ws.received) >= len(expected) or ws.ended or ws.reset is not None)
        if ws.received != expected:
            return f"{len(ws.received)} of {len(expected)} bytes, ended {ws.ended}, reset {ws.reset}"
        ws.send(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))
        ws.pump(lambda: ws.ended or ws.reset is not None)
        ws.close()
        return ws.received == expected + b"\x88\x02\x03\xe8" and ws.ended or (ws.received[-10:], ws.ended, ws.reset)

    for size in (5, 70000, 2 * MIB):
        score.attempt(say(f"echo of {size} bytes, then close"), echo, size)

    def refused():
        ws = H2WebSocket(rig.ports[listener], trust)
        status = ws.open("/status/403")
        ws.close()
        return status == 403 or (status, ws.reset)

    score.attempt(say("the origin's refusal passes"), refused)
