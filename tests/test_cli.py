"""The command line: what it writes, and how it says what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import deconv_kernels
from deconv_kernels import backends, plot
from deconv_kernels.cli import main
from deconv_kernels.models import AlexNet


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
        (("--images", "flat.png"), "flat.png is 300x100 pixels, smaller than a crop of 224x224"),
        (("--weights", "absent.pth"), "weights 'absent.pth': no such file"),
        (("--weights", "weights.pth"), "weights.pth cannot be read as a state dict"),
        (("--weights", "wrong.pth"), "missing features.0.bias, features.3.weight"),
        (("--weights", "wrong.pth"), "features.0.weight is (64, 3, 3, 3) instead of (64, 3, 11, 11)"),
        (("--layers", "conv1,conv7"), "no layer 'conv7'; its layers are conv1, relu1, pool1, conv2"),
        (("--layers", ","), "no layers were given"),
        (("--model", "lenet"), "unknown model 'lenet'; known are vgg16, alexnet, zfnet"),
        (("-o", "file"), "output folder 'file' is a file"),
        (("-o", "file/out"), "output folder 'file/out' cannot be written"),
        (("--crops", "3"), "3 crops are too few for the 4 strongest activations"),
        (("--threads", "0"), "threads must be at least 1, got 0"),
        (("--rule", "up"), "rule must be one of 'deconvnet', 'guided', 'gradient', got 'up'"),
        (("--overlap", "up"), 'overlap must be "sum" or "last"'),
        (("--device", "tpu"), "device must be cpu or cuda, got 'tpu'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_the_user_can_put_right_is_one_line_and_leaves_nothing(place, weights, arguments, message):
    before = sorted(place.rglob("*"))
    result = _gallery(weights, *arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(place.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_missing_gpu_is_named(place, weights):
    result = _gallery(weights, "--device", "cuda")
    assert result.exit_code == 2
    assert result.stderr == "Error: device 'cuda': this PyTorch sees no CUDA device\n"


def test_a_full_disk_leaves_nothing(place, weights, monkeypatch):
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plot, "draw_filters", fail)
    result = _gallery(weights)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: [Errno 28] No space left on device"
    assert not (place / "out").exists()


def test_info_names_every_op_and_why_a_backend_cannot_run():
    result = CliRunner().invoke(main, ["info"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"deconv_kernels {deconv_kernels.__version__}"
    assert lines[1].startswith(f"torch {torch.__version__}")
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
