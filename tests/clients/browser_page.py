"""The page that the browser loads, and its sub-resources: path → (content type, body).

The page does its checks, writes them as JSON into `#result`, and reports; /hold answers only after the report, which keeps
the page loading until then, so a dump of the DOM shows the result.
"""

IMAGE = b'<svg xmlns="http://www.w3.org/2000/svg" width="3" height="2"><rect width="3" height="2"/></svg>'
IMAGES = 20

PAGE = b"""<!doctype html><meta charset="utf-8"><title>weir</title><link rel="stylesheet" href="/style"><script src="/script" defer></script>
<pre id="result">nothing yet</pre><img src="/hold">""" + b"".join(b'<img class="small" src="/image?%d">' % n for n in range(IMAGES))

SCRIPT = b"""
const result = {};
const hex = async bytes => [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))].map(b => b.toString(16).padStart(2, '0')).join('');
async function post(body, extra) { return (await fetch('/digest', {method: 'POST', body, ...extra})).json(); }
function socket(path, sends) {
  return new Promise(resolve => {
    const ws = new WebSocket(`wss://${location.host}${path}`), got = [];
    ws.binaryType = 'arraybuffer';
    ws.onopen = () => sends.forEach(m => ws.send(m));
    ws.onmessage = e => { got.push(e.data); if (got.length === sends.length) ws.close(4001, 'enough'); };
    ws.onclose = e => resolve({got, code: e.code, reason: e.reason, clean: e.wasClean});
  });
}
async function run() {
  await Promise.all([...document.querySelectorAll('img.small')].map(i => i.decode()));
  result.images = [...document.querySelectorAll('img.small')].filter(i => i.naturalWidth === 3).length;
  result.style = getComputedStyle(document.body).marginTop;
  result.protocol = performance.getEntriesByType('navigation')[0].nextHopProtocol;
  const bytes = new Uint8Array(3000000).map((_, i) => (i * 31) >> 3);
  result.upload = (await post(bytes)).sha256 === await hex(bytes);
  if (result.protocol === 'h2') {
    const stream = new ReadableStream({start(c) { for (let i = 0; i < 30; i++) c.enqueue(bytes.slice(i * 100000, (i + 1) * 100000)); c.close(); }});
    result.streamed = (await post(stream, {duplex: 'half'})).sha256 === await hex(bytes);
  }
  result.download = (await (await fetch('/bytes/3000000')).arrayBuffer()).byteLength;
  const reader = (await fetch('/drip')).body.getReader();
  let reads = 0;
  while (!(await reader.read()).done) reads++;
  result.reads = reads;
  const aborter = new AbortController();
  const aborted = fetch('/bytes/50000000', {signal: aborter.signal}).then(r => r.arrayBuffer()).then(() => 'whole', e => e.name);
  setTimeout(() => aborter.abort(), 50);
  result.aborted = await aborted;
  const big = 'x'.repeat(500000), echo = await socket('/ws', ['h\\u00e9llo', big, bytes.slice(0, 200000)]);
  result.socket = [echo.got[0], echo.got[1] === big, echo.got[2].byteLength, echo.code, echo.clean];
  const closed = await socket('/ws/close-4321', []);
  result.closed = [closed.code, closed.reason];
}
run().catch(e => { result.error = String(e); }).then(() => { document.getElementById('result').textContent = JSON.stringify(result); return fetch('/report'); });
"""

FILES = {
    "page": ("text/html", PAGE),
    "style": ("text/css", b"body { margin-top: 17px; font: 14px serif }"),
    "script": ("text/javascript", SCRIPT),
    "image": ("image/svg+xml", IMAGE),
}
