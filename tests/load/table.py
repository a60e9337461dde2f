"""From reports to the table of docs/benchmarks.md.

In: the reports of mintmark-bench, several rounds of each measure. Out: medians, and one markdown row a measure with what was to be
reached and how much more it is than SPIRE's figure of the same run.
"""

import statistics


class Row:
    """A measure: where its figure is, its unit, what Mintmark has to reach, and whether more is better."""

    def __init__(self, title, key, figure, unit="", goal=None, more=True, scale=1.0, peer=True, digits=0):
        self.title, self.key, self.figure, self.unit = title, key, figure, unit
        self.goal, self.more, self.scale, self.peer, self.digits = goal, more, scale, peer, digits


MIB = 1 / 1024

ROWS = [
    Row("BatchNewX509SVID, 100 CSRs a call, verified, per server-core-second", "x509-batch", "per_server_core_second", goal=11_000),
    Row("X.509-SVIDs through the link, 1,000 nodes, 1 key a message, per server-core-second", "x509-link-1",
        "per_server_core_second", goal=8_000),
    Row("… 10 keys a message", "x509-link-10", "per_server_core_second", goal=20_000),
    Row("… 100 keys a message", "x509-link-100", "per_server_core_second", goal=25_000),
    Row("NewJWTSVID, ES256, a new audience each, 8 in flight, per server-core-second", "jwt-8", "per_server_core_second", goal=5_500),
    Row("… 64 in flight", "jwt-64", "per_server_core_second", goal=10_000),
    Row("entries created a second, 50 a call, one caller", "entries", "per_second", goal=8_500),
    Row("entry created → visible to the agent's API, median", "propagation-api", "p50_ms", "ms", digits=1, more=False),
    Row("… p99", "propagation-api", "p99_ms", "ms", goal=20, digits=1, more=False),
    Row("entry created → update on the link, p99", "propagation-link", "p99_ms", "ms", goal=20, digits=1, more=False),
    Row("entry created → new SVID on an open workload stream, median", "propagation-workload", "p50_ms", "ms", digits=1, more=False),
    Row("… p99 (Mintmark: 1,000 nodes connected)", "propagation-workload", "p99_ms", "ms", goal=50, digits=1, more=False),
    Row("server RSS, 500 entries under load (BatchNewX509SVID)", "x509-batch", "rss_kib", "MiB", goal=40, more=False, scale=MIB),
    Row("server RSS per connected idle node", "idle", "kib_per_node", "KiB", goal=64, more=False, digits=1),
    Row("server CPU, 1,000 idle nodes connected", "idle", "cpu_percent", "%", more=False, digits=2),
    Row("node part's RSS, 100 workloads", "node", "rss_kib", "MiB", goal=20, more=False, scale=MIB),
    Row("node part's CPU, 100 idle workloads", "node", "cpu_percent", "%", more=False, digits=2),
    Row("p99 of BatchNewX509SVID at half of the full load", "x509-batch-half", "p99_ms", "ms", goal=50, more=False, digits=1),
    Row("p99 of a link message of 10 keys at half of the full load", "x509-link-half", "p99_ms", "ms", goal=50, more=False, digits=1),
    Row("p99 of NewJWTSVID at half of the full load", "jwt-half", "p99_ms", "ms", goal=50, more=False, digits=1),
    Row("wait for the ledger, median, at half of the full load (BatchNewX509SVID)", "x509-batch-half", "log_p50_ms", "ms", goal=10,
        more=False, digits=1),
    Row("leaves per fsync, BatchNewX509SVID", "x509-batch", "leaves_per_fsync"),
    Row("leaves per fsync, NewJWTSVID, 64 in flight", "jwt-64", "leaves_per_fsync", digits=1),
    Row("1,000,000 entries: start to ready", "million", "start_to_ready_seconds", "s", goal=5, more=False, digits=1),
    Row("1,000,000 entries: server RSS", "million", "rss_kib", "MiB", goal=1024, more=False, scale=MIB),
    Row("a node's look-up, 100 entries in all, median", "million", "look_up_few_p50_ms", "ms", more=False, digits=2),
    Row("a node's look-up among 1,000,000 entries, median", "million", "look_up_many_p50_ms", "ms", more=False, digits=2),
]


def median(reports, figure):
    values = [report[figure] for report in reports if report.get(figure) is not None]
    return statistics.median(values) if values else None


def number(value, row):
    if value is None:
        return "–"
    text = f"{value * row.scale:,.{row.digits}f}"
    return f"{text} {row.unit}".strip()


def verdict(row, ours):
    if row.goal is None or ours is None:
        return ""
    value = ours * row.scale
    return "met" if (value >= row.goal if row.more else value <= row.goal) else "**missed**"


def ratio(row, ours, theirs):
    if not ours or not theirs:
        return ""
    factor = ours / theirs if row.more else theirs / ours
    return f"{factor:,.1f}×"


def rows(results):
    """`results`: label, measure -> reports. One list of cells a row that was measured."""
    for row in ROWS:
        ours = median(results.get(("mintmark", row.key), []), row.figure)
        theirs = median(results.get(("spire", row.key), []), row.figure)
        if ours is None and theirs is None:
            continue
        sign = "" if row.goal is None else ("≥ " if row.more else "≤ ")
        goal = "" if row.goal is None else f"{sign}{row.goal:,} {row.unit}".strip()
        yield [row.title, number(theirs, row), number(ours, row), ratio(row, ours, theirs), goal, verdict(row, ours)]


def markdown(results):
    lines = ["| measure | SPIRE | Mintmark | better by | to reach | |", "|---|---:|---:|---:|---:|---|"]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows(results)]
    return "\n".join(lines) + "\n"
