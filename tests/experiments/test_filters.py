"""Diagnosis of filters, renormalisation and clipping: against brute force, closed forms and real training."""

from __future__ import annotations

import copy
import csv
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from networks import NETWORKS
from PIL import Image
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, TensorDataset

from deconv_kernels.cli.filters import command
from deconv_kernels.experiments import filters
from deconv_kernels.experiments.filters import (
    ClipFilters,
    aliased_energy,
    centroid_frequency,
    compare,
    convolutions,
    diagnose,
    dominating,
    filter_rms,
    power_spectrum,
    renormalize_,
)
from deconv_kernels.models import AlexNet

SHAPES = [(5, 3, 7, 7), (4, 1, 11, 11), (3, 2, 1, 1), (6, 3, 3, 5), (2, 4, 2, 9)]


def brute_spectrum(weight, dilation, size):
    """The DFT written out: W(f) = sum over taps of w exp(-2 pi i f x), power summed over channels."""
    w = weight.double().numpy()
    frequency = (np.arange(size) - size // 2) / size
    y, x = dilation[0] * np.arange(w.shape[2]), dilation[1] * np.arange(w.shape[3])
    waves_y = np.exp(-2j * np.pi * frequency[:, None] * y)
    waves_x = np.exp(-2j * np.pi * frequency[:, None] * x)
    transformed = np.einsum("vi,fcij,uj->fcvu", waves_y, w, waves_x)
    return (np.abs(transformed) ** 2).sum(1), frequency


def small_network(**first):
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, 2, **first), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3)
    )


class TestSpectra:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_rms_is_the_root_of_the_mean_square(self, shape):
        weight = torch.randn(shape) * torch.rand(shape[0], 1, 1, 1) * 10
        expected = [math.sqrt(sum(v * v for v in f.flatten().tolist()) / f.numel()) for f in weight]
        assert filter_rms(weight).dtype == torch.float64
        assert filter_rms(weight).tolist() == pytest.approx(expected, rel=1e-12)
        assert filter_rms(weight.to(memory_format=torch.channels_last)).tolist() == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize(("dilation", "size"), [((1, 1), None), ((2, 3), None), ((1, 1), 33), ((3, 1), 40)])
    def test_spectrum_and_centroid_are_those_of_the_transform_written_out(self, shape, dilation, size):
        weight = torch.randn(shape)
        spectrum = power_spectrum(weight, dilation, size)
        expected, frequency = brute_spectrum(weight, dilation, spectrum.shape[-1])
        assert torch.allclose(spectrum, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
        radius = np.hypot(frequency[:, None], frequency[None])
        centroid = (expected * radius).sum((1, 2)) / expected.sum((1, 2))
        assert centroid_frequency(spectrum).tolist() == pytest.approx(centroid.tolist(), rel=1e-9)
        energy = weight.double().square().sum((1, 2, 3)) * spectrum.shape[-1] ** 2
        assert torch.allclose(spectrum.sum((1, 2)), energy)

    def test_a_size_that_does_not_hold_the_filter_is_refused(self):
        with pytest.raises(ValueError, match="size must be at least 13"):
            power_spectrum(torch.ones(1, 1, 7, 7), (2, 2), 12)

    def test_a_sinusoid_has_its_own_frequency(self):
        place = torch.arange(32, dtype=torch.float64)
        for cycles in (2, 5, 9, 14):
            wave = torch.cos(2 * math.pi * cycles / 32 * place)
            vertical = wave[:, None].expand(32, 32)
            spectrum = power_spectrum(vertical[None, None], size=32)
            assert centroid_frequency(spectrum).item() == pytest.approx(cycles / 32, rel=1e-9)

    def test_constants_of_zero_have_no_frequency(self):
        zero = torch.zeros(1, 3, 3, 3)
        assert centroid_frequency(power_spectrum(zero)).isnan().all()
        assert aliased_energy(zero, (2, 2)).isnan().all()
        assert aliased_energy(zero, (1, 1)).isnan().all()


class TestAliasing:
    @pytest.mark.parametrize("stride", [(1, 1), (2, 2), (4, 4), (3, 2), (1, 4), (7, 1)])
    def test_a_single_tap_loses_all_but_the_band(self, stride):
        for y, x in ((0, 0), (2, 4)):
            delta = torch.zeros(1, 2, 5, 5)
            delta[0, 1, y, x] = -3.0
            expected = 1 - 1 / (stride[0] * stride[1])
            assert aliased_energy(delta, stride).item() == pytest.approx(expected, abs=1e-14)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize(("stride", "dilation"), [((2, 2), (1, 1)), ((4, 3), (1, 2)), ((2, 5), (2, 1))])
    def test_the_closed_form_is_the_integral_of_the_spectrum(self, shape, stride, dilation):
        weight = torch.randn(shape)
        n = 2000  # midpoints; the spectrum is a polynomial of sinusoids, and the band's edges lie between samples
        frequency = (np.arange(n) + 0.5) / n - 0.5
        y, x = dilation[0] * np.arange(shape[2]), dilation[1] * np.arange(shape[3])
        gram_y, gram_x = (
            np.exp(2j * np.pi * f[:, None] * p).conj().T @ np.exp(2j * np.pi * f[:, None] * p) / n
            for f, p in (
                (frequency[np.abs(frequency) <= 0.5 / stride[0]], y),
                (frequency[np.abs(frequency) <= 0.5 / stride[1]], x),
            )
        )
        w = weight.double().numpy()
        inside = np.einsum("fcij,ik,jl,fckl->f", w, gram_y, gram_x, w).real
        expected = 1 - inside / (w**2).sum((1, 2, 3))
        assert aliased_energy(weight, stride, dilation).tolist() == pytest.approx(expected.tolist(), abs=2e-3)

    @pytest.mark.parametrize("stride", [2, 4])
    def test_a_long_sinusoid_is_aliased_above_the_limit_and_only_there(self, stride):
        length = 256
        place = torch.arange(length, dtype=torch.float64)
        window = torch.hann_window(length, periodic=False, dtype=torch.float64)
        for factor in (0.25, 0.7, 1.3, 1.9):
            wave = window * torch.cos(2 * math.pi * factor * 0.5 / stride * place + 0.3)
            for weight in (wave.view(1, 1, -1, 1), wave.view(1, 1, 1, -1)):
                one_axis = (stride, 1) if weight.shape[2] > 1 else (1, stride)
                assert aliased_energy(weight, one_axis).item() == pytest.approx(float(factor > 1), abs=1e-3)

    def test_nothing_is_aliased_at_stride_one(self):
        assert aliased_energy(torch.randn(9, 3, 5, 5), (1, 1)).tolist() == [0.0] * 9

    def test_responses_above_the_limit_are_those_a_strided_layer_shows_elsewhere(self):
        convolution = nn.Conv2d(1, 2, 1, stride=4, bias=False)
        convolution.weight.data = torch.tensor([1.0, -3.0]).view(2, 1, 1, 1)
        x = torch.arange(128.0)
        for frequency, share in ((3 / 128, 0.0), (50 / 128, 1.0), (20 / 128, 1.0)):
            image = torch.cos(2 * math.pi * frequency * x).expand(1, 1, 128, 128)
            (found,) = diagnose(nn.Sequential(convolution), batches=[image], progress=False)
            assert found.activity.aliased.tolist() == pytest.approx([share] * 2, abs=1e-3)
        mixed = torch.cos(2 * math.pi * 3 / 128 * x) + 2 * torch.cos(2 * math.pi * 50 / 128 * x)
        (found,) = diagnose(nn.Sequential(convolution), batches=[mixed.expand(1, 1, 128, 128)], progress=False)
        assert found.activity.aliased.tolist() == pytest.approx([0.8] * 2, abs=1e-3)


class TestDominance:
    def test_a_filter_dominates_by_the_mean_of_the_others(self):
        values = torch.tensor([1.0, 1.2, 0.8, 5.1])
        assert dominating(values).tolist() == [False, False, False, True]
        assert dominating(torch.tensor([1.0, 1.2, 0.8, 4.9])).tolist() == [False] * 4
        assert dominating(values, 6).tolist() == [False] * 4
        assert dominating(torch.tensor([0.0, 0.0, 0.1])).tolist() == [False, False, True]
        assert dominating(torch.zeros(3)).tolist() == [False] * 3
        assert dominating(torch.tensor([7.0])).tolist() == [False]


class TestDiagnosis:
    def test_dead_filters_and_activity_are_those_counted_by_hand(self):
        model = small_network().double().eval()
        model[1].running_mean.copy_(torch.randn(6))
        model[1].weight.data[1] = 0
        model[1].bias.data = torch.tensor([0.0, -1.0, -1e4, 0.3, 0.0, 0.1]).double()
        images = torch.randn(11, 3, 29, 34, dtype=torch.float64)
        batches = DataLoader(TensorDataset(images, torch.zeros(11)), batch_size=4)
        first, second = diagnose(model, ["0", "4"], batches, progress=False)
        with torch.no_grad():
            maps = {"0": model[:3](images), "4": model(images)}
        assert first.activity.layer == "2"
        assert second.activity.layer == "4"
        assert first.activity.dead.tolist()[1:3] == [True, True]
        for found, each in ((first, maps["0"]), (second, maps["4"])):
            flat = each.flatten(2)
            assert found.activity.images == 11
            assert torch.equal(found.activity.active_images, (flat.amax(2) > 0).sum(0))
            assert torch.equal(found.activity.dead, ~(flat > 0).any(2).any(0))
            assert torch.allclose(found.activity.peak, flat.amax((0, 2)), rtol=1e-4, atol=1e-5)
            assert torch.allclose(found.activity.mean, flat.clamp(min=0).mean((0, 2)), rtol=1e-4, atol=1e-6)
            assert torch.allclose(found.activity.share, found.activity.mean / found.activity.mean.sum())

    def test_batching_does_not_matter(self):
        model = small_network(padding=2, padding_mode="reflect").double()
        images = torch.randn(9, 3, 25, 21, dtype=torch.float64)
        whole, parts = (diagnose(model, batches=images.split(size), progress=False)[0].activity for size in (9, 2))
        assert torch.equal(whole.active_images, parts.active_images)
        for name in ("peak", "mean", "aliased"):
            assert torch.allclose(getattr(whole, name), getattr(parts, name), rtol=1e-9)

    def test_the_model_is_left_alone(self):
        model = small_network().train()
        before = copy.deepcopy(model.state_dict())
        diagnose(model, ["0", "4"], [torch.randn(2, 3, 29, 29)], progress=False)
        assert model.training
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    @pytest.mark.parametrize("name", ["ResNet-18", "GoogLeNet", "SqueezeNet 1.1", "called twice", "MobileNet v2"])
    def test_every_convolution_of_branching_networks(self, name):
        network = NETWORKS[name]
        model = network.build().eval()
        images = torch.randn(2, 3, *network.size, dtype=torch.float64)
        named = convolutions(model)
        outputs = {}
        for path, module in named.items():
            module.register_forward_hook(
                lambda module, given, out, path=path: outputs.setdefault(path, []).append(out.detach().clone())
            )
        with torch.no_grad():
            model(images)
        for found in diagnose(model, list(outputs), [images], progress=False):
            assert torch.equal(found.rms, filter_rms(named[found.layer].weight))
            if found.activity.layer == found.layer:
                every = torch.stack([out.amax((2, 3)) for out in outputs[found.layer]])
                assert torch.allclose(found.activity.peak, every.amax((0, 1)), rtol=1e-9, atol=1e-9)

    def test_smooth_activations_need_no_rule(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 5, 3), nn.GELU()).double().eval()
        images = torch.randn(3, 3, 12, 13, dtype=torch.float64)
        _, second = diagnose(model, ["0", "2"], [images], progress=False)
        assert second.activity.layer == "2"
        torch.testing.assert_close(second.activity.peak, model[:3](images).amax((0, 2, 3)).detach())

    def test_what_cannot_be_diagnosed_is_refused(self):
        model = small_network()
        with pytest.raises(ValueError, match="'1' is no convolution of the network; its convolutions are 0, 4"):
            diagnose(model, ["1"])
        with pytest.raises(ValueError, match="no images were given"):
            diagnose(model, batches=[], progress=False)
        with pytest.raises(ValueError, match=r"Linear has no convolution"):
            diagnose(nn.Linear(2, 2))
        with pytest.raises(ValueError, match="dominance must be a number above 0"):
            diagnose(model, dominance=0)
        for wrong in (torch.nan, torch.inf):
            images = torch.zeros(5, 3, 33, 33)
            images[3, 1, 2, 4] = wrong
            with pytest.raises(ValueError, match="image 3 holds values that are not finite"):
                diagnose(model, batches=images.split(2), progress=False)
        model[0].weight.data[3, 0, 0, 0] = torch.nan
        with pytest.raises(ValueError, match="filter 3 of '0'"):
            diagnose(model)

    def test_complex_convolutions_are_refused_by_name(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3, dtype=torch.complex64))
        before = copy.deepcopy(model.state_dict())
        for refused in (lambda: renormalize_(model, 1e-3), lambda: ClipFilters(model), lambda: diagnose(model, ["1"])):
            with pytest.raises(ValueError, match="the weight of '1' must be real, got torch.complex64"):
                refused()
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        for function in (filter_rms, power_spectrum, lambda weight: aliased_energy(weight, (2, 2))):
            with pytest.raises(ValueError, match="must be real"):
                function(model[1].weight)

    def test_every_form_of_batches(self):
        model = small_network().eval()
        images, labels = torch.randn(37, 3, 25, 27), torch.zeros(37, dtype=torch.int64)
        expected = diagnose(model, ["0", "4"], images.split(16), progress=False)
        dicts = [{"label": y, "image": x} for x, y in zip(images.split(16), labels.split(16), strict=True)]
        for batches in (images, dicts, DataLoader(TensorDataset(labels, images), 16)):
            for one, other in zip(diagnose(model, ["0", "4"], batches, progress=False), expected, strict=True):
                assert one.activity.images == 37 and torch.equal(one.activity.mean, other.activity.mean)


class TestRenormalize:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_what_exceeds_the_radius_is_scaled_to_it_and_nothing_else(self, dtype):
        model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Conv1d(2, 3, 4))
        model.append(nn.Linear(4, 4))
        with torch.no_grad():
            for module in model:
                if hasattr(module, "weight"):
                    factor = torch.logspace(-2, 1, len(module.weight)).view(-1, *[1] * (module.weight.dim() - 1))
                    module.weight.copy_(torch.randn_like(module.weight) * factor)
        model = model.to(dtype)
        before = {key: value.clone().double() for key, value in model.state_dict().items()}
        changed = renormalize_(model, 0.1)
        after = {key: value.double() for key, value in model.state_dict().items()}
        eps = torch.finfo(dtype).eps
        listed = {(change.layer, change.filter): change for change in changed}
        for name in ("0", "2", "3"):
            for number, (old, new) in enumerate(zip(before[f"{name}.weight"], after[f"{name}.weight"], strict=True)):
                rms = old.square().mean().sqrt().item()
                if rms > 0.1 * (1 + eps):
                    change = listed.pop((name, number))
                    assert change.rms == pytest.approx(rms, rel=1e-12)
                    assert change.factor == pytest.approx(0.1 / rms, rel=1e-12)
                    assert torch.allclose(new, old * (0.1 / rms), rtol=4 * eps, atol=0 if eps < 1e-4 else 1e-7)
                    assert new.square().mean().sqrt().item() == pytest.approx(0.1, rel=2 * eps)
                else:
                    assert torch.equal(new, old)
        assert not listed
        for key in before:
            if key.endswith("bias") or key.startswith("4"):
                assert torch.equal(before[key], after[key])
        assert renormalize_(model, 0.1) == ()
        assert all(torch.equal(value.double(), after[key]) for key, value in model.state_dict().items())

    def test_it_is_idempotent_for_many_filters(self):
        for dtype in (torch.float32, torch.bfloat16):
            model = nn.Conv2d(7, 4000, 3).to(dtype)
            model.weight.data.normal_(std=0.3)
            assert len(renormalize_(model, 0.1)) == 4000
            assert renormalize_(model, 0.1) == ()

    def test_nothing_changes_when_something_is_wrong(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
        model[0].weight.data *= 100
        model[1].weight.data[2, 0, 1, 1] = torch.inf
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match="filter 2 of '1' holds weights that are not finite"):
            renormalize_(model)
        for radius in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="radius must be a number above 0"):
                renormalize_(model, radius)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_weights_computed_from_others_are_refused(self):
        for wrapped in (
            parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
            prune.l1_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5),
        ):
            with pytest.raises(ValueError, match="the weight of '0' is computed from other parameters"):
                renormalize_(nn.Sequential(wrapped))
        with pytest.raises(ValueError, match="has no shape yet"):
            renormalize_(nn.Sequential(nn.LazyConv2d(3, 3)))

    def test_a_shared_convolution_is_scaled_once(self):
        shared = nn.Conv2d(3, 3, 3)
        shared.weight.data.normal_()
        assert len(renormalize_(nn.ModuleList([shared, nn.Sequential(shared)]))) == 3


class TestClipFilters:
    @pytest.mark.parametrize("registered", [False, True])
    def test_the_bound_holds_during_training(self, registered):
        model = nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.LazyLinear(3))
        images, labels = torch.randn(16, 3, 15, 15) * 60, torch.randint(3, (16,))
        model(images)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        clip = ClipFilters(model, 0.05)
        handle = clip.register(optimizer) if registered else None
        expected = {name: torch.zeros(len(module.weight), dtype=torch.int64) for name, module in _named(model)}
        for _ in range(12):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            unclipped = _stepped_without_clipping(model, optimizer)
            optimizer.step()
            if not registered:
                clip.step()
            for name, module in _named(model):
                rms = filter_rms(unclipped[name])
                beyond = rms > 0.05 * (1 + torch.finfo(torch.float32).eps)
                scale = torch.where(beyond, 0.05 / rms, 1.0).view(-1, 1, 1, 1)
                assert torch.allclose(module.weight.double(), unclipped[name].double() * scale, rtol=1e-6, atol=1e-9)
                assert filter_rms(module.weight).max() <= 0.05 * (1 + 1.2e-7)
                expected[name] += beyond
        assert all(torch.equal(clip.counts[name], counts) for name, counts in expected.items())
        assert sum(int(counts.sum()) for counts in expected.values()) > 0
        if handle is not None:
            handle.remove()
            model[0].weight.data.fill_(1.0)
            optimizer.zero_grad()
            optimizer.step()
            assert filter_rms(model[0].weight).max() > 0.9

    def test_gradients_go_through_untouched(self):
        model = nn.Conv2d(3, 4, 3)
        out = model(torch.randn(1, 3, 5, 5)).sum()
        out.backward()
        gradient = model.weight.grad.clone()
        ClipFilters(model, 1e-3).step()
        assert torch.equal(model.weight.grad, gradient)
        assert model.weight.requires_grad


def _named(model):
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def _stepped_without_clipping(model, optimizer):
    """The convolutions' weights after one step of a copy of the optimizer, which nothing is registered with."""
    original, model = model, copy.deepcopy(model)
    for parameter, source in zip(model.parameters(), original.parameters(), strict=True):
        parameter.grad = source.grad.clone()
    twin = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin.step()
    return {name: module.weight.detach() for name, module in _named(model)}


class TestCompare:
    def test_before_and_after_are_the_diagnoses_of_both(self):
        model = nn.Sequential(nn.Conv2d(3, 5, 7, 2), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU())
        model[0].weight.data[2] *= 300
        kept = copy.deepcopy(model.state_dict())
        batches = [torch.randn(3, 3, 33, 31) * 50]
        found = compare(model, 0.1, ["0", "2"], batches, progress=False)
        assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
        repaired = copy.deepcopy(model)
        assert found.changed == renormalize_(repaired, 0.1)
        assert ("0", 2) in [(change.layer, change.filter) for change in found.changed]
        for key, value in found.model.state_dict().items():
            assert torch.equal(value, repaired.state_dict()[key])
        for network, diagnoses in ((model, found.before), (repaired, found.after)):
            for ours, theirs in zip(diagnoses, diagnose(network, ["0", "2"], batches, progress=False), strict=True):
                assert torch.equal(ours.rms, theirs.rms)
                assert torch.equal(ours.activity.mean, theirs.activity.mean)
        assert found.before[0].dominating.tolist() == [False, False, True, False, False]
        with pytest.raises(ValueError, match="batches are read twice"):
            compare(model, 0.1, None, iter(batches), progress=False)


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path):
        generator = np.random.default_rng(torch.randint(2**31, ()).item())
        photographs = tmp_path / "photographs"
        photographs.mkdir()
        for number in range(2):
            small = generator.integers(0, 256, (12, 15, 3), dtype=np.uint8)
            Image.fromarray(small).resize((120, 96), Image.Resampling.BICUBIC).save(photographs / f"{number}.png")
        return tmp_path

    @pytest.fixture
    def weights(self, folder):
        model = AlexNet(features_only=True)
        model.conv1.weight.data[5] *= 100
        model.conv1.bias.data[9] = -1e4
        state = {f"features.{i}.{n}": p for i, layer in enumerate(model) for n, p in layer.named_parameters()}
        torch.save(state, folder / "alexnet.pth")
        return model

    def _run(self, folder, *more):
        arguments = ["--model", "alexnet", "--weights", str(folder / "alexnet.pth"), "--size", "64", "--crops", "5"]
        arguments += ["--images", str(folder / "photographs"), "-o", str(folder / "out"), *more]
        return CliRunner().invoke(command, arguments)

    def test_it_writes_figures_numbers_and_repaired_weights(self, folder, weights):
        result = self._run(folder, "--layers", "conv1,conv2", "--renormalize", "0.1")
        assert result.exit_code == 0, result.output
        out = folder / "out"
        for layer in ("conv1", "conv2"):
            for kind in ("filters", "before_after"):
                assert min(Image.open(out / f"{layer}_{kind}.png").size) > 1000
        rows = list(csv.DictReader((out / "filters.csv").open()))
        assert len(rows) == 64 + 192
        rms = filter_rms(weights.conv1.weight)
        assert [float(row["rms"]) for row in rows[:64]] == pytest.approx(rms.tolist(), rel=1e-8)
        assert [row["filter"] for row in rows[:64] if row["dead"] == "1"] == ["9"]
        assert "5" in [row["filter"] for row in rows[:64] if row["dominating"] == "1"]
        assert np.load(out / "spectra.npz")["conv2"].shape == (192, 64, 64)
        summary = json.loads((out / "filters.json").read_text())
        assert summary["layers"][0]["dead"] == [9]
        repaired = torch.load(out / "repaired.pth", weights_only=True)
        renormalize_(weights, 0.1)
        assert all(torch.equal(value, repaired[key]) for key, value in weights.state_dict().items())
        changed = list(csv.DictReader((out / "changed.csv").open()))
        assert [(row["layer"], row["filter"]) for row in changed] == [("conv1", "5")]
        assert float(changed[0]["rms"]) == pytest.approx(rms[5].item(), rel=1e-8)

    def test_bad_input_is_one_line_and_leaves_nothing(self, folder, weights):
        for more, message in (
            (["--layers", "relu1"], "'relu1' is no convolution"),
            (["--renormalize", "-1"], "radius must be a number above 0, got -1"),
            (["--batch-size", "0"], "batch-size must be at least 1"),
            (["-o", str(folder / "alexnet.pth" / "out")], "cannot be written"),
            (["--dominance", "inf"], "dominance must be a number above 0"),
            (["--model", f"{folder / 'other.py'}:depth", "--weights", "random"], "does not take images of 3x64x64"),
            (["--model", f"{folder / 'other.py'}:double", "--weights", "random"], "torch.float64"),
        ):
            (folder / "other.py").write_text(
                "from torch import nn\n\n\ndef depth():\n    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())\n\n\n"
                "def double():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()\n"
            )
            result = self._run(folder, *more)
            assert result.exit_code == 2
            assert message in result.output
            assert len([line for line in result.output.splitlines() if "Error" in line]) == 1
            assert not (folder / "out").exists()

    def test_an_output_that_cannot_be_written_is_found_before_the_work(self, folder, weights, monkeypatch):
        monkeypatch.setattr(filters, "compare", None)
        result = self._run(folder, "--renormalize", "0.1", "-o", str(folder / "alexnet.pth" / "out"))
        assert result.exit_code == 2 and "cannot be written" in result.output

    def test_layers_of_any_names(self, folder):
        (folder / "network.py").write_text(NAMED)
        more = ["--model", f"{folder / 'network.py'}:build", "--weights", "random", "--layers", "file,a/b"]
        result = self._run(folder, *more, "--renormalize", "0.01")
        assert result.exit_code == 0, result.output
        assert sorted(np.load(folder / "out" / "spectra.npz").files) == ["a/b", "file"]
        pictures = {path.name for path in (folder / "out").glob("*.png")}
        assert pictures == {f"{name}_{kind}.png" for name in ("file", "a_b") for kind in ("filters", "before_after")}


NAMED = """
from collections import OrderedDict
from torch import nn


def build():
    layers = [("file", nn.Conv2d(3, 4, 3)), ("relu", nn.ReLU()), ("a/b", nn.Conv2d(4, 5, 3, 2))]
    return nn.Sequential(OrderedDict(layers))
"""
