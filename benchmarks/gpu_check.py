"""`make gpu-check`: builds the package on a machine with a GPU, tests it there, and measures it.

Needs no network and no environment, only what such a machine has: a Python with torch, Triton and pytest, and nvcc.
Every stage (`gpu_stages.py` has them) is a process of its own under a time limit. One that raises, hangs or is killed
is recorded as that, and the next one runs. What is known is written every second, and after every stage, to
`benchmarks/results/<card>.json` and, where the environment variable OUT names a folder, to `gpu-check.json` there, with
everything that was printed beside it in `gpu-check.log`. The exit code is 0 only if every stage passed.

    python benchmarks/gpu_check.py          the stages of the first command: nine and a half minutes at most
    python benchmarks/gpu_check.py rest     those of the second, as long
    python benchmarks/gpu_check.py NAME...  those named, added to what was found before
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STAGES = Path(__file__).resolve().with_name("gpu_stages.py")
RESULTS = ROOT / "benchmarks" / "results"
TOTAL_LIMIT = 565.0  # seconds
GRACE = 5.0  # seconds of a limit that are kept for a process to end by itself
EVERY = 1.0  # seconds between two looks at what a running stage has written
NO_CARD = "none"
LONGEST_LOG = 1_000_000  # characters of one stage
SANITIZER_FOUND = 99

Outcome = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A process to run: it writes its results, JSON, to the file that the variable GPU_CHECK_OUTPUT names.

    Attributes:
        name: of the stage.
        limit: seconds it may take; up to twice as many where earlier stages left some over.
        command: what runs.
        environment: variables it runs with besides.
        beside: runs while the stage after it does, and no longer than its own limit.
        must_print: a pattern without which the stage has failed, whatever its exit code; what it finds is recorded.
        kept: how many characters from the end of what is printed become part of the results.
    """

    name: str
    limit: float
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    beside: bool = False
    must_print: str | None = None
    kept: int = 3000


def own(name: str, limit: float, *options: str, **settings: Any) -> Stage:
    """A stage of `gpu_stages.py`."""
    stage = options[0] if options else name
    return Stage(name, limit, (sys.executable, str(STAGES), stage, *options[1:]), **settings)


def tests(name: str, limit: float, *options: str) -> Stage:
    """The tests that need a GPU, those of one backend or all."""
    return own(name, limit, "tests", "tests", "-m", "gpu", *options)


def sanitized(tool: str, limit: float, *backends: str) -> Stage:
    """The ops on small tensors under a tool of compute-sanitizer."""
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    command = (found or "compute-sanitizer", "--tool", tool, "--error-exitcode", str(SANITIZER_FOUND))
    exercise = (sys.executable, str(STAGES), "exercise", "--trimmed", *backends)
    # Without the caching allocator every tensor is an allocation of its own, whose end the sanitizer knows.
    alone = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
    return Stage(tool, limit, (*command, *exercise), alone, must_print=r"(?:ERROR|RACECHECK) SUMMARY: .*")


def first_command() -> list[Stage]:
    """What a first look at a card has to answer."""
    return [
        own("machine", 20),
        own("build", 100, beside=True),
        own("card", 100),
        own("exercise-cuda", 35, "exercise", "cuda"),
        own("exercise-triton", 45, "exercise", "triton"),
        own("engine", 45),
        own("whole", 55),
        own("unit", 25),
        own("backprojections", 90),
        own("benchmarks", 45),
        tests("tests-cuda", 45, "--backend", "cuda"),
        tests("tests-triton", 30, "--backend", "triton"),
        sanitized("memcheck", 30, "cuda", "triton"),
    ]


def second_command() -> list[Stage]:
    """What takes longer, and the tests that are left."""
    ncu = shutil.which("ncu") or shutil.which("ncu", path="/usr/local/cuda/bin") or "ncu"
    profile = (ncu, "--kernel-name", "regex:backproject", "--section", "SpeedOfLight", "--section", "Occupancy")
    return [
        own("machine", 20),
        own("build", 100, beside=True),
        own("card", 100),
        sanitized("racecheck", 95, "cuda"),
        sanitized("initcheck", 80, "cuda"),
        Stage("ncu", 90, (*profile, sys.executable, str(STAGES), "profiled"), kept=30_000),
        tests("tests", 180),
    ]


class Running:
    """A stage under way.

    Args:
        stage: which.
        limit: seconds after which it is ended.
        folder: for what it writes.
    """

    def __init__(self, stage: Stage, limit: float, folder: Path) -> None:
        self.stage, self.limit, self.began = stage, limit, time.monotonic()
        self.output, self.log = folder / f"{stage.name}.json", folder / f"{stage.name}.log"
        self.ended: Outcome | None = None
        self.process: subprocess.Popen[bytes] | None = None
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **dict(stage.environment)}
        variables |= {"GPU_CHECK_OUTPUT": str(self.output), "GPU_CHECK_LIMIT": str(max(1.0, limit - 2 * GRACE))}
        print(f"== {stage.name} (at most {limit:.0f} s)", flush=True)
        try:
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    stage.command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            self.ended = {"status": "not run", "reason": f"{stage.command[0]} could not be started: {error}"}

    def poll(self) -> bool:
        """Whether the stage is over; ends it where its time is."""
        if self.ended is None and self.process is not None:
            code = self.process.poll()
            if code is None and time.monotonic() - self.began > self.limit - GRACE:
                self.ended = self._stop()
            elif code is not None:
                self.kill()  # whatever it left running
                self.ended = self._judged(code)
        return self.ended is not None

    def outcome(self) -> Outcome:
        """What is known by now."""
        found: Outcome = dict(self.ended or {"status": "running"})
        found["seconds"] = round(time.monotonic() - self.began, 1)
        if self.output.exists():
            try:
                found["results"] = json.loads(self.output.read_text())
            except ValueError as error:
                found["results"] = []
                found["unreadable"] = f"what it wrote is no JSON: {error}"
        if found["status"] != "passed" or self.stage.kept > Stage.kept:
            found["output"] = self.printed()[-self.stage.kept :]
        return found

    def printed(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _judged(self, code: int) -> Outcome:
        outcome: Outcome = {"status": "passed"} if code == 0 else {"status": "failed", "reason": f"exit code {code}"}
        if code < 0:
            outcome["reason"] = f"killed by {signal.Signals(-code).name}"
        if self.stage.must_print is not None:
            found = re.search(self.stage.must_print, self.printed())
            outcome["verdict"] = found[0] if found else f"nothing like {self.stage.must_print} was printed"
            if found is None and code == 0:
                outcome |= {"status": "failed", "reason": outcome["verdict"]}
        return outcome

    def _stop(self) -> Outcome:
        """Asks the stage to end, and then kills it."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)  # pytest then still reports what it has done
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        self.kill()
        reason = f"ran out of its {self.limit:.0f} s"
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            reason += ", and cannot be killed"
        return {"status": "failed", "reason": reason}

    def kill(self) -> None:
        """Ends every process of the stage."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Check:
    """A run of stages, and the files that tell of it.

    Args:
        stages: in their order; the first to record a "machine" with its "card" names the file.
        report: what the files say besides.
        results: the folder for `<card>.json`.
        out: a folder that is to have everything, under fixed names; or None.
        total: seconds for all stages.
        adding: whether the stages that the card's file has are kept.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        report: dict[str, Any],
        results: Path = RESULTS,
        out: Path | None = None,
        total: float = TOTAL_LIMIT,
        adding: bool = False,
    ) -> None:
        self.stages, self.results, self.out, self.adding = stages, results, out, adding
        self.deadline = time.monotonic() + total
        self.report: dict[str, Any] = {"card": None, **report, "stages": {}}
        self.under_way: list[Running] = []

    def run(self) -> bool:
        """Runs all stages, none of them where torch finds no card; whether every one passed."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                for number, stage in enumerate(self.stages):
                    self._run(stage, self._limit(number), Path(folder))
                    if self.report["card"] == NO_CARD:
                        break
            finally:
                for running in self.under_way:
                    running.kill()
        found = [self.report["stages"].get(stage.name, {"status": "not run"}) for stage in self.stages]
        self.report["passed"] = all(outcome["status"] == "passed" for outcome in found)
        self.save()
        return bool(self.report["passed"])

    def _run(self, stage: Stage, limit: float, folder: Path) -> None:
        if limit <= 2 * GRACE:
            self._record(stage.name, {"status": "not run", "reason": "no time left", "seconds": 0.0})
            return
        self.under_way.append(Running(stage, limit, folder))
        if stage.beside:
            return
        while self.under_way:
            for running in list(self.under_way):
                if running.poll():
                    self.under_way.remove(running)
                    self._conclude(running)
                else:
                    self._record(running.stage.name, running.outcome())
            if self.under_way:
                time.sleep(EVERY)
        if self.report["card"] is None:
            self.report["card"] = "unknown"  # the stage that was to tell did not

    def _limit(self, number: int) -> float:
        """Seconds for a stage, so that every later one can still have its own."""
        left = self.deadline - time.monotonic()
        later = sum(stage.limit for stage in self.stages[number + 1 :] if not stage.beside)
        own_limit = self.stages[number].limit
        return min(left, own_limit) if self.stages[number].beside else min(left - later, 2 * own_limit)

    def _conclude(self, running: Running) -> None:
        """Records a stage that is over, and shows what it printed last."""
        outcome, printed, name = running.outcome(), running.printed(), running.stage.name
        self._record(name, outcome)
        told = f"== {name}: {outcome['status']}{': ' + outcome['reason'] if 'reason' in outcome else ''}"
        print(f"{printed[-6000:]}\n{told}", flush=True)
        if self.out is not None:
            path = self.out / "gpu-check.log"
            with self._told(path), path.open("a") as log:
                log.write(f"{printed[-LONGEST_LOG:]}\n{told}\n")

    def _record(self, name: str, outcome: Outcome) -> None:
        now = {"commit": self.report.get("commit"), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        self.report["stages"][name] = outcome | now
        for machine in (result["machine"] for result in outcome.get("results", []) if "machine" in result):
            known = self.report["card"] is not None
            self.report.update(machine)
            path = self._path()
            if self.adding and not known and path is not None and path.exists():
                with self._told(path):
                    self.report["stages"] = json.loads(path.read_text())["stages"] | self.report["stages"]
        self.save()

    def _path(self) -> Path | None:
        """The file of the card, where there is one."""
        card = self.report["card"]
        return None if card in (None, NO_CARD) else self.results / result_name(card)

    def save(self) -> None:
        """Writes what is known to every folder; one that cannot be written does not keep it from another."""
        paths = filter(None, (None if self.out is None else self.out / "gpu-check.json", self._path()))
        for path in paths:
            with self._told(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f".{path.name}.draft")
                draft.write_text(json.dumps(self.report, indent=2) + "\n")
                os.replace(draft, path)

    @contextlib.contextmanager
    def _told(self, path: Path) -> Any:
        """Says what could not be read or written, and goes on."""
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            print(f"gpu-check: {path} could not be read or written: {error}", file=sys.stderr, flush=True)


def result_name(card: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + ".json"


def commit() -> str:
    """The commit of the working tree, with a mark where files differ from it; "unknown" outside of a repository."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode != 0:
        return "unknown"
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT, capture_output=True).returncode != 0
    return head.stdout.strip() + (" with changes" if changed else "")


def chosen(names: Sequence[str]) -> list[Stage]:
    """The stages of the first command, of the second ("rest"), or those of that name.

    Raises:
        ValueError: no stage has that name.
    """
    if not names:
        return first_command()
    if list(names) == ["rest"]:
        return second_command()
    known = {stage.name: stage for stage in (*second_command(), *first_command())}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no stage is called {unknown[0]!r}; there are rest, {', '.join(known)}")
    return [known["machine"], *(dataclasses.replace(known[name], beside=False) for name in names if name != "machine")]


def end(number: int, frame: Any) -> None:
    """Leaves by way of every `finally`, so that no stage goes on running by itself."""
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build, test and measure on a GPU.")
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help="rest, or names of stages; by default those of the first command"
    )
    names = parser.parse_args().stages
    try:
        stages = chosen(names)
    except ValueError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, end)
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
    report = {"commit": commit(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    check = Check(stages, report, out=out, adding=bool(names))
    passed = check.run()
    if check.report["card"] == NO_CARD:
        print("gpu-check did not run: torch finds no CUDA device", file=sys.stderr)
    else:
        print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
