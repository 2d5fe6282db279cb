"""WebSocket transparency by the Autobahn test suite: every case's verdict through weir equals its verdict direct.

The cases and the way each judges itself are those of `autobahntestsuite` on PyPI, all of them. The package is Python 2: its
case modules are loaded unchanged from where pip put them but for the replacements of PORTED, and a Python 2 `str` is a str
of latin-1, made octets where it meets the wire. What surrounds the cases there (the fuzzing server and client, the echo
servers) is here, on the asyncio side of `autobahn`.

Each case runs in both roles, the suite as the client of an echo server and as the server of an echo client, each directly,
through weir, and through weir over TLS. Compared are Autobahn's own verdicts and what led to them (`verdict`), with a digest
of every frame that came back. The direct run must pass in Autobahn's eyes, or the comparison would compare nothing.

The short form sends at most MESSAGES_MAX messages in a case and cuts a message at PIECES_MAX fragments or chops and at
MESSAGE_BYTES_MAX; `--full` cuts nothing, which takes hours.
"""

import asyncio
import hashlib
import importlib.machinery
import importlib.util
import logging
import pathlib
import re
import socket
import ssl
import sys
import types
import zlib

from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol, WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket import compress_deflate
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept, PerMessageDeflateResponse, PerMessageDeflateResponseAccept

from rig import Listener

MESSAGES_MAX = 5
PIECES_MAX = 256
MESSAGE_BYTES_MAX = 4 << 20
# The suite's own second is short on a busy machine. Its pauses are longer by this factor, in slices, so that time in which
# this process did not run counts for one of them; its time limits, which no case needs to end, are longer by so many seconds.
PAUSE, SLICES, LIMIT_S = 5, 50, 120
# The peers' own time limits are off but for one, by which 6.4.4 ends, and a run that does not end counts as different.
CLOSE_S = 10
RUN_MAX_S = 240
# Conversations at the same time, but for the cases (by their first number) that work hard: those come one by one.
LIGHT_MAX = 24
HEAVY = ("9", "10", "12", "13")
ROLES = ("client", "server")
WAYS = ("direct", "plain", "tls")
PASSED = ("OK", "NON-STRICT", "INFORMATIONAL")

# Deflate at its fastest: how hard the peers compress is their own affair, and was most of the time.
compress_deflate.zlib = types.SimpleNamespace(**vars(zlib) | {"Z_DEFAULT_COMPRESSION": zlib.Z_BEST_SPEED})

SUITE = pathlib.Path(importlib.util.find_spec("autobahntestsuite").submodule_search_locations[0])
PORTED = [
    (r"^( *)print\b.*", r"\1pass"),
    (r"\bxrange\(", "range("),
    (r"\(object, Case, \)", "(Case,)"),
    (r"\bbinascii\.b2a_hex\(", "repr("),
    (r"validate\(vss\[:i\]\)", "validate(vss[:i].encode('latin-1'))"),
    (r"len\(self\.payload\) / ", "len(self.payload) // "),
    (r"\bos, pkg_resources\b", "os"),
    (r'pkg_resources\.resource_filename\("autobahntestsuite", ', "os.path.join(*SUITE, "),
    # the names of `autobahn` since then
    (r"\b(request|accept)NoContextTakeover\b", r"\1_no_context_takeover"),
    (r"\b(request|accept)MaxWindowBits\b", r"\1_max_window_bits"),
    # not among the cases that are run, and made for Twisted
    (r"^from case9_9_1 import .*", ""),
]


class Ported(importlib.machinery.SourceFileLoader):
    """A case module of the suite, ported while it is loaded."""

    def get_code(self, _name):
        source = pathlib.Path(self.path).read_text("latin-1")
        for old, new in PORTED:
            source = re.sub(old, new, source, flags=re.M)
        return compile(source, self.path, "exec")

    def exec_module(self, module):
        module.SUITE = (str(SUITE),)
        super().exec_module(module)


def load_cases():
    """Autobahn's list of case classes, in its order, by their numbers."""
    finder = importlib.machinery.FileFinder(str(SUITE / "case"), (Ported, [".py"]))
    sys.meta_path.append(types.SimpleNamespace(find_spec=lambda name, _path=None, _target=None: finder.find_spec(name)))
    spec = importlib.util.spec_from_file_location("autobahn_case_list", SUITE / "case/__init__.py", loader=Ported("autobahn_case_list", str(SUITE / "case/__init__.py")))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["case"].Case.compare = lambda _self, received, expected: [octets(e) for e in received] == [octets(e) for e in expected]
    return {kind.__name__.removeprefix("Case").replace("_", "."): kind for kind in module.Cases}


def octets(value):
    """What is a Python 2 str, as the octets it stands for; of an event, each part."""
    if isinstance(value, tuple):
        return tuple(octets(part) for part in value)
    return value.encode("latin-1") if isinstance(value, str) else value


def shorten(case):
    if hasattr(case, "COUNT"):
        case.COUNT = min(case.COUNT, MESSAGES_MAX)
    if hasattr(case, "DATALEN"):
        piece = getattr(case, "FRAGSIZE", None) or getattr(case, "chopsize", None) or MESSAGE_BYTES_MAX
        case.DATALEN = min(case.DATALEN, piece * PIECES_MAX, MESSAGE_BYTES_MAX)
        case.PAYLOAD = case.PAYLOAD[: case.DATALEN]


class Fuzzer:
    """Our end of a case's conversation: what a case calls on its protocol, and the verdict at the end."""

    CLOSE_STATUS_CODE_NORMAL, CLOSE_STATUS_CODE_PROTOCOL_ERROR, CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1000, 1002, 1007
    run = case = None
    connectionWasOpen = False
    logFrames = True
    createWirelog = False

    def begin(self, run):
        self.run, self.timers, self.txFrameStats = run, [], {}
        self.frames, self.frame_count = hashlib.sha256(), 0
        self.case, run.begun = run.kind(self), True
        if not run.full:
            shorten(self.case)

    def onOpen(self):
        self.connectionWasOpen = True
        self.case.onOpen()

    def onMessage(self, payload, isBinary):
        self.case.onMessage(payload, isBinary)

    def onPong(self, payload):
        self.case.onPong(payload)

    def onClose(self, wasClean, code, reason):
        if self.case:
            self.case.onClose(wasClean, code, reason)

    def connection_lost(self, error):
        super().connection_lost(error)
        if self.run:
            for timer in self.timers:
                timer.cancel()
            self.case.onConnectionLost(self.failedByMe)
            self.run.ended(self.verdict())

    def verdict(self):
        return {
            "behavior": self.case.behavior,
            "close": self.case.behaviorClose,
            "result": self.case.result,
            "close result": self.case.resultClose,
            "clean": self.wasClean,
            "closed, failed by the suite": (self.closedByMe, self.failedByMe),
            "close codes": (self.localCloseCode, self.remoteCloseCode, self.remoteCloseReason),
            "compression": str(self._perMessageCompress and self._perMessageCompress.__json__()),
            "frames": (self.frame_count, self.frames.hexdigest()[:16]),
        }

    def logRxFrame(self, frame, payload):
        self.frame_count += 1
        self.frames.update(b"%d %d %d %d " % (frame.opcode, frame.fin, frame.rsv, frame.length) + b"".join(payload))

    def logTxFrame(self, frame, _payload, _repeat, _chopsize, _sync):
        self.txFrameStats[frame.opcode] = self.txFrameStats.get(frame.opcode, 0) + 1

    def enableWirelog(self, _enable):
        pass

    async def later(self, seconds, action):
        for _ in range(SLICES):
            await asyncio.sleep(seconds / SLICES)
        if self.state != self.STATE_CLOSED:
            action()

    def continueLater(self, seconds, action, _tag=None):
        self.timers.append(asyncio.create_task(self.later(seconds * PAUSE, action)))

    def killAfter(self, seconds):
        self.timers.append(asyncio.create_task(self.later(seconds + LIMIT_S, self._fail_connection)))

    def closeAfter(self, seconds):
        self.timers.append(asyncio.create_task(self.later(seconds + LIMIT_S, self.sendClose)))

    def sendFrame(self, opcode, payload=b"", *rest, payload_len=None, **named):
        payload = octets(payload)
        if payload_len is not None:
            # the octets that Autobahn would send, made a hundred times faster
            payload = (payload * (payload_len // len(payload) + 1))[:payload_len]
        super().sendFrame(opcode, payload, *rest, **named)

    def sendMessage(self, payload, *rest, **named):
        super().sendMessage(octets(payload), *rest, **named)

    def sendMessageFrameData(self, payload, *rest, **named):
        return super().sendMessageFrameData(octets(payload), *rest, **named)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        super().sendCloseFrame(code, octets(reasonUtf8), isReply)


class FuzzingClient(Fuzzer, WebSocketClientProtocol):
    def connection_made(self, transport):
        self.begin(self.factory.run)
        super().connection_made(transport)


class FuzzingServer(Fuzzer, WebSocketServerProtocol):
    def onConnect(self, request):
        self.begin(self.factory.runs[request.path])


class EchoServer(WebSocketServerProtocol):
    def onMessage(self, payload, isBinary):
        self.sendMessage(payload, isBinary)


class EchoClient(WebSocketClientProtocol):
    def onMessage(self, payload, isBinary):
        self.sendMessage(payload, isBinary)

    def connection_lost(self, error):
        super().connection_lost(error)
        if not self.factory.run.begun:
            self.factory.run.ended(f"the handshake did not reach the suite: {self.wasNotCleanReason}")


class Run:
    """One case in one role over one way."""

    def __init__(self, number, kind, full):
        self.kind, self.full = kind, full
        self.path = f"/case/{number}/{id(self)}"
        self.begun = False
        self.verdict = asyncio.get_running_loop().create_future()

    def ended(self, verdict):
        if not self.verdict.done():
            self.verdict.set_result(verdict)


def accept_offer(offers):
    return next((PerMessageDeflateOfferAccept(offer) for offer in offers if isinstance(offer, PerMessageDeflateOffer)), None)


def accept_response(response):
    return PerMessageDeflateResponseAccept(response) if isinstance(response, PerMessageDeflateResponse) else None


def set_up(factory, protocol, **options):
    """Autobahn's options for itself under test, but for its time limits."""
    factory.protocol = protocol
    factory.setProtocolOptions(failByDrop=False, openHandshakeTimeout=0, **options)
    return factory


class Suite:
    """The two servers, weir in front of them, and the runs."""

    def __init__(self, rig):
        self.rig = rig
        self.trust = ssl.create_default_context(cafile=rig.certificate)
        # By the role of the suite in front of them: the echo server and the fuzzing one.
        self.sockets = {role: socket.create_server(("127.0.0.1", 0), backlog=100) for role in ROLES}
        self.ports = {role: sock.getsockname()[1] for role, sock in self.sockets.items()}
        listeners = {f"{role}-{way}": Listener(self.ports[role], tls=way == "tls") for role in ROLES for way in WAYS[1:]}
        rig.start_weir(listeners, limits="header_read_timeout_ms = 120000\ntls_handshake_timeout_ms = 120000")

    async def listen(self):
        loop = asyncio.get_running_loop()
        self.fuzzing = set_up(WebSocketServerFactory(), FuzzingServer, closeHandshakeTimeout=0)
        self.fuzzing.runs = {}
        echo = set_up(WebSocketServerFactory(), EchoServer, closeHandshakeTimeout=CLOSE_S, perMessageCompressionAccept=accept_offer)
        await loop.create_server(self.fuzzing, sock=self.sockets["server"])
        await loop.create_server(echo, sock=self.sockets["client"])

    async def converse(self, number, kind, role, way):
        """One run's verdict."""
        run = Run(number, kind, self.rig.full)
        port = self.ports[role] if way == "direct" else self.rig.ports[f"{role}-{way}"]
        factory = WebSocketClientFactory(f"{'wss' if way == 'tls' else 'ws'}://localhost:{port}{run.path}")
        factory.setProtocolOptions(serverConnectionDropTimeout=0)
        factory.run = run
        if role == "client":
            set_up(factory, FuzzingClient, closeHandshakeTimeout=0)
        else:
            self.fuzzing.runs[run.path] = run
            compression = {"perMessageCompressionOffers": [PerMessageDeflateOffer()], "perMessageCompressionAccept": accept_response}
            set_up(factory, EchoClient, closeHandshakeTimeout=CLOSE_S, **compression)
        tls = {"ssl": self.trust, "server_hostname": "localhost"} if way == "tls" else {}
        await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", port, **tls)
        return await asyncio.wait_for(run.verdict, None if self.rig.full else RUN_MAX_S)

    async def check(self, number, kind, role, room):
        async with room:
            verdicts = dict(zip(WAYS, await asyncio.gather(*(self.converse(number, kind, role, way) for way in WAYS), return_exceptions=True)))
        name, direct = f"{number} as {role}", verdicts["direct"]
        if not isinstance(direct, dict) or direct["behavior"] not in PASSED or direct["close"] not in PASSED:
            self.rig.score.check(f"{name}: passes without weir", False, repr(direct))
            return
        for way in WAYS[1:]:
            through = verdicts[way]
            self.rig.score.check(f"{name}, {way}", through == direct, difference(through, direct))


def difference(through, direct):
    if not isinstance(through, dict):
        return repr(through)
    return "; ".join(f"{key}: {through[key]!r} through weir, {direct[key]!r} direct" for key in direct if through[key] != direct[key])


async def run_all(rig):
    suite = Suite(rig)
    await suite.listen()
    light, heavy = asyncio.Semaphore(LIGHT_MAX // len(WAYS)), asyncio.Semaphore(1)
    cases = load_cases()
    for room, wanted in ((light, lambda n: n not in HEAVY), (heavy, lambda n: n in HEAVY)):
        chosen = [(number, kind) for number, kind in cases.items() if wanted(number.split(".")[0])]
        await asyncio.gather(*(suite.check(number, kind, role, room) for number, kind in chosen for role in ROLES))


def checks(rig):
    # the peers' account of each broken rule, which is what the cases are about
    logging.getLogger("autobahn").setLevel(logging.CRITICAL)
    asyncio.run(run_all(rig))
