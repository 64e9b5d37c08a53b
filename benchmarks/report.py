"""Writes the tables of measurements into README.md; with --measure, measures first.

    python benchmarks/report.py                rewrites the marked blocks of README.md from benchmarks/results/*.json
    python benchmarks/report.py --measure      runs every benchmark on this machine before that

The tables stand between `<!-- benchmarks:begin -->` and `<!-- benchmarks:end -->` and show losses like gains; those of
every pool of the three networks stand in results/<machine>.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"

Row = dict[str, Any]


def measure(arguments: list[str]) -> Path:
    """Runs the benchmarks and keeps the medians in results/<machine>.json."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "benchmarks.json"
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
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', summary['machine'].lower()).strip('-')}.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")
    return path


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-4 else f"{seconds * 1e3:.2f} ms"


def times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.2g}x"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "| " + " | ".join("---" for _ in header) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def rendered(rows: list[Row]) -> list[str]:
    """One table for each op."""
    lines: list[str] = []
    for op in dict.fromkeys(row["op"] for row in rows):
        chosen = [row for row in rows if row["op"] == op]
        names = list(dict.fromkeys(name for row in chosen for name in row["ratios"]))
        header = ["shape", "layout", "ours", *(f"{name}" for name in names), *(f"ours vs {name}" for name in names)]
        shares = any("share_of_copy" in row for row in chosen)
        body = []
        for row in chosen:
            seconds, ratios = row.get("seconds_per_unit", row["seconds"]), row["ratios"]
            size = "x".join(map(str, row["size"]))
            cells = [row["shape"] if row["shape"] == size else f"{row['shape']} ({size})", row["layout"]]
            cells += [milliseconds(seconds["ours"])]
            cells += [milliseconds(seconds[name]) if name in ratios else "" for name in names]
            cells += [times(ratios[name]) if name in ratios else "" for name in names]
            body.append(cells + ([f"{row['share_of_copy']:.0%}"] if shares else []))
        per_unit = ", per unit" if "seconds_per_unit" in chosen[0] else ""
        lines += [f"**{op}{per_unit}**", "", *table(header + (["of copy bandwidth"] if shares else []), body), ""]
    return lines


def heading(result: Row) -> list[str]:
    return [
        f"{result['machine']}; torch {result['torch']}; {result['date']}. Medians, interleaved; a ratio above 1 means "
        "ours is faster.",
        "",
    ]


def results() -> Iterator[tuple[Path, Row]]:
    """The results of `make bench`; those of `make gpu-check` have a form of their own."""
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        if "rows" in result:
            yield path, result


def block() -> str:
    """The tables for the README: the pools of the three networks stand in a file beside the results."""
    lines: list[str] = []
    for path, result in results():
        rows = [row for row in result["rows"] if not re.match(r"(vgg16|alexnet|zfnet) pool\d", row["shape"])]
        full = f"benchmarks/results/{path.stem}.md"
        lines += [*heading(result), *rendered(rows)]
        lines += [f"Every pool of VGG16, AlexNet and ZFNet: [{full}]({full}).", ""]
    return "\n".join(lines) if lines else "Not measured yet: `make bench`.\n"


def rewrite(readme: Path) -> None:
    """Puts the tables between the marks of a README.

    Raises:
        SystemExit: it lacks the marks.
    """
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        sys.exit(f"{readme} must hold {BEGIN} and after it {END}, once each")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{block()}{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run the benchmarks on this machine first")
    parser.add_argument("--readme", type=Path, default=README)
    options, more = parser.parse_known_args()
    if options.measure:
        print(f"wrote {measure(more)}")
    elif more:
        parser.error(f"unknown arguments {' '.join(more)}; only --measure passes arguments on to pytest")
    for path, result in results():
        path.with_suffix(".md").write_text("\n".join([*heading(result), *rendered(result["rows"])]), encoding="utf-8")
    rewrite(options.readme)
    print(f"rewrote the tables of {options.readme}")


if __name__ == "__main__":
    main()
