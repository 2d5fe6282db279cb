#!/usr/bin/env python3
"""What live traffic feels of a broker that is away, and what shipping costs: one run, real processes.

    cargo build --release && benches/outage.py [--weir target/release/weir] [--rate 2000] [--phase 15]

An Apache Kafka (tests/kafka.sh), an nginx as origin and weir with one worker; h2load asks at a steady rate in HTTP/1.1.
Three phases of equal length: the broker is there; it is killed with -9 and away; it is back and the journal drains.
Prints per phase the latency's percentiles and the CPU time of weir's threads, those that ship apart. Needs nginx, h2load
(nghttp2-client), Java and Maven. Figures mean something on a machine that does nothing else.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
KAFKA = HERE.parent / "tests" / "kafka.sh"
PORT = 21600
SHIPPING = re.compile(r"weir-shipper|rdk:|weir-producer")


def cpu_seconds(pid):
    """CPU time of a process by whether the thread ships."""
    spent = {"shipping": 0.0, "other": 0.0}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            nanoseconds = int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
        spent["shipping" if SHIPPING.match(name) else "other"] += nanoseconds / 1e9
    return spent


def metric(name):
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT + 2}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
    return 0.0


def wait_for(what, seconds):
    deadline = time.time() + seconds
    while True:
        try:
            if what():
                return
        except OSError:
            pass
        if time.time() > deadline:
            sys.exit("outage: it takes too long")
        time.sleep(0.1)


def percentiles(log, begin, end):
    """Milliseconds at 50, 99 and 99.9 % of the requests that began in between; h2load's log: start and length in µs."""
    times = []
    for line in log.read_text().splitlines():
        start, status, length = line.split("\t")[:3]
        if begin <= int(start) / 1e6 < end:
            if status != "200":
                sys.exit(f"outage: a request was answered {status}")
            times.append(int(length) / 1000)
    times.sort()
    return len(times), [times[min(len(times) - 1, int(len(times) * part))] for part in (0.5, 0.99, 0.999)]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--weir", default=HERE.parent / "target/release/weir")
    options.add_argument("--rate", type=int, default=2000, help="requests per second")
    options.add_argument("--phase", type=int, default=15, help="seconds of each phase")
    given = options.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    # Whoever ends it also ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    clients = 20
    with tempfile.TemporaryDirectory() as name:
        house = pathlib.Path(name)
        state = {**os.environ, "WEIR_KAFKA_DIR": str(house / "kafka")}
        # The broker gives way: it would be on another machine.
        kafka = lambda *words: subprocess.run(["nice", "-n", "9", KAFKA, *words], env=state, check=True, stdout=subprocess.DEVNULL)
        began = time.time()
        kafka("start", "--port", str(PORT + 10))
        print(f"the broker took {time.time() - began:.0f} s to start")
        (house / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {house}/nginx.pid; error_log {house}/nginx.log; events {{}}\n"
            f"http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {house}/body; proxy_temp_path {house}/proxy;\n"
            f"fastcgi_temp_path {house}/f; uwsgi_temp_path {house}/u; scgi_temp_path {house}/s;\n"
            f"server {{ listen 127.0.0.1:{PORT}; location / {{ return 200 '{'x' * 256}'; }} }} }}\n"
        )
        (house / "weir.toml").write_text(
            f'state_dir = "{house}/state"\nworkers = 1\n[admin]\nlisten = "127.0.0.1:{PORT + 2}"\n'
            f'[[listeners]]\nname = "web"\nlisten = "127.0.0.1:{PORT + 1}"\nupstream = "127.0.0.1:{PORT}"\n'
            f'[sink]\nkind = "kafka"\nbootstrap_servers = "127.0.0.1:{PORT + 10}"\n[sink.kafka]\npartitions = 1\nreplication = 1\n'
        )
        running = []
        try:
            running.append(subprocess.Popen(["nginx", "-p", house, "-c", house / "nginx.conf"], stderr=subprocess.DEVNULL))
            weir = subprocess.Popen([given.weir, "run", "--config", house / "weir.toml"], stderr=open(house / "weir.log", "w"))
            running.append(weir)
            wait_for(lambda: metric("weir_sink_up") == 1, 20)
            log, seconds = house / "times", 3 * given.phase + 2
            load = subprocess.Popen(
                ["h2load", "--h1", "-c", str(clients), "-t", "1", "--rps", str(given.rate / clients), "-D", str(seconds),
                 "--log-file", log, f"http://127.0.0.1:{PORT + 1}/"],
                stdout=subprocess.DEVNULL,
            )
            running.append(load)
            # The first seconds warm it up.
            time.sleep(2)
            print(f"{given.rate} requests/s, phases of {given.phase} s")
            print("broker        requests   p50 ms   p99 ms  p99.9 ms   weir CPU s   shipping   waiting records")
            marks = []
            for phase, change in (("there", None), ("away", ("kill",)), ("back", ("start",))):
                begin, before = time.time(), cpu_seconds(weir.pid)
                if change:
                    # `start` returns when it answers; the phase goes on meanwhile.
                    subprocess.Popen(["nice", "-n", "9", KAFKA, "broker", "1", *change], env=state, stdout=subprocess.DEVNULL)
                time.sleep(given.phase - (time.time() - begin))
                after, waiting = cpu_seconds(weir.pid), metric("weir_sink_waiting_records")
                marks.append((phase, begin, time.time(), {key: after[key] - before[key] for key in after}, waiting))
            load.wait()
            drained = time.time()
            wait_for(lambda: metric("weir_sink_waiting_records") == 0 or metric("weir_sink_waiting_records") < given.rate, 120)
            drained = time.time() - drained
            reference = None
            for phase, begin, end, spent, waiting in marks:
                count, (half, most, nearly_all) = percentiles(log, begin, end)
                total = sum(spent.values())
                reference = reference or most
                print(f"{phase:12}{count:10}{half:9.2f}{most:9.2f}{nearly_all:10.2f}{total:13.2f}"
                      f"{spent['shipping'] / total:11.1%}{waiting:18.0f}   p99 {most / reference:.2f} × of there")
            print(f"{drained:.1f} s after the end of the load the journal was drained")
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait()
            kafka("clean")


if __name__ == "__main__":
    main()
