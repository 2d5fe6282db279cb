"""An Apache Kafka for one family, and every message of a topic."""

import contextlib
import os
import shutil
import socket
import subprocess
import time

from rig import HERE

ROOT = HERE.parent.parent


@contextlib.contextmanager
def apache_kafka(rig):
    """Its address, and `kafka(arguments…)` of tests/kafka.sh; (None, None) where it cannot be, which is then said."""
    if missing := [name for name in ("java", "mvn") if not shutil.which(name)]:
        rig.score.skip("Apache Kafka", f"not on this machine: {', '.join(missing)}")
        yield None, None
        return
    port = next(p for p in range(21000, 29000, 50) if all(is_free(p + k) for k in (0, 10, 20)))
    environment = {**os.environ, "WEIR_KAFKA_DIR": str(rig.folder / "kafka")}

    def kafka(*arguments, seconds=150):
        command = [str(ROOT / "tests/kafka.sh"), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, timeout=seconds)

    started = kafka("start", "--port", port, "--until-exit-of", os.getpid())
    try:
        good = rig.score.check("Apache Kafka starts", started.returncode == 0, started.stderr)
        yield (f"127.0.0.1:{port}", kafka) if good else (None, None)
    finally:
        kafka("clean")


def is_free(port):
    try:
        socket.create_server(("127.0.0.1", port)).close()
        return True
    except OSError:
        return False


def consume(servers, topic):
    """Every message of the topic's only partition, by confluent-kafka."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": "foreign", "enable.partition.eof": True, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    messages, deadline = [], time.monotonic() + 30
    while time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            consumer.close()
            return messages
        messages.append(message)
    raise AssertionError("the end of the topic was not reached")
