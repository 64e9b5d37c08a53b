"""Writes the tables of measurements into docs/performance.md, the plots beside it; with --measure, measures first.

    python benchmarks/report.py                rewrites all of them from benchmarks/results/*.json
    python benchmarks/report.py --measure      runs every benchmark on this machine before that

The tables stand between `<!-- benchmarks:begin -->` and `<!-- benchmarks:end -->` and show losses like gains; every
shape that was measured stands in results/<machine>.md. What `make gpu-check` wrote gives the tables of GPUs.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
PROJECTIONS_PLOT, BANDWIDTH_PLOT = "projections.png", "bandwidth.png"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"

Row = dict[str, Any]


def measure(folder: Path, arguments: list[str]) -> Path:
    """Runs the benchmarks and keeps the medians in <machine>.json."""
    with tempfile.TemporaryDirectory() as draft:
        output = Path(draft) / "benchmarks.json"
        command = [sys.executable, "-m", "pytest", str(HERE), "-o", "python_files=bench_*.py", "-q"]
        command += [
            "--benchmark-only",
            "--benchmark-columns=median,iqr,rounds",
            f"--benchmark-json={output}",
            *arguments,
        ]
        subprocess.run(command, cwd=HERE.parent, check=True)
        found = json.loads(output.read_text())
    machine = found["machine_info"]
    processor = machine["cpu"].get("brand_raw") or machine["processor"] or machine["machine"]
    summary = {
        "machine": f"{processor}, {machine['threads']} threads, {machine['capability']}",
        "torch": machine["torch"],
        "backend": machine["backend"],
        "date": found["datetime"][:10],
        "commit": found["commit_info"].get("id"),
        "rows": [benchmark["extra_info"] for benchmark in found["benchmarks"] if "seconds" in benchmark["extra_info"]],
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', summary['machine'].lower()).strip('-')}.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")
    return path


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-4 else f"{seconds * 1e3:.2f} ms"


def spread(row: Row, name: str) -> str:
    """A median, and where it is known half the distance of the quartiles around it."""
    median = row["seconds"][name]
    if name not in row.get("quartiles", {}):
        return milliseconds(median)
    low, high = row["quartiles"][name]
    return f"{milliseconds(median)} ± {(high - low) / 2 / median:.0%}"


def times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.2g}x"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "| " + " | ".join("---" for _ in header) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def rendered(rows: list[Row]) -> list[str]:
    """The tables of projections, and one for each op."""
    lines = projections([row for row in rows if row["op"] == "projection"])
    for op in dict.fromkeys(row["op"] for row in rows if row["op"] != "projection"):
        chosen = [row for row in rows if row["op"] == op]
        names = list(dict.fromkeys(name for row in chosen for name in row["ratios"]))
        header = ["shape", "layout", "ours", *(f"{name}" for name in names), *(f"ours vs {name}" for name in names)]
        shares = any("share_of_copy" in row for row in chosen)
        conditions = any("load_of_others" in row for row in chosen)
        body = []
        for row in chosen:
            seconds, ratios = row["seconds"], row["ratios"]
            size = "x".join(map(str, row.get("size", ())))
            cells = [row["shape"] if size in ("", row["shape"]) else f"{row['shape']} ({size})", row.get("layout", "")]
            cells += [spread(row, name) if name in seconds else "" for name in ("ours", *names)]
            cells += [times(ratios[name]) if name in ratios else "" for name in names]
            if shares:
                cells += [f"{row['share_of_copy']:.0%}" if "share_of_copy" in row else ""]
            if shares and conditions:
                cells += [f"{row['copy_bandwidth'] / 1e9:.0f} GB/s" if "copy_bandwidth" in row else ""]
            if conditions:
                load = row.get("load_of_others")
                cells += ["" if load is None else f"{load:.0%}"]
            body.append(cells)
        header += ["of copy bandwidth"] * shares + ["copy"] * (shares and conditions)
        header += ["time taken by others"] * conditions
        lines += [f"**{op}**", "", *table(header, body), ""]
    return lines


def projections(rows: list[Row]) -> list[str]:
    """For each network a table of time and one of memory, and what they are of."""
    lines: list[str] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        chosen = [row for row in rows if row["model"] == model]
        names = list(dict.fromkeys(name for row in chosen for name in row["ratios"]))
        with_forward = [name for name in names if name in chosen[0]["with_forward"]]
        seconds, memory = [], []
        for row in chosen:
            field = f"{row['receptive_field'][1]}x{row['receptive_field'][0]}"
            seconds.append([row["layer"], field, milliseconds(row["seconds"]["ours"])])
            memory.append([row["layer"], f"{row['units']['ours']:,}", mebibytes(row["peak_bytes"]["ours"])])
            for name in names:
                found = name in row["ratios"]
                cell = f"{milliseconds(row['seconds'][name])}, {times(row['ratios'][name])}" if found else ""
                seconds[-1].append(cell)
                memory[-1].append(mebibytes(row["peak_bytes"][name]) if found else "")
        per_call = {name: next(row["units"][name] for row in chosen if name in row["ratios"]) for name in names}
        lines += [
            f"**one projection, {model}** with {chosen[0]['weights']}; {chosen[0]['images']}",
            "",
            *table(["layer", "receptive field", "ours", *names], seconds),
            "",
            "Beside each time, how many times faster ours is. The forward pass is left out"
            + (f", but every call of {' and '.join(with_forward)} needs it. " if with_forward else ". ")
            + f"Units per call: {', '.join(f'{name} {count}' for name, count in per_call.items())}, ours as below. "
            f"They agree to {max(row['difference'] for row in chosen):.0e} of a projection's largest value. "
            "Memory that one call needs at its highest, in MiB:",
            "",
            *table(["layer", "units of ours", "ours", *names], memory),
            "",
        ]
        missing = [
            f"{row['layer']}, {name}: not measured: {why}"
            for row in chosen
            for name, why in row["not_measured"].items()
        ]
        lines += [*(f"- {each}" for each in missing), ""] if missing else []
    return lines


def mebibytes(count: int | None) -> str:
    return "not known" if count is None else f"{count / 2**20:,.0f}"


def graphics_card(result: Row) -> list[str]:
    """The tables of one result of `make gpu-check`."""
    lines = [
        f"{result['card']}; torch {result['torch']}, Triton {result['triton']}, CUDA {result['cuda']}; "
        f"{result['time'][:10]}; the checks {'passed' if result.get('passed') else 'did not all pass'}. Medians by "
        "CUDA events, interleaved; a ratio above 1 means ours is faster.",
        "",
        *stage_rows(result),
        *engine_rows(result),
    ]
    for stage, title in (("benchmarks", "pooling and unpooling"), ("backprojections", "backproject2d")):
        outcome = result["stages"].get(stage, {})
        rows = outcome.get("results", [])
        if not rows:
            lines += [f"**{title}**: not measured ({outcome.get('reason', 'the stage did not run')}).", ""]
            continue
        measured = [row for row in rows if "error" not in row]
        ours = [name for name in ("cuda", "triton") if any(name in row["seconds"] for row in measured)]
        others = list(dict.fromkeys(name for row in measured for name in row["speedup_over"]))
        shares = any(row.get("share_of_copy") for row in measured)
        header = ["case", *ours, *(f"{name} vs {other}" for other in others for name in ours)]
        header += [f"{name} of copy bandwidth" for name in ours] if shares else []
        body = []
        for row in rows:
            if "error" in row:
                body.append([row["case"], row["error"].replace("|", "/"), *[""] * (len(header) - 2)])
                continue
            cells = [row["case"], *(milliseconds(row["seconds"][n]) if n in row["seconds"] else "" for n in ours)]
            found = [row["speedup_over"].get(other, {}).get(name) for other in others for name in ours]
            cells += ["" if ratio is None else times(ratio) for ratio in found]
            if shares:
                share = [row["share_of_copy"].get(name) for name in ours]
                cells += ["" if value is None else f"{value:.0%}" for value in share]
            body.append(cells)
        lines += [f"**{title}**", "", *table(header, body), ""]
    return lines


def stage_rows(result: Row) -> list[str]:
    """What became of every stage."""
    body = []
    for name, outcome in result["stages"].items():
        errors = [row["case"] for row in outcome.get("results", []) if "error" in row]
        told = "; ".join(filter(None, (outcome.get("reason"), outcome.get("verdict"), ", ".join(errors[:3]))))
        body.append([name, outcome["status"], f"{outcome.get('seconds', 0):.0f} s", told.replace("|", "/")])
    return [*table(["stage", "outcome", "took", "why"], body), ""]


def engine_rows(result: Row) -> list[str]:
    """The units of a whole VGG16 in every precision, and one unit alone."""
    of_stage = {name: result["stages"].get(name, {}).get("results", []) for name in ("whole", "unit")}
    whole = [
        [
            row["case"],
            f"{row['projections']:,}",
            *(f"{row[kind]:.2f} s" for kind in ("seconds_recording", "seconds_projecting")),
            f"{least:.2f} s" if (least := sum(row.get("least_seconds_by_layer", {}).values())) else "no model",
            f"{max(row['deviation_from_float32'].values()):.1e}",
        ]
        for row in of_stage["whole"]
        if "projections" in row
    ]
    unit = [
        [row["case"], *(f"{row[kind] * 1e6:.0f} us" for kind in ("host_seconds", "seconds_until_done"))]
        for row in of_stage["unit"]
        if "host_seconds" in row
    ]
    header = ["VGG16", "projections", "recording", "projecting", "at the least, by the model", "largest deviation"]
    lines = ["**projections**", "", *table(header, whole), ""] if whole else ["**projections**: not measured.", ""]
    return lines + ([*table(["conv1_2", "host", "until done"], unit), ""] if unit else [])


def heading(result: Row) -> list[str]:
    return [
        f"{result['machine']}; torch {result['torch']}; {result['date']}. Medians, interleaved; a ratio above 1 means "
        "ours is faster.",
        "",
    ]


def results(folder: Path) -> tuple[dict[Path, Row], dict[Path, Row]]:
    """The results of `make bench` and those of `make gpu-check`, which have a form of their own."""
    found = {path: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    benchmarks = {path: result for path, result in found.items() if "rows" in result}
    return benchmarks, {path: result for path, result in found.items() if "card" in result}


def is_shown(row: Row) -> bool:
    """Whether the page has room for it: the rest stands in a file beside the results."""
    if re.match(r"(vgg16|alexnet|zfnet|squeezenet) pool\d", row["shape"]):
        return False
    first = re.search(r" conv1(_1)?,", row["shape"]) is not None
    return row["op"] != "backproject2d" or (row["layout"] == "channels_last" and (first or "pooled" in row["shape"]))


def block(folder: Path) -> str:
    """What the page shows."""
    benchmarks, cards = results(folder)
    lines: list[str] = ["## On the CPU", ""]
    for path, result in benchmarks.items():
        lines += [*heading(result), *rendered([row for row in result["rows"] if is_shown(row)])]
        lines += [f"Every shape: `benchmarks/results/{path.stem}.md`.", ""]
    if not benchmarks:
        lines += ["Not measured: `make bench` measures.", ""]
    drawn = newest(benchmarks)
    if drawn is not None and projection_rows(drawn):
        lines += [f"![Projections per second by layer, ours and the baselines]({PROJECTIONS_PLOT})", ""]
    if drawn is not None and share_rows(drawn):
        lines += [f"![Share of the copy bandwidth by op]({BANDWIDTH_PLOT})", ""]
    lines += ["## On a GPU", ""]
    for result in cards.values():
        lines += graphics_card(result)
    if not cards:
        lines += ["Not measured: `make gpu-check` measures on the machine it runs on.", ""]
    return "\n".join(lines)


def newest(benchmarks: dict[Path, Row]) -> Row | None:
    """The result that is drawn."""
    return max(benchmarks.values(), key=lambda result: result["date"], default=None)


def projection_rows(result: Row) -> list[Row]:
    return [row for row in result["rows"] if row["op"] == "projection"]


def share_rows(result: Row) -> list[Row]:
    return [row for row in result["rows"] if "share_of_copy" in row]


def draw(result: Row, docs: Path) -> list[Path]:
    """Draws projections per second, and shares of the copy bandwidth; returns the files."""
    drawn = []
    docs.mkdir(exist_ok=True)
    for rows, function, name in (
        (projection_rows(result), draw_projections, PROJECTIONS_PLOT),
        (share_rows(result), draw_shares, BANDWIDTH_PLOT),
    ):
        if rows:
            figure = function(rows)
            figure.text(0.01, 0.01, f"{result['machine']}; torch {result['torch']}; {result['date']}", fontsize=7)
            figure.savefig(docs / name, dpi=130)
            drawn.append(docs / name)
    return drawn


def draw_projections(rows: list[Row]) -> Figure:
    """Projections per second by layer, on a logarithmic scale; one panel for each network."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    layers = {model: [row for row in rows if row["model"] == model] for model in models}
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.04, 1, 0.96))  # type: ignore[union-attr]
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False, width_ratios=[len(layers[m]) for m in models])
    for panel, model in zip(panels[0], models, strict=True):
        for place, name in enumerate(names):
            found = [(x, 1 / row["seconds"][name]) for x, row in enumerate(layers[model]) if name in row["seconds"]]
            offset = (place - (len(names) - 1) / 2) * 0.8 / len(names)
            panel.bar([x + offset for x, _ in found], [y for _, y in found], 0.8 / len(names), label=name)
        panel.set_yscale("log")
        panel.set_xticks(range(len(layers[model])), [row["layer"] for row in layers[model]])
        panel.set_title(f"{model}, {layers[model][0]['weights'].split(' (')[0]}", fontsize=10)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("projections per second")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names), fontsize=8)
    return figure


def draw_shares(rows: list[Row]) -> Figure:
    """For every op and layout, the share of a copy's bandwidth at each shape, and their median."""
    groups = list(dict.fromkeys((row["op"], row["layout"]) for row in rows))
    figure = Figure(figsize=(9, 1.2 + 0.33 * len(groups)), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.05, 1, 0.95))  # type: ignore[union-attr]
    panel = figure.subplots()
    for place, group in enumerate(groups):
        shares = [row["share_of_copy"] for row in rows if (row["op"], row["layout"]) == group]
        panel.barh(place, statistics.median(shares), 0.7, color="tab:blue", alpha=0.5)
        panel.plot(shares, [place] * len(shares), ".", color="black", markersize=4, alpha=0.6)
    panel.axvline(1, color="black", linewidth=0.8)
    panel.set_yticks(range(len(groups)), [f"{op}, {layout}" for op, layout in groups], fontsize=8)
    panel.invert_yaxis()
    panel.xaxis.set_major_formatter("{x:.0%}")
    panel.set_xlabel("of the bandwidth of a copy of as many bytes; bars are medians, dots the shapes")
    panel.spines[["top", "right"]].set_visible(False)
    return figure


def generate(folder: Path, page: Path) -> None:
    """Rewrites the tables of a page and draws the plots beside it, all from the results in `folder`."""
    benchmarks, _ = results(folder)
    for path, result in benchmarks.items():
        path.with_suffix(".md").write_text("\n".join([*heading(result), *rendered(result["rows"])]), encoding="utf-8")
    if (drawn := newest(benchmarks)) is not None:
        draw(drawn, page.parent)
    rewrite(page, block(folder))


def rewrite(page: Path, tables: str) -> None:
    """Puts the tables between the marks of a page.

    Raises:
        SystemExit: it lacks the marks.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        sys.exit(f"{page} must hold {BEGIN} and after it {END}, once each")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{tables}{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run the benchmarks on this machine first")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE, help="whose tables to rewrite; the plots lie beside it")
    options, more = parser.parse_known_args()
    if options.measure:
        print(f"wrote {measure(options.results, more)}")
    elif more:
        parser.error(f"unknown arguments {' '.join(more)}; only --measure passes arguments on to pytest")
    generate(options.results, options.page)
    print(f"rewrote the tables of {options.page} and the plots beside it")


if __name__ == "__main__":
    main()
