"""`make gpu-check` without a GPU: what it brings back when stages fail, hang, are killed or leave things behind."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MACHINE = {"card": "Some GPU 80GB", "torch": "2.11.0", "triton": "3.6.0", "cuda": "13.0"}
WRITE = "import json, os, pathlib, sys, time; out = pathlib.Path(os.environ['GPU_CHECK_OUTPUT']); "

if not (BENCHMARKS / "gpu_check.py").exists():
    pytest.skip("the benchmarks are not here", allow_module_level=True)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


gpu_check = load("gpu_check")


def wrote(*results: dict[str, Any]) -> str:
    return f"{WRITE}out.write_text({json.dumps(json.dumps(results))}); "


def stage(name: str, code: str, limit: float = 60, **settings: Any) -> Any:
    return gpu_check.Stage(name, limit, (sys.executable, "-S", "-c", code), **settings)


def machine(card: str = MACHINE["card"]) -> Any:
    return stage("machine", wrote({"case": "machine", "machine": {**MACHINE, "card": card}}))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "GRACE", 0.5)
    monkeypatch.setattr(gpu_check, "EVERY", 0.05)


def is_alive(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")


def test_no_stage_hides_another(tmp_path: Path) -> None:
    half = {"case": "half", "bytes": 3}
    stages = [
        machine(),
        stage("raises", wrote(half) + "print('about to'); raise ValueError('what was wrong')"),
        stage("hangs", wrote(half) + "print('still here', flush=True); time.sleep(600)", limit=4),
        stage(
            "hangs on", "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)", limit=1.5
        ),
        stage("is killed", wrote(half) + "os.kill(os.getpid(), 9)"),
        stage("crashes", "import ctypes; ctypes.string_at(0)"),
        stage("writes rubbish", WRITE + "out.write_text('[1, ')"),
        gpu_check.Stage("is missing", 60, ("/there/is/no/such/program",)),
        stage("says nothing", "pass", must_print=r"ERROR SUMMARY: .*"),
        stage("says it", "print('==== ERROR SUMMARY: 0 errors')", must_print=r"ERROR SUMMARY: .*"),
        stage("passes", wrote(half)),
    ]
    out = tmp_path / "out"
    check = gpu_check.Check(stages, {"commit": "abc"}, tmp_path / "results", out)
    assert not check.run()
    report = json.loads((out / "gpu-check.json").read_text())
    assert json.loads((tmp_path / "results" / "some-gpu-80gb.json").read_text()) == report
    assert {**report, **MACHINE} == report and report["passed"] is False
    found = report["stages"]
    assert list(found) == [stage.name for stage in stages]
    assert {name: outcome["status"] for name, outcome in found.items()} == {
        "machine": "passed",
        "raises": "failed",
        "hangs": "failed",
        "hangs on": "failed",
        "is killed": "failed",
        "crashes": "failed",
        "writes rubbish": "passed",
        "is missing": "not run",
        "says nothing": "failed",
        "says it": "passed",
        "passes": "passed",
    }
    for name in ("raises", "hangs", "is killed", "passes"):
        assert found[name]["results"] == [half]
        assert found[name]["commit"] == "abc"
    assert found["raises"]["reason"] == "exit code 1" and "what was wrong" in found["raises"]["output"]
    assert re.fullmatch(r"ran out of its \d+ s", found["hangs"]["reason"]) and "still here" in found["hangs"]["output"]
    assert found["is killed"]["reason"] == "killed by SIGKILL" and found["crashes"]["reason"] == "killed by SIGSEGV"
    assert found["writes rubbish"]["results"] == [] and "no JSON" in found["writes rubbish"]["unreadable"]
    assert "/there/is/no/such/program could not be started" in found["is missing"]["reason"]
    assert found["says it"]["verdict"] == "ERROR SUMMARY: 0 errors"
    log = (out / "gpu-check.log").read_text()
    assert "what was wrong" in log and "== is killed: failed: killed by SIGKILL" in log


@needs_proc
def test_nothing_that_a_stage_started_outlives_it(tmp_path: Path) -> None:
    child = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)']); "
    )
    told = "print(f'child {p.pid}', flush=True); "
    stages = [
        stage("ends", child + told + "sys.exit(1)"),
        stage("hangs", child + told + "import time; time.sleep(600)", limit=4),
    ]
    check = gpu_check.Check(stages, {}, tmp_path)
    check.run()
    for outcome in check.report["stages"].values():
        number = int(re.search(r"child (\d+)", outcome["output"])[1])  # type: ignore[index]
        end = time.monotonic() + 30
        while is_alive(number) and time.monotonic() < end:
            time.sleep(0.05)
        assert not is_alive(number)


def test_the_time_that_is_left_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: 7.0)
    stages = [machine(), *(stage(name, "pass", limit=20) for name in "ab"), stage("long", "pass", limit=1000)]
    check = gpu_check.Check(stages, {}, tmp_path, total=2000)
    assert check._limit(1) == pytest.approx(2 * 20)  # what was left over, but no more than as much again
    check = gpu_check.Check(stages, {}, tmp_path, total=1050)
    assert check._limit(1) == pytest.approx(1050 - 1020)  # the later ones keep theirs
    check = gpu_check.Check([stage("late", "pass"), machine()], {}, tmp_path, total=0.5)
    assert not check.run()
    assert {outcome["reason"] for outcome in check.report["stages"].values()} == {"no time left"}


def test_a_stage_beside_another_is_waited_for(tmp_path: Path) -> None:
    code = f"""
import pathlib, time
began, done = pathlib.Path({str(tmp_path / "began")!r}), pathlib.Path({str(tmp_path / "done")!r})
"""
    first = "while not began.exists(): time.sleep(0.01)\ntime.sleep(0.5); done.write_text('')"
    stages = [
        stage("first", code + first, beside=True),
        stage("second", code + "began.write_text('')"),
        stage("third", code + "assert done.exists()"),
    ]
    assert gpu_check.Check(stages, {}, tmp_path / "results").run()


def test_without_a_card_nothing_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check = gpu_check.Check([machine("none"), stage("later", "pass")], {}, tmp_path / "results", out)
    assert not check.run()
    assert list(json.loads((out / "gpu-check.json").read_text())["stages"]) == ["machine"]
    assert not (tmp_path / "results").exists()


def test_a_card_that_could_not_be_asked_is_still_checked(tmp_path: Path) -> None:
    check = gpu_check.Check([stage("machine", "raise SystemExit(3)"), stage("later", "pass")], {}, tmp_path)
    assert not check.run()
    assert json.loads((tmp_path / "unknown.json").read_text())["stages"]["later"]["status"] == "passed"


def test_a_later_run_adds_to_what_was_found(tmp_path: Path) -> None:
    gpu_check.Check([machine(), stage("a", "pass"), stage("b", "raise SystemExit(1)")], {"commit": "1"}, tmp_path).run()
    assert gpu_check.Check([machine(), stage("b", "pass")], {"commit": "2"}, tmp_path, adding=True).run()
    found = json.loads((tmp_path / "some-gpu-80gb.json").read_text())["stages"]
    assert {name: (outcome["status"], outcome["commit"]) for name, outcome in found.items()} == {
        "machine": ("passed", "2"),
        "a": ("passed", "1"),
        "b": ("passed", "2"),
    }
    gpu_check.Check([machine("Another"), stage("b", "pass")], {}, tmp_path, adding=True).run()
    assert set(json.loads((tmp_path / "another.json").read_text())["stages"]) == {"machine", "b"}


def test_a_folder_that_cannot_be_written_does_not_keep_results_from_another(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert gpu_check.Check([machine()], {}, tmp_path / "results", tmp_path / "file").run()
    assert (tmp_path / "results" / "some-gpu-80gb.json").exists()
    assert "could not be read or written" in capfd.readouterr().err


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_done_is_there_when_the_whole_run_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    hangs = wrote({"case": "first of many"}) + "print(os.getpid(), flush=True); time.sleep(600)"
    code = f"""
import signal, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu_check
from pathlib import Path
signal.signal(signal.SIGTERM, gpu_check.end)
gpu_check.EVERY = 0.05
stage = lambda name, code: gpu_check.Stage(name, 60, (sys.executable, "-S", "-c", code))
gpu_check.Check([stage("done", "pass"), stage("hangs", {hangs!r})], {{}}, Path({str(tmp_path)!r})).run()
"""
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.DEVNULL)
    path, found, end = tmp_path / "unknown.json", {}, time.monotonic() + 120
    while time.monotonic() < end and not found.get("hangs", {}).get("output"):
        time.sleep(0.05)
        found = json.loads(path.read_text())["stages"] if path.exists() else {}
    hanging = int(found["hangs"]["output"])
    try:
        process.send_signal(number)
        process.wait(60)
        found = json.loads(path.read_text())["stages"]
        assert found["done"]["status"] == "passed"
        assert found["hangs"]["status"] == "running" and found["hangs"]["results"] == [{"case": "first of many"}]
        if number == signal.SIGTERM:
            while is_alive(hanging) and time.monotonic() < end:
                time.sleep(0.05)
            assert not is_alive(hanging)
    finally:
        if is_alive(hanging):
            os.kill(hanging, signal.SIGKILL)


def test_the_stages_that_run_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    own = load("gpu_stages")
    for stages in (gpu_check.first_command(), gpu_check.second_command()):
        beside = [number for number, stage in enumerate(stages) if stage.beside]
        assert all(stages[number].limit <= stages[number + 1].limit for number in beside)
        assert sum(stage.limit for stage in stages if not stage.beside) <= gpu_check.TOTAL_LIMIT < 570
        assert len({stage.name for stage in stages}) == len(stages)
        for stage in stages:
            program = stage.command.index(str(gpu_check.STAGES))
            assert stage.command[program + 1] in own.STAGES
    assert [stage.name for stage in gpu_check.chosen(["unit", "build"])] == ["machine", "unit", "build"]
    with pytest.raises(ValueError, match="no stage is called 'unti'; there are rest, machine, build"):
        gpu_check.chosen(["unti"])


def test_steps_go_on_after_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    own = load("gpu_stages")
    steps = own.Steps(tmp_path / "steps.json", limit=1000)

    def wrong() -> None:
        raise AssertionError("largest error 1 at scale 2")

    assert steps.take("right", lambda: {"units": 3})
    assert not steps.take("wrong", wrong)
    assert json.loads((tmp_path / "steps.json").read_text())[1]["error"] == "AssertionError: largest error 1 at scale 2"
    assert steps.take("right again", lambda: None) and not steps.passed
    steps.end = time.monotonic() - 1
    assert not steps.take("late", lambda: None)
    monkeypatch.setattr(own, "device_is_lost", lambda: True)
    steps.end += 1000
    assert not steps.take("fatal", wrong) and not steps.take("after", lambda: None)
    errors = [step.get("error") for step in json.loads((tmp_path / "steps.json").read_text())]
    assert errors[3] == "not run: no time left" and errors[5] == "not run: the device was lost in fatal"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py")]
    done = subprocess.run(command, env={**os.environ, "OUT": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1 and "gpu-check did not run: torch finds no CUDA device" in done.stderr
    found = json.loads((tmp_path / "gpu-check.json").read_text())
    assert found["torch"] == torch.__version__ and found["card"] == "none"
    assert list(found["stages"]) == ["machine"]


def test_the_engine_stages_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What compares with the CPU and projects every unit, where the device is the CPU itself."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    ops, own = load("gpu_ops"), load("gpu_stages")
    monkeypatch.setattr(ops, "DEVICE", "cpu")
    engine = load("gpu_engine")
    steps = own.Steps(None, limit=1000)
    engine.against_the_cpu(steps.take, ("conv1_2", "conv3_1"), size=32)
    engine.all_units(steps.take, ("conv1_2",), images=2, size=32)
    monkeypatch.setattr(engine, "CALLS", 1)
    engine.one_unit(steps.take, size=32)
    assert [step.get("error") for step in steps.found] == [None] * 9
    assert [step["case"] for step in steps.found[3:6]] == [f"all units in {name}" for name in ops.PRECISIONS]
    assert [step["case"] for step in steps.found[6:]][-1] == "one unit, captured"
    for step in steps.found[3:6]:
        assert step["projections"] == 64 * 2 and step["seconds_by_layer"].keys() == {"conv1_2"}
    assert steps.found[3]["deviation_from_float32"] == {"conv1_2": 0.0}
    assert 0 < steps.found[5]["deviation_from_float32"]["conv1_2"] < 0.5
