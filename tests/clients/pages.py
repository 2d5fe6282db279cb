"""The portal's pages in a headless Chromium: each on a phone and on a desk, light and dark, with and without a script; what they say
against what the ledger says; and that nobody sees another's account. Pictures of all of them stay in the family's folder."""

import http.client
import json
import pathlib
import re
import shutil
import subprocess
import time
import urllib.parse

from cdp import Browser
from rig import HERE, Listener, free_ports

WIDTHS = (390, 1280)
HOSTS = ("api.acme.example", "cdn.acme.example", "shop.globex.example")


def checks(rig):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        return rig.score.skip("the pages", "no Chromium on this machine")
    portal, hook = free_ports(2)
    (rig.folder / "alerts.secret").write_text("a secret of the test suite")
    listener = Listener(rig.start_origin(), more='account = "globex"')
    rule = "".join(f'\n[[attribution]]\nname = "acme-{n}"\nhost = "{host}"\naccount = "acme"\nendpoint = "{host.split(".")[0]}"\n' for n, host in enumerate(HOSTS[:2]))
    budgets = '\n[[budgets]]\naccount = "acme"\nmeter = "requests"\namount = 100\n[[budgets]]\naccount = "globex"\nmeter = "egress_bytes"\namount = 1000000000\n'
    alerts = f'\n[alerts]\nwebhook = "http://127.0.0.1:{hook}/"\nsecret = "alerts.secret"\nlook_interval_ms = 200\nretry_first_ms = 200\n'
    has_query = pathlib.Path(rig.binary).with_name("weir-query").exists()
    archive = f'\n[archive]\nplace = "{rig.folder}/archive"\ncommit_interval_s = 1\nbuckets = 2\n' if has_query else ""
    rig.start_weir({"web": listener}, sink=f'kind = "none"\n[portal]\nlisten = "127.0.0.1:{portal}"\nrequests_per_minute_max = 100000{alerts}{budgets}{archive}{rule}')
    for n in range(126):
        traffic(rig.ports["web"], HOSTS[n % 3], f"/bytes/{n * 1000}" if n % 5 else "/no/such")
    config = rig.folder / "weir.toml"
    rig.start(rig.binary, "ledger", "--config", config)
    link = wait_for(lambda: re.search(r"http://\S+/login/\w+", (rig.folder / "weir.log").read_text()), "the operator's link")[0]
    wait_for(lambda: usage(rig, config).get("acme", {}).get("requests") == 84, "84 requests of acme")
    weir(rig, "correct", "add", "--account", "acme", "--at", time.strftime("%Y-%m-%dT%H:00:00Z", time.gmtime()), "--reason", "our health checks", "--actor", "jo", "--config", config, "requests=-3")
    browser = Browser(chromium, rig.folder / "profile")
    try:
        browser.look(1280)
        address, status = browser.visit(f"http://127.0.0.1:{portal}/")
        rig.score.check("a stranger is asked for a token", address.endswith("/login"), f"{address} {status}")
        rig.score.equal("the link lets the operator in", browser.visit(link)[0], f"http://127.0.0.1:{portal}/")
        operator(rig, browser, f"http://127.0.0.1:{portal}", config)
        if has_query:
            questions(rig, browser, f"http://127.0.0.1:{portal}")
        else:
            rig.score.skip("the archive's pages", "there is no weir-query: cargo build -p weir-query")
        customer(rig, browser, f"http://127.0.0.1:{portal}")
    finally:
        browser.close()


def traffic(port, host, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"host": host})
    connection.getresponse().read()
    connection.close()


def wait_for(action, what, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := action():
            return found
        time.sleep(0.1)
    raise RuntimeError(f"{what}: not within {seconds} s")


def weir(rig, *arguments):
    done = subprocess.run([rig.binary, *[str(a) for a in arguments]], capture_output=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"weir {arguments[0]}: {done.stderr.decode(errors='replace')[-300:]}")
    return done.stdout.decode()


def usage(rig, config):
    """What `weir usage` says of each account."""
    try:
        lines = weir(rig, "usage", "--by", "account", "--json", "--config", config).splitlines()
    except RuntimeError:
        return {}
    return {line["account"]: line for line in map(json.loads, lines) if "account" in line}


def fired(browser):
    return browser.ask("document.querySelectorAll('section[aria-labelledby=fired] tbody tr').length")


def operator(rig, browser, base, config):
    score, month = rig.score, time.strftime("%Y-%m", time.gmtime())
    today = time.strftime("%Y-%m-%d", time.gmtime())
    said = usage(rig, config)["acme"]
    browser.look(1280)
    browser.visit(f"{base}/?account=acme&meter=requests")
    figures = browser.ask("[...document.querySelectorAll('.figures .value, .figures .exact')].map((e) => e.textContent)")
    score.check("the page says what the ledger says", f"{said['egress_bytes']:,} B" in figures and f"{said['requests']:,}" in figures, f"{figures} {said}")
    # The connections belong to the listener's account, the requests to that of their host.
    hour = wait_for(lambda: follow(browser, f"{base}/?account=globex&period={today}&meter=requests", ".chart tbody tr:not([data-amount='0']) a"), "an hour with usage")
    sessions = follow(browser, hour, "td[data-label=Requests] a")
    score.check("a bar leads to sessions, a session to its requests", sessions and "session=" in sessions, sessions)
    record = follow(browser, sessions, "tbody th a") if sessions else None
    score.check("a request leads to its record", record and "/record?" in record, record)
    times = urllib.parse.parse_qs(urllib.parse.urlsplit(hour).query)
    why = f"{base}/why?account=acme&meter=requests&from={times['from'][0]}&to={times['to'][0]}"
    browser.visit(why)
    score.check("an hour is proven by its records", "Proven" in browser.ask("document.body.textContent"), browser.ask("document.body.textContent")[:500])
    score.check("the formula adds up, the correction in it", browser.ask("document.querySelector('.equation tfoot td.n').textContent") == "81", browser.ask("document.querySelector('.equation').textContent"))
    part = f"/audit?account=acme&from={today}"
    for audit in ("/audit", part):
        browser.visit(f"{base}{audit}")
        score.check(f"every byte is explained on {audit}", "Every byte is explained" in browser.ask("document.body.textContent"), browser.ask("document.body.textContent")[:900])
    # 50 and 80 of 100: whether the ledger looked before the correction or after it.
    wait_for(lambda: browser.visit(f"{base}/alerts") and fired(browser) >= 2, "two thresholds")
    score.equal("thresholds have fired, once each", fired(browser), 2)
    pages = {
        "usage": "/",
        "usage-account": f"/?account=acme&meter=egress_bytes&period={month}",
        "usage-hours": f"/?account=acme&meter=requests&period={month}&by=hour",
        "usage-day": f"/?account=acme&period={today}",
        "usage-empty": "/?period=2020-01",
        "sessions": "/sessions",
        "requests": "/requests?account=acme",
        "requests-empty": "/requests?host=nobody.example",
        "record": urllib.parse.urlsplit(record or "")._replace(scheme="", netloc="").geturl(),
        "why-month": f"/why?account=acme&meter=egress_bytes&from={month}-01",
        "why-hour": why.removeprefix(base),
        "alerts": "/alerts",
        "audit": "/audit",
        "audit-part": part,
        "not-found": "/nowhere",
        "wrong": "/?period=yesterday",
    }
    every_look(rig, browser, base, pages)
    browser.look(1280)
    browser.visit(f"{base}/")
    browser.press("Tab", 9)
    score.equal("the first stop of the keyboard leads to the content", browser.ask("document.activeElement.getAttribute('href')"), "#main")
    browser.visit(f"{base}/?account=acme&period={today}&meter=requests")
    score.check("uPlot draws where there is a script", browser.ask("!!document.querySelector('.by-uplot canvas') && !document.querySelector('.plot')"), "it does not")
    place = browser.ask("(() => { const box = document.querySelector('.by-uplot .u-over').getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; })()")
    at = time.gmtime().tm_hour + 0.5
    browser.loaded = False
    browser.click(place[0] + place[2] * at / 24, place[1] + place[3] / 2)
    wait_for(lambda: browser.take(5) and browser.loaded, "a click on a bar")
    score.check("a click on a bar leads to its sessions", "/sessions?" in browser.ask("location.href"), browser.ask("location.href"))


def questions(rig, browser, base):
    """The operator asks the archive, in SQL and by name."""
    def ask(sql):
        browser.visit(f"{base}/archive")
        browser.loaded = False
        browser.ask(f"document.querySelector('textarea').value = {json.dumps(sql)}; document.querySelector('textarea').form.requestSubmit()")
        wait_for(lambda: browser.take(5) and browser.loaded, "an answer")
        return browser.ask("[...document.querySelectorAll('section[aria-labelledby=answer] .wide > table.numbers tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))")

    counted = [[host, "42"] for host in sorted(HOSTS)]
    wait_for(lambda: ask("SELECT host, count(*) AS n FROM requests GROUP BY host ORDER BY host") == counted, "the archive to have all requests")
    rig.score.equal("nothing is told of a question that is none", ask("SELECT nothing"), [])
    told = browser.ask("document.querySelector('[role=alert]')?.textContent ?? ''")
    rig.score.check("what is wrong with it is told", "nothing" in told, told)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    browser.visit(f"{base}/archive/reports/top-talkers?from={today}")
    text = browser.ask("document.body.textContent")
    rig.score.check("a report knows the accounts", "acme" in text and "globex" in text, text[:500])
    every_look(rig, browser, base, {"archive": "/archive", "archive-report": f"/archive/reports/residency?from={today}"})


def follow(browser, page, selector):
    """Where the first such link of a page leads."""
    browser.visit(page)
    return browser.ask(f"document.querySelector({selector!r})?.href ?? null")


def every_look(rig, browser, base, pages):
    rules = (HERE / "pages_rules.js").read_text()
    for name, path in pages.items():
        for width in WIDTHS:
            for dark in (False, True):
                for script in (True, False):
                    look = f"{name} {width} {'dark' if dark else 'light'} {'script' if script else 'no script'}"
                    browser.look(width, dark, script)
                    _, status = browser.visit(base + path)
                    expected = {"not-found": 404, "wrong": 400}.get(name, 200)
                    rig.score.equal(f"{look}: status", status, expected)
                    if expected == 200:
                        rig.score.equal(f"{look}: no complaint", browser.complaints, [])
                    else:
                        # Chromium itself remarks on every error's status.
                        others = [line for line in browser.complaints if "the server responded with a status of" not in line]
                        rig.score.equal(f"{look}: no complaint", others, [])
                    rig.score.equal(f"{look}: rules", browser.ask(rules), [])
                    if script or name.startswith("usage"):
                        browser.screenshot(rig.folder / f"{look.replace(' ', '-')}.png")
    browser.look(1280)


def customer(rig, browser, base):
    """A token of acme sees acme, whatever it asks for."""
    score = rig.score
    token = weir(rig, "token", "issue", "--key", rig.folder / "state" / "portal.key", "--subject", "kim", "--account", "acme", "--valid-s", "600").strip()
    browser.look(1280)
    browser.visit(f"{base}/login?refused=1")
    score.check("who was refused is told why", "not good" in browser.ask("document.querySelector('[role=alert]').textContent"), "")
    every_look(rig, browser, base, {"login": "/login", "login-refused": "/login?refused=1"})
    browser.loaded = False
    browser.visit(f"{base}/login")
    browser.loaded = False
    browser.ask(f"document.querySelector('#token').value = {token!r}; document.querySelector('form').requestSubmit()")
    wait_for(lambda: browser.take(5) and browser.loaded, "the page behind the login")
    text = browser.ask("document.body.textContent")
    score.check("a customer sees its account", "acme" in text and "globex" not in text, text[:500])
    for path in ("/?account=globex", "/sessions?account=globex", "/requests?account=globex", "/why?account=globex", "/alerts?account=globex", "/audit"):
        _, status = browser.visit(base + path)
        text = browser.ask("document.body.textContent")
        score.check(f"{path} is not a customer's", status == 403 and "1,000,000,000" not in text, f"{status} {text[:300]}")
    for path in ("/", "/sessions", "/requests", "/alerts", "/why"):
        _, status = browser.visit(base + path)
        score.check(f"{path} of a customer shows nobody else", status == 200 and "globex" not in browser.ask("document.body.innerHTML"), status)
    every_look(rig, browser, base, {"customer-usage": "/", "customer-alerts": "/alerts"})
    browser.loaded = False
    browser.ask("document.querySelector('form.out').requestSubmit()")
    wait_for(lambda: browser.take(5) and browser.loaded, "the page after signing out")
    score.check("who has signed out is asked again", browser.visit(f"{base}/")[0].endswith("/login"), "")
