"""The results as a table for people and as JSON for programs."""

import statistics

METERING_COST_MAX = 1.05


def summarize(rows, proxies, samples, failures):
    """One entry per row: each proxy's median, least and most, and weir's ratio to the best peer."""
    entries = []
    for row in rows:
        entry = {"row": row.name, "title": row.title, "unit": row.unit, "target": row.target, "proxies": {}}
        entry["body_bytes_per_request"] = row.received_bytes + row.sent_bytes
        for proxy in proxies:
            key = row.name, proxy.name
            if key in failures:
                entry["proxies"][proxy.name] = {"failed": failures[key]}
            elif samples.get(key):
                values = [nanoseconds / row.nanoseconds_per_unit for nanoseconds in samples[key]]
                spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
                entry["proxies"][proxy.name] = {**spread, "rounds": values}
        judge(row, proxies, entry)
        entries.append(entry)
    return entries


def judge(row, proxies, entry):
    medians = {name: result["median"] for name, result in entry["proxies"].items() if "median" in result}
    peers = [proxy.name for proxy in proxies if not proxy.is_weir and not proxy.is_extra]
    peers = [name for name in peers if name in medians and (not row.against or name in row.against)]
    best = min(peers, key=medians.get, default=None)
    entry["best_peer"] = best
    entry["ratio"] = medians["weir"] / medians[best] if best and "weir" in medians else None
    entry["met"] = entry["ratio"] <= row.target if entry["ratio"] is not None else None
    both = "weir" in medians and "weir-off" in medians
    entry["metering_cost"] = medians["weir"] / medians["weir-off"] if both else None


def markdown(entries, proxies, details):
    shown = [proxy for proxy in proxies if not proxy.is_extra]
    head = ["row", "CPU unit", *(proxy.title for proxy in shown), "weir ÷ best peer", "target", "met"]
    lines = [line(head), line(["---"] * len(head))]
    for entry in entries:
        cells = [cell(entry["proxies"].get(proxy.name)) for proxy in shown]
        ratio = f"{entry['ratio']:.2f} ({entry['best_peer']})" if entry["ratio"] is not None else "–"
        lines.append(line([entry["title"], entry["unit"], *cells, ratio, f"≤ {entry['target']}", verdict(entry["met"])]))
    costs = [(entry["row"], entry["metering_cost"]) for entry in entries if entry["metering_cost"] is not None]
    if costs:
        listed = ", ".join(f"{name} {cost:.3f}" for name, cost in costs)
        worst = max(cost for _, cost in costs)
        lines += ["", f"Metering on ÷ off: {listed}; target ≤ {METERING_COST_MAX}: {verdict(worst <= METERING_COST_MAX)}"]
    for proxy in proxies:
        if proxy.is_extra:
            got = [(e["title"], e["unit"], e["proxies"][proxy.name]) for e in entries if proxy.name in e["proxies"]]
            lines += ["", *(f"For information, {proxy.title}: {title}: {cell(result)} {unit}" for title, unit, result in got)]
    for entry in entries:
        for name, result in entry["proxies"].items():
            if "failed" in result:
                lines += ["", f"FAILED {entry['row']} {name}: {result['failed']}"]
    lines += ["", "Median (least–most) of the rounds. " + details]
    return "\n".join(lines)


def cell(result):
    if result is None:
        return "–"
    if "failed" in result:
        return "FAILED"
    return f"{result['median']:.1f} ({result['min']:.1f}–{result['max']:.1f})"


def line(cells):
    return "| " + " | ".join(cells) + " |"


def verdict(met):
    return {True: "yes", False: "no", None: "–"}[met]
