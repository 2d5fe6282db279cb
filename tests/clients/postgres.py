"""psql against PostgreSQL through a tcp listener: queries, errors, bulk both ways, a session that outlives checkpoints."""

import hashlib
import os
import pathlib
import shutil
import subprocess

from rig import Listener, await_port, free_ports


def find(program):
    """PostgreSQL's server programs are often not on the path."""
    return shutil.which(program) or next((str(p) for p in sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), reverse=True)), None)


def checks(rig):
    programs = {name: find(name) for name in ("psql", "initdb", "postgres")}
    if missing := [name for name, path in programs.items() if not path]:
        return rig.score.skip("psql", f"not on this machine: {', '.join(missing)}")
    # The server refuses to run as root and must reach its folder as whoever it runs as.
    unprivileged = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    folder = pathlib.Path(f"/tmp/weir-clients-postgres-{os.getpid()}")
    folder.mkdir(mode=0o700)
    try:
        if unprivileged:
            shutil.chown(folder, "nobody", "nogroup")
        cluster = folder / "cluster"
        subprocess.run(
            [programs["initdb"], "-D", cluster, "-U", "weir", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
            check=True,
            capture_output=True,
            cwd=folder,
            timeout=60,
            **unprivileged,
        )
        [port] = free_ports(1)
        server = rig.start(programs["postgres"], "-D", cluster, "-p", port, "-h", "127.0.0.1", "-k", folder, "-F", cwd=folder, **unprivileged)
        await_port(port, server)
        rig.start_weir({"tcp": Listener(port, kind="tcp")})
        queries(rig, programs["psql"])
        server.terminate()
        server.wait(10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def queries(rig, psql):
    score = rig.score

    def run(*statements, stdin=None):
        command = [psql, "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(rig.ports["tcp"]), "-U", "weir", "-d", "postgres"]
        for statement in statements:
            command += ["-c", statement]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=30, env={**os.environ, "PGSSLMODE": "disable"})

    score.equal("select", run("select 40 + 2").stdout, b"42\n")
    score.check("an error passes", b"division by zero" in run("select 1 / 0").stderr)
    rows = b"".join(b"%d\t%s\n" % (n, hashlib.sha256(b"%d" % n).hexdigest().encode()) for n in range(100000))
    done = run("create table t (n int, h text)", "copy t from stdin", stdin=rows)
    score.equal("copy in (7 MB)", (done.returncode, done.stderr), (0, b""))
    score.check("copy out (7 MB)", run("copy (select * from t order by n) to stdout").stdout == rows)
    score.equal(
        "the server saw the same rows",
        run("select md5(string_agg(n || h, '' order by n)) from t").stdout.strip().decode(),
        hashlib.md5(rows.replace(b"\t", b"").replace(b"\n", b"")).hexdigest(),
    )
    score.check("a result of 20 MB", len(run("select repeat('x', 20000000)").stdout) == 20000001)
    score.equal("a session over checkpoints", run("select 1", "select pg_sleep(2.5)", "select 2").stdout.split(), [b"1", b"2"])
    clients = [
        subprocess.Popen(
            [psql, "-X", "-At", "-h", "127.0.0.1", "-p", str(rig.ports["tcp"]), "-U", "weir", "-d", "postgres", "-c", f"select {n} from pg_sleep(0.3)"],
            stdout=subprocess.PIPE,
        )
        for n in range(20)
    ]
    score.equal("20 clients at once", [int(c.communicate(timeout=20)[0] or -1) for c in clients], list(range(20)))
