// Charts: what the table below the server's SVG says, drawn by uPlot in its place. Without this script the SVG stays.
"use strict";

const UNITS = {
  bytes: [" B", " kB", " MB", " GB", " TB", " PB", " EB"],
  count: ["", " k", " M", " G", " T", " P", " E"],
};

function short(n, unit) {
  if (unit === "seconds") {
    if (n >= 86400) return Math.floor(n / 86400) + " d";
    if (n >= 3600) return Math.floor(n / 3600) + " h";
    return n >= 60 ? Math.floor(n / 60) + " min" : n + " s";
  }
  const units = UNITS[unit];
  let at = 0;
  while (n >= 1000 && at + 1 < units.length) {
    n /= 1000;
    at += 1;
  }
  return +n.toPrecision(3) + units[at];
}

function draw(figure) {
  const rows = [...figure.querySelectorAll("tbody tr")].map((row) => ({
    from: Number(row.dataset.from),
    amount: Number(row.dataset.amount),
    open: "open" in row.dataset,
    link: row.querySelector("a"),
    exact: row.lastElementChild.textContent,
  }));
  const plot = figure.querySelector(".plot");
  if (rows.length < 2 || !plot || typeof uPlot === "undefined") return;
  const unit = figure.dataset.chart;
  const step = rows[1].from - rows[0].from;
  const place = document.createElement("div");
  place.className = "by-uplot";
  place.setAttribute("aria-hidden", "true");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  let chart = null;

  function options() {
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = { stroke: colour("--quiet"), grid: { show: false }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const bars = (name) => ({ fill: colour(name), stroke: colour(name), width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [rows.length > 100 ? 0.9 : 0.76, 64], align: 1, radius: rows.length > 100 ? 0 : 0.12 }) });
    return {
      width: place.clientWidth,
      height: place.clientHeight,
      legend: { show: false },
      tzDate: (s) => uPlot.tzDate(new Date(s * 1000), "UTC"),
      padding: [12, 16, 0, 0],
      cursor: { y: false, x: true, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { range: () => [rows[0].from, rows[rows.length - 1].from + step] }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.05 : 1] } },
      series: [{}, bars("--bar"), bars("--bar-open")],
      axes: [
        { ...axis, size: 28, space: 56, values: (_, splits) => splits.map((s) => (s > rows[rows.length - 1].from ? "" : label(s))) },
        { ...axis, size: 62, space: 36, grid: { stroke: colour("--line"), width: 1 }, values: (_, splits) => splits.map((n) => short(n, unit)) },
      ],
      hooks: { setCursor: [point] },
    };
  }

  function label(s) {
    const date = new Date(s * 1000);
    const hour = date.getUTCHours();
    if (step < 86400 && (hour || rows.length <= 48)) return String(hour).padStart(2, "0") + ":00";
    return date.getUTCDate() + " " + date.toLocaleString("en", { month: "short", timeZone: "UTC" });
  }

  function under(u, left) {
    if (left === undefined || left < 0) return null;
    const at = Math.floor((u.posToVal(left, "x") - rows[0].from) / step);
    return rows[Math.min(Math.max(at, 0), rows.length - 1)];
  }

  function point(u) {
    const row = under(u, u.cursor.left);
    tip.hidden = !row;
    if (!row) return;
    tip.textContent = row.link.textContent + "  " + row.exact + (row.open ? " so far" : "");
    const left = u.over.offsetLeft + u.cursor.left - tip.offsetWidth / 2;
    tip.style.left = Math.max(0, Math.min(left, place.clientWidth - tip.offsetWidth)) + "px";
    tip.style.top = "-8px";
  }

  function redraw() {
    if (chart) chart.destroy();
    const closed = rows.map((row) => (row.open ? null : row.amount));
    const open = rows.map((row) => (row.open ? row.amount : null));
    chart = new uPlot(options(), [rows.map((row) => row.from), closed, open], place);
    chart.over.addEventListener("click", (event) => {
      const row = under(chart, event.clientX - chart.over.getBoundingClientRect().left);
      if (row) location.href = row.link.href;
    });
  }

  plot.replaceWith(place);
  figure.append(tip);
  redraw();
  let wide = place.clientWidth;
  new ResizeObserver(() => {
    if (place.clientWidth === wide) return;
    wide = place.clientWidth;
    chart.setSize({ width: wide, height: place.clientHeight });
  }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

document.querySelectorAll("[data-chart]").forEach(draw);
