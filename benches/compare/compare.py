"""weir beside nginx, HAProxy and Envoy: CPU time per request, in one run. README.md says how and why."""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import time
from pathlib import Path

import machine
import proxies
import report
import rows

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
EVERYONE = ("nginx", "haproxy", "haproxy-splice", "envoy", "weir", "weir-off")


def parse():
    parser = argparse.ArgumentParser(
        prog="benches/compare/run",
        description="Compares weir with nginx, HAProxy and Envoy: CPU time per request on one core.",
        epilog="example: benches/compare/run --rows small,tls --seconds 2 --only weir,nginx",
    )
    names = ",".join(row.name for row in rows.ROWS)
    parser.add_argument("--rows", default=names, metavar="NAMES", help=f"which rows, of {names}")
    parser.add_argument("--only", default=",".join(EVERYONE), metavar="NAMES", help=f"which of {','.join(EVERYONE)}")
    parser.add_argument("--seconds", type=float, default=1.0, help="load per row, proxy and round (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--minutes", type=float, default=5.5, help="rounds that do not fit are left out (default 5.5)")
    parser.add_argument("--log-buffered", action="store_true", help="nginx writes its access log in 64 KiB blocks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the JSON goes (default: cache folder)")
    parser.add_argument("--keep", action="store_true", help="keep configurations, logs and journals of the run")
    options = parser.parse_args()
    options.rows = options.rows.split(",")
    options.only = options.only.split(",")
    for given, known in ((options.rows, names.split(",")), (options.only, EVERYONE)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    if not 0.1 <= options.seconds <= 60 or not 1 <= options.rounds <= 50:
        parser.error("--seconds is 0.1 to 60, --rounds is 1 to 50")
    return options


def main():
    options = parse()
    if len(machine.CORES) < 2:
        raise machine.Failure("needs two CPUs: one for the proxy, one for the origin and the load")
    cache = Path(os.environ.get("WEIR_BENCH_DIR", REPOSITORY / "target" / "compare")).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(cache / "run", ignore_errors=True)

    # The origin is nginx, whoever is compared.
    machine.install_packages(["nginx", "haproxy", "h2load", "openssl", "setpriv", "taskset"])
    load_binary = machine.build_load(HERE / "load.rs", cache)
    bench = proxies.Bench(cache, int(os.environ.get("WEIR_BENCH_PORT", "21000")), options.log_buffered)
    compared = list(choose(bench, options, cache))

    processes = machine.Processes()
    try:
        started_at = time.monotonic()
        machine.require_free([bench.origin_port, bench.sink_port, *(p for one in compared for p in one.port.values())])
        proxies.Origin(bench).start(processes)
        failures = {}
        running = start_all(compared, processes, failures)
        chosen = [row for row in rows.ROWS if row.name in options.rows]
        runner = rows.Runner(load_binary, options.seconds)
        deadline = started_at + options.minutes * 60
        samples = measure(runner, chosen, running, options.rounds, deadline, failures)
        for proxy in running:
            if proxy.process.poll() is not None:
                machine.say(f"{proxy.title} ended by itself with {proxy.process.returncode}; see {proxy.log}")
        processes.end()
        check_logs(runner, chosen, running, samples, failures)
    finally:
        processes.end()
    entries = report.summarize(chosen, compared, samples, failures)
    versions = {proxy.title: proxy.version() for proxy in running if not proxy.is_extra}
    details = describe(options, versions, time.monotonic() - started_at, runner.disturbance())
    print(report.markdown(entries, compared, details))
    path = options.json or cache / "results.json"
    about = {"versions": versions, "seconds": options.seconds, "rounds": options.rounds}
    about |= {"machine": cpu_model(), "disturbance": runner.disturbance()}
    path.write_text(json.dumps({**about, "rows": entries}, indent=1) + "\n")
    machine.say(f"JSON in {path}")
    if not options.keep:
        shutil.rmtree(cache / "run", ignore_errors=True)
    wanted = {"weir", "weir-off"} & set(options.only)
    return 1 if failures or (wanted and not any(proxy.is_weir for proxy in running)) else 0


def choose(bench, options, cache):
    """The proxies to compare, installed or built."""
    if "nginx" in options.only:
        yield proxies.Nginx(bench)
    if "haproxy" in options.only:
        yield proxies.HAProxy(bench)
    if "haproxy-splice" in options.only and {"download", "tcp"} & set(options.rows):
        yield proxies.HAProxySplice(bench)
    if "envoy" in options.only:
        yield proxies.Envoy(bench, machine.install_envoy(cache))
    if {"weir", "weir-off"} & set(options.only):
        for name, kind in (("weir", proxies.Weir), ("weir-off", proxies.WeirUnmetered)):
            if name not in options.only:
                continue
            binary = machine.build_weir(REPOSITORY, unmetered=name == "weir-off")
            if binary is None:
                machine.say(f"{name} does not build: its columns stay empty")
                continue
            yield kind(bench, binary)


def start_all(compared, processes, failures):
    """Starts each; one that does not start fails all its rows, not the run."""
    running = []
    for proxy in compared:
        try:
            proxy.start(processes)
            running.append(proxy)
        except machine.Failure as failure:
            machine.say(f"{proxy.title} did not start: {failure}")
            failures.update({(row.name, proxy.name): "did not start" for row in rows.ROWS if proxy.takes(row)})
    return running


def measure(runner, chosen, running, rounds, deadline, failures):
    """(row, proxy) → CPU nanoseconds per request of each round; the order of the proxies rotates by round.

    Each row may use its share of the time that is left; it has one round at least."""
    samples = {}
    for index, row in enumerate(chosen):
        started_at = time.monotonic()
        share = (deadline - started_at) / (len(chosen) - index)
        round_seconds = 0.0
        takers = [proxy for proxy in running if proxy.takes(row)]
        for round_ in range(-1, rounds):
            turn = max(round_, 0) % max(len(takers), 1)
            round_started_at = time.monotonic()
            if round_ > 0 and round_started_at - started_at + round_seconds > share:
                machine.say(f"{row.name}: {round_} of {rounds} rounds, for want of time")
                break
            for proxy in takers[turn:] + takers[:turn]:
                key = row.name, proxy.name
                if key in failures:
                    continue
                try:
                    if round_ < 0:
                        runner.prepare(row, proxy)
                    else:
                        samples.setdefault(key, []).append(runner.measure(row, proxy))
                except rows.RowFailed as failed:
                    failures[key] = str(failed)
                    machine.say(f"{row.name}: {proxy.title} FAILED: {failed}")
            round_seconds = time.monotonic() - round_started_at
        machine.say(f"{row.name}: done")
    return samples


def check_logs(runner, chosen, running, samples, failures):
    """Each proxy's own count of requests and bytes must be what was asked of it, row by row."""
    for proxy in running:
        measured = [row for row in chosen if (row.name, proxy.name) in samples and (row.name, proxy.name) not in failures]
        if proxy.name == "weir-off" or not measured:
            continue
        try:
            counted = proxy.counted()
        except (OSError, ValueError, KeyError) as error:
            machine.say(f"{proxy.title}: its log cannot be read: {error!r}")
            counted = {}
        for row in measured:
            try:
                runner.check_log(row, proxy, counted)
            except rows.RowFailed as failed:
                failures[row.name, proxy.name] = str(failed)
                machine.say(f"{row.name}: {proxy.title} FAILED: {failed}")


def describe(options, versions, seconds, disturbance):
    named = ", ".join(f"{title} {version}" for title, version in versions.items())
    load = f"{options.rounds} interleaved rounds of {options.seconds:g} s"
    quiet = f"others used {disturbance:.0%} of the proxies' core meanwhile"
    return f"{load}, {seconds:.0f} s in all; {quiet}; {cpu_model()}, Linux {platform.release()}; {named}."


def cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} CPUs"
    return f"{platform.machine()}, {os.cpu_count()} CPUs"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        sys.exit(main())
    except machine.Failure as failure:
        machine.say(str(failure))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
