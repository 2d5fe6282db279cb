"""gRPC by grpcio on both sides: all four kinds of call, over h2c and TLS, with metadata, deadlines, cancellation."""

import concurrent.futures
import threading

import grpc

from rig import Listener

MIB = 1 << 20
CANCELLED = threading.Event()


class Service(grpc.GenericRpcHandler):
    """Methods by name; messages are plain bytes."""

    def service(self, call):
        kinds = {
            "/weir/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/weir/Collect": grpc.stream_unary_rpc_method_handler(self.collect),
            "/weir/Count": grpc.unary_stream_rpc_method_handler(self.count),
            "/weir/Converse": grpc.stream_stream_rpc_method_handler(self.converse),
            "/weir/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/weir/Hang": grpc.unary_stream_rpc_method_handler(self.hang),
        }
        return kinds.get(call.method)

    def unary(self, message, context):
        context.set_trailing_metadata([("said", dict(context.invocation_metadata()).get("say", "")), ("raw-bin", b"\0\xff")])
        return message

    def collect(self, messages, _context):
        return str(sum(len(m) for m in messages)).encode()

    def count(self, message, _context):
        return (b"%d" % n for n in range(int(message)))

    def converse(self, messages, _context):
        return (b"re: " + m for m in messages)

    def fail(self, message, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the reason: ü " + message.decode())

    def hang(self, _message, context):
        context.add_callback(CANCELLED.set)
        yield b"first"
        CANCELLED.wait(10)


def checks(rig):
    sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(64), options=sizes)
    server.add_generic_rpc_handlers([Service()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    rig.start_weir({"plain": Listener(port, protocol="h2"), "tls": Listener(port, protocol="h2", tls=True), "auto": Listener(port)})
    for listener in ("plain", "tls", "auto"):
        target = f"localhost:{rig.ports[listener]}"
        credentials = grpc.ssl_channel_credentials(rig.certificate.read_bytes())
        options = [*sizes, ("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(target, options) if listener != "tls" else grpc.secure_channel(target, credentials, options) as channel:
            calls(rig.score, channel, listener)
    server.stop(2).wait(5)


def calls(score, channel, listener):
    say = lambda text: f"{listener}: {text}"
    unary, collect = channel.unary_unary("/weir/Unary"), channel.stream_unary("/weir/Collect")
    count, converse = channel.unary_stream("/weir/Count"), channel.stream_stream("/weir/Converse")

    score.attempt(say("unary"), lambda: unary(b"hello", timeout=10) == b"hello")
    score.attempt(say("empty message"), lambda: unary(b"", timeout=10) == b"")
    score.attempt(say("8 MiB both ways"), lambda: unary(b"x" * 8 * MIB, timeout=20) == b"x" * 8 * MIB)
    score.attempt(say("compressed message"), lambda: unary(b"x" * MIB, timeout=10, compression=grpc.Compression.Gzip) == b"x" * MIB)

    def metadata():
        _, call = unary.with_call(b"", timeout=10, metadata=[("say", "cheese"), ("some-bin", b"\x01\xfe")])
        trailing = {k: v for k, v in call.trailing_metadata()}
        return (trailing.get("said"), trailing.get("raw-bin")) == ("cheese", b"\0\xff") or trailing

    score.attempt(say("metadata there and back in the trailers"), metadata)
    score.attempt(say("client streaming"), lambda: collect((b"x" * 1000 for _ in range(2000)), timeout=20) == b"2000000")
    score.attempt(say("client streaming of nothing"), lambda: collect(iter(()), timeout=10) == b"0")
    score.attempt(say("server streaming"), lambda: list(count(b"3000", timeout=20)) == [b"%d" % n for n in range(3000)])
    score.attempt(say("server streaming of nothing"), lambda: list(count(b"0", timeout=10)) == [])
    score.attempt(say("bidirectional streaming"), lambda: list(converse((b"%d" % n for n in range(1000)), timeout=20)) == [b"re: %d" % n for n in range(1000)])

    def one_by_one():
        """The next message is sent only when the last one's answer is there: nothing may be held back."""
        go, answers = threading.Semaphore(1), []

        def questions():
            for number in range(50):
                go.acquire(timeout=5)
                yield b"%d" % number

        for answer in converse(questions(), timeout=10):
            answers.append(answer)
            go.release()
        return answers == [b"re: %d" % n for n in range(50)]

    score.attempt(say("a conversation, message by message"), one_by_one)

    def failure(method, message, timeout=10):
        try:
            channel.unary_unary(method)(message, timeout=timeout)
        except grpc.RpcError as error:
            return error.code(), error.details()

    score.equal(say("an error's status and text"), failure("/weir/Fail", b"no"), (grpc.StatusCode.FAILED_PRECONDITION, "the reason: ü no"))
    score.equal(say("an unknown method"), (failure("/weir/Nothing", b"") or [None])[0], grpc.StatusCode.UNIMPLEMENTED)

    def cancel():
        CANCELLED.clear()
        stream = channel.unary_stream("/weir/Hang")(b"", timeout=10)
        first = next(stream)
        stream.cancel()
        return first == b"first" and CANCELLED.wait(5) or "the server was not told"

    score.attempt(say("cancellation reaches the server"), cancel)

    def deadline():
        CANCELLED.clear()
        try:
            list(channel.unary_stream("/weir/Hang")(b"", timeout=0.5))
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and CANCELLED.wait(5)

    score.attempt(say("deadline"), deadline)

    def many():
        futures = [unary.future(b"%d" % n, timeout=20) for n in range(300)]
        return [f.result() for f in futures] == [b"%d" % n for n in range(300)]

    score.attempt(say("300 calls at once on one connection"), many)

    def streams():
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            return all(pool.map(lambda n: len(list(converse((bytes(5000) for _ in range(100)), timeout=20))) == 100, range(20)))

    score.attempt(say("20 bidirectional streams at once"), streams)
