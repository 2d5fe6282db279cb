"""The origin and the proxies under test: their configuration, start, log.

The same for everyone: one worker on one core, 127.0.0.1, the same certificate, kept-alive connections to the
origin with no limit on requests per connection, bodies streamed (no request buffering, no temporary files),
and an access log in a file with the bytes of each request in both directions, written the way the proxy
writes a file by default. What is not named here is at the proxy's default.

Each proxy has three listeners: plain http, TLS http (h2 and http/1.1 by ALPN), and raw TCP.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import machine

SMALL_BODY = "hello, weir\n"
LARGE_BODY_BYTES = 64 * 1024 * 1024
UPLOAD_BODY_BYTES = 256 * 1024
JOURNAL_BYTES_MAX = 8 * 1024 * 1024 * 1024


class Bench:
    """Folders, ports and files that all configurations share."""

    def __init__(self, cache, first_port, log_buffered):
        self.cache = cache
        self.runs = cache / "run"
        self.log_buffered = log_buffered
        self.origin_port = first_port
        self.sink_port = first_port + 1
        self.next_port = first_port + 10
        self.certificate, self.key, self.certificate_and_key = machine.make_certificate(cache)
        self.large_file = self.make_large_file()

    def make_large_file(self):
        path = self.cache / "www" / "large.bin"
        if not path.exists() or path.stat().st_size != LARGE_BODY_BYTES:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(LARGE_BODY_BYTES))
        return path

    def folder(self, name):
        path = self.runs / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def ports(self):
        self.next_port += 10
        first = self.next_port
        return {"http": first, "tls": first + 1, "tcp": first + 2, "admin": first + 3}


class Proxy:
    """One proxy: `name` as in --only, `title` as in the table."""

    name = title = ""
    rows = None  # all; or the rows this one is for
    runs_tcp = True
    is_weir = False
    is_extra = False  # shown for information, not counted among the peers

    def __init__(self, bench):
        self.bench = bench
        self.folder = bench.folder(self.name)
        self.port = bench.ports()
        self.access_log = self.folder / "bytes.access"
        self.log = self.folder / "bytes.log"
        self.process = None

    def takes(self, row):
        return (self.rows is None or row.name in self.rows) and (self.runs_tcp or row.listener != "tcp")

    def start(self, processes):
        command = self.configure()
        out = self.access_log if self.logs_to_stdout() else self.log
        self.process = processes.start(machine.PROXY_CORE, command, out, self.environment())
        machine.wait_for_port(self.port["http"], self.process, self.log)

    def configure(self):
        """Writes the configuration; returns the command."""
        raise NotImplementedError

    def environment(self):
        return {}

    def logs_to_stdout(self):
        return False

    def version(self):
        raise NotImplementedError

    def counted(self):
        """What the log says after the proxy has ended: path → [requests, received bytes, sent bytes].

        Lines are `path received sent`; a raw TCP connection has the path `-`."""
        totals = {}
        with self.access_log.open() as lines:
            for line in lines:
                fields = line.split(" ")
                if len(fields) == 3 and line.endswith("\n"):
                    add(totals, fields[0], 1, int(fields[1]), int(fields[2]))
        return totals


def add(totals, path, requests, received, sent):
    total = totals.setdefault(path, [0, 0, 0])
    total[0] += requests
    total[1] += received
    total[2] += sent


def nginx_head(folder):
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/bytes.log error;
events {{ worker_connections 4096; }}
"""


def nginx_temporary(folder):
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "\n    ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


class Origin:
    """nginx: 12 bytes from memory, a 64 MiB file by sendfile, and a sink that reads a whole body before it answers.

    A bare `return 200` answers an upload before having read it; so the sink buffers the body in memory
    (proxy_pass without passing it on) and only then lets its second server answer."""

    def __init__(self, bench):
        self.bench = bench
        self.folder = bench.folder("origin")

    def start(self, processes):
        bench, folder = self.bench, self.folder
        configuration = folder / "nginx.conf"
        configuration.write_text(
            nginx_head(folder)
            + f"""http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    {nginx_temporary(folder)}
    upstream sink {{ server 127.0.0.1:{bench.sink_port}; keepalive 64; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{bench.origin_port} backlog=4096;
        location /small/ {{ default_type text/plain; return 200 "hello, weir\\n"; }}
        location /large/ {{ root {bench.large_file.parent}; try_files /large.bin =404; }}
        location /upload/ {{
            client_max_body_size 1m;
            client_body_buffer_size 512k;
            proxy_pass http://sink;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Length $content_length;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
    server {{
        listen 127.0.0.1:{bench.sink_port} backlog=4096;
        location / {{ default_type text/plain; return 200 "$http_x_length\\n"; }}
    }}
}}
"""
        )
        log = folder / "bytes.log"
        process = processes.start(machine.ORIGIN_CORE, ["nginx", "-p", folder, "-e", log, "-c", configuration], log)
        machine.wait_for_port(bench.origin_port, process, log)


class Nginx(Proxy):
    name = title = "nginx"

    def __init__(self, bench):
        super().__init__(bench)
        self.runs_tcp = machine.NGINX_STREAM.exists()

    def configure(self):
        bench, port, folder = self.bench, self.port, self.folder
        buffered = "buffer=64k flush=1s" if bench.log_buffered else ""
        stream = f"""stream {{
    log_format bytes '- $bytes_received $bytes_sent';
    access_log {self.access_log} bytes {buffered};
    server {{ listen 127.0.0.1:{port["tcp"]} backlog=4096; proxy_pass 127.0.0.1:{bench.origin_port}; }}
}}
"""
        configuration = folder / "nginx.conf"
        configuration.write_text(
            (f"load_module {machine.NGINX_STREAM};\n" if self.runs_tcp else "")
            + nginx_head(folder)
            + f"""http {{
    log_format bytes '$uri $request_length $bytes_sent';
    access_log {self.access_log} bytes {buffered};
    keepalive_requests 100000000;
    {nginx_temporary(folder)}
    proxy_max_temp_file_size 0;
    upstream origin {{ server 127.0.0.1:{bench.origin_port}; keepalive 128; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port["http"]} backlog=4096;
        listen 127.0.0.1:{port["tls"]} ssl http2 backlog=4096;
        ssl_certificate {bench.certificate};
        ssl_certificate_key {bench.key};
        ssl_protocols TLSv1.2 TLSv1.3;
        client_max_body_size 0;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_request_buffering off;
        }}
    }}
}}
"""
            + (stream if self.runs_tcp else "")
        )
        return ["nginx", "-p", folder, "-e", self.log, "-c", configuration]

    def version(self):
        done = subprocess.run(["nginx", "-v"], capture_output=True, text=True)
        return done.stderr.strip().rpartition("/")[2]


class HAProxy(Proxy):
    name, title = "haproxy", "HAProxy"
    splice = ""

    def configure(self):
        bench, port = self.bench, self.port
        configuration = self.folder / "haproxy.cfg"
        configuration.write_text(
            f"""global
    nbthread 1
    maxconn 4096
    log stdout format raw local0
defaults
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    log global
    {self.splice}
frontend web
    mode http
    bind 127.0.0.1:{port["http"]}
    bind 127.0.0.1:{port["tls"]} ssl crt {bench.certificate_and_key} alpn h2,http/1.1
    option forwardfor
    log-format "%HPO %U %B"
    default_backend origin
backend origin
    mode http
    http-reuse always
    server origin 127.0.0.1:{bench.origin_port}
frontend raw
    mode tcp
    bind 127.0.0.1:{port["tcp"]}
    log-format "- %U %B"
    default_backend raw_origin
backend raw_origin
    mode tcp
    server origin 127.0.0.1:{bench.origin_port}
"""
        )
        return ["haproxy", "-db", "-f", configuration]

    def logs_to_stdout(self):
        return True

    def version(self):
        done = subprocess.run(["haproxy", "-v"], capture_output=True, text=True)
        return done.stdout.split()[2]


class HAProxySplice(HAProxy):
    name, title = "haproxy-splice", "HAProxy, splice-auto"
    rows = ("download", "tcp")
    splice = "option splice-auto"
    is_extra = True


class Envoy(Proxy):
    name, title = "envoy", "Envoy"

    def __init__(self, bench, binary):
        super().__init__(bench)
        self.binary = binary

    def configure(self):
        port = self.port
        listeners = [
            self.listener("http", port["http"], self.http_filter()),
            self.listener("tls", port["tls"], self.http_filter(), self.tls()),
            self.listener("tcp", port["tcp"], self.tcp_filter()),
        ]
        endpoint = {"address": address(self.bench.origin_port)}
        load_assignment = {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]}
        cluster = {"name": "origin", "type": "STATIC", "connect_timeout": "5s", "load_assignment": load_assignment}
        configuration = self.folder / "envoy.json"
        resources = {"listeners": listeners, "clusters": [cluster]}
        configuration.write_text(json.dumps({"static_resources": resources}, indent=1))
        return [self.binary, "-c", configuration, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]

    def access_logs(self, path):
        kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
        line = {"text_format_source": {"inline_string": f"{path} %BYTES_RECEIVED% %BYTES_SENT%\n"}}
        return [{"name": "file", "typed_config": {"@type": kind, "path": str(self.access_log), "log_format": line}}]

    def listener(self, name, port, filter_, transport=None):
        chain = {"filters": [filter_]}
        if transport:
            chain["transport_socket"] = transport
        return {"name": name, "address": address(port), "filter_chains": [chain]}

    def http_filter(self):
        base = "type.googleapis.com/envoy.extensions.filters"
        router = {"name": "router", "typed_config": {"@type": f"{base}.http.router.v3.Router"}}
        route = {"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}
        hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
        manager = {
            "@type": f"{base}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "web",
            "codec_type": "AUTO",
            "use_remote_address": True,
            "route_config": {"name": "all", "virtual_hosts": hosts},
            "http_filters": [router],
            "access_log": self.access_logs("%PATH(NQ:PATH)%"),
        }
        return {"name": "http", "typed_config": manager}

    def tcp_filter(self):
        kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
        proxy = {"@type": kind, "stat_prefix": "raw", "cluster": "origin", "access_log": self.access_logs("-")}
        return {"name": "tcp", "typed_config": proxy}

    def tls(self):
        kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
        files = {
            "certificate_chain": {"filename": str(self.bench.certificate)},
            "private_key": {"filename": str(self.bench.key)},
        }
        context = {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [files]}
        return {"name": "tls", "typed_config": {"@type": kind, "common_tls_context": context}}

    def version(self):
        done = subprocess.run([self.binary, "--version"], capture_output=True, text=True)
        found = re.search(r"/(\d+\.\d+\.\d+)", done.stdout)
        return found.group(1) if found else "?"


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


class Weir(Proxy):
    """weir as it is delivered: metering, audit and journal on; the journal is the log, no sink."""

    name = title = "weir"
    is_weir = True

    def __init__(self, bench, binary):
        super().__init__(bench)
        self.binary = Path(binary)
        self.state = self.folder / "state"

    def configure(self):
        bench, port = self.bench, self.port
        configuration = self.folder / "weir.toml"
        tls = f'tls = {{ certificate = "{bench.certificate}", key = "{bench.key}" }}\n'
        listeners = [("web", port["http"], "http", ""), ("tls", port["tls"], "http", tls), ("raw", port["tcp"], "tcp", "")]
        text = f'state_dir = "{self.state}"\nworkers = 1\n'
        for name, number, kind, more in listeners:
            text += f'\n[[listeners]]\nname = "{name}"\nlisten = "127.0.0.1:{number}"\nkind = "{kind}"\n'
            text += f'upstream = "127.0.0.1:{bench.origin_port}"\n{more}'
        text += f'\n[admin]\nlisten = "127.0.0.1:{port["admin"]}"\n'
        # Room for every record of the run, so that all can be held against what was asked.
        text += f"\n[journal]\njournal_bytes_max = {JOURNAL_BYTES_MAX}\n"
        configuration.write_text(text + '\n[sink]\nkind = "none"\n')
        return [self.binary, "run", "--config", configuration]

    def version(self):
        done = subprocess.run([self.binary, "--version"], capture_output=True, text=True)
        return done.stdout.strip().rpartition(" ")[2]

    def counted(self):
        """The same from the journal, by `weir events`; says so if a record differs from the kernel's count."""
        totals, differing = {}, []
        command = [self.binary, "events", "--state", self.state, "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log.open("ab")) as events:
            for line in events.stdout:
                event = json.loads(line)
                if event.get("audit", "ok") != "ok":
                    differing.append(event)
                is_raw = event["kind"] == "session" and event.get("listener") == "raw"
                if event["kind"] != "request" and not is_raw:
                    continue
                path = "-" if is_raw else event.get("path", "")
                received = int(event.get("received_body_bytes", 0))
                sent = int(event.get("sent_body_bytes", 0))
                add(totals, path, 1 if event.get("phase") == "close" else 0, received, sent)
        if differing:
            machine.say(f"{len(differing)} of weir's records differ from the kernel's count; first: {differing[0]}")
        return totals


class WeirUnmetered(Weir):
    """The same source built with the feature `unmetered`: what counting costs is the difference."""

    name, title = "weir-off", "weir (metering off)"

