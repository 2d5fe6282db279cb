"""Runs the families of checks one after the other, each with an origin and a weir of its own, each bounded in time."""

import argparse
import faulthandler
import importlib
import os
import pathlib
import signal
import sys
import time
import traceback

from rig import OutOfTime, Rig, Score

# Family (a module with `checks(rig)`) → the seconds it may take.
FAMILIES = {
    "http_tools": 90,
    "grpc_calls": 60,
    "websocket_clients": 60,
    "websocket_cases": 60,
    "autobahn_cases": 900,
    "browser": 60,
    "pages": 400,
    "postgres": 60,
    "ledger_api": 900,
    "terminal": 60,
    "kafka_consumers": 240,
    "clickhouse": 240,
    "archive_readers": 400,
    "archive_s3": 240,
    "h2_conformance": 90,
    "edges": 60,
    "smuggling": 120,
    "h2_floods": 90,
}
# The same with --full.
FULL_S = 6 * 3600


def main():
    parser = argparse.ArgumentParser(prog="tests/clients/run", epilog="example: tests/clients/run --weir target/debug/weir --only http_tools,browser")
    parser.add_argument("--weir", required=True, type=pathlib.Path, help="the binary to check")
    parser.add_argument("--only", default="", help=f"some of: {', '.join(FAMILIES)}")
    parser.add_argument("--verbose", action="store_true", help="print passed checks too")
    parser.add_argument("--full", action="store_true", help="autobahn_cases in full length, which takes hours")
    arguments = parser.parse_args()
    wanted = [name for name in arguments.only.split(",") if name] or list(FAMILIES)
    if unknown := set(wanted) - set(FAMILIES):
        parser.error(f"no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    cache = pathlib.Path(os.environ.get("WEIR_CACHE", "target/clients")).resolve()
    scores = [run_family(name, arguments.weir.resolve(), cache / "run" / name, arguments) for name in wanted]
    passed, failed, skipped, explained = (sum(getattr(s, k) for s in scores) for k in ("passed", "failed", "skipped", "explained"))
    print(f"{passed} passed, {failed} failed, {explained} explained, {skipped} skipped")
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # threads of a family cut by its time limit must not hold the process


def run_family(name, binary, folder, arguments):
    """One family: its checks, then weir's records, whatever happened before."""
    score, began, limit = Score(name, arguments.verbose), time.monotonic(), FULL_S if arguments.full else FAMILIES[name]
    rig = Rig(binary, folder, score, arguments.full)
    faulthandler.dump_traceback_later(limit + 60, exit=True)
    try:
        signal.signal(signal.SIGALRM, out_of_time)
        signal.alarm(limit)
        importlib.import_module(name).checks(rig)
    except (Exception, OutOfTime) as error:
        score.check("the checks run to their end", False, f"{type(error).__name__}: {error}")
        if arguments.verbose:
            traceback.print_exc()
    finally:
        signal.alarm(0)
        try:
            rig.finish()
        finally:
            rig.close()
            faulthandler.cancel_dump_traceback_later()
    print(
        f"{name}: {score.passed} passed, {score.failed} failed, {score.explained} explained, {score.skipped} skipped in {time.monotonic() - began:.1f} s",
        flush=True,
    )
    return score


def out_of_time(_signal, _frame):
    raise OutOfTime("the time of the family is up")


if __name__ == "__main__":
    main()
