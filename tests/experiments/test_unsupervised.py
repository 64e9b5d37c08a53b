"""The unsupervised deconvolutional network: against explicit matrices, independent solvers and autograd, in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from torch import nn

from deconv_kernels.cli.unsupervised import command
from deconv_kernels.experiments.common.files import Parts
from deconv_kernels.experiments.unsupervised import (
    DeconvolutionalNetwork,
    SparseLayer,
    contrast_normalised,
    pool_by_magnitude,
    sparse_code,
)
from deconv_kernels.plot import unsupervised as figures

# channels, layers as (maps, kernel, pool), image size
NETWORKS = [
    (1, [(3, 3, 2)], (5, 4)),
    (3, [(4, 7, 3)], (3, 5)),
    (3, [(4, 3, 2), (5, 2, 2)], (7, 6)),
    (1, [(3, 5, 3), (4, 3, 1)], (9, 13)),
    (2, [(3, 2, 1), (4, 3, 3), (2, 1, 2)], (11, 5)),
]


@pytest.fixture(autouse=True)
def one_thread(threads):
    """What is small here takes longer on several, where others use them too."""
    torch.set_num_threads(1)


def network_of(channels, layers, fidelity=2.0):
    built = [SparseLayer(maps, fidelity, kernel, pool) for maps, kernel, pool in layers]
    return DeconvolutionalNetwork(built, channels, seed=int(torch.randint(2**31, ()))).double()


def random_switches(network, count, size):
    """Switches below the top layer, as pooling random maps gives them."""
    switches = []
    for layer in network.layers[:-1]:
        size = layer.map_size(size)
        pooled, places = pool_by_magnitude(torch.randn(count, layer.maps, *size, dtype=torch.float64), layer.pool)
        switches.append(places)
        size = pooled.shape[-2:]
    return switches, size


def matrix_of(network, switches, size, image):
    """R of one image as an explicit matrix: the sums of the definition written out, no convolution involved."""
    whole = None
    for place, layer in enumerate(network.layers):
        weight = network.filters[place].detach().numpy()
        k, pool = layer.kernel_size, layer.pool
        below = (weight.shape[1], *size)
        maps = (layer.maps, size[0] + k - 1, size[1] + k - 1)
        filtering = np.zeros((*below, *maps))
        for y in range(size[0]):
            for x in range(size[1]):
                for i in range(k):
                    for j in range(k):
                        filtering[:, y, x, :, y + k - 1 - i, x + k - 1 - j] = weight[:, :, i, j].T
        step = filtering.reshape(np.prod(below), np.prod(maps))
        whole = step if whole is None else whole @ step
        if place < len(switches):
            places = switches[place][image].numpy().astype(int)
            unpooling = np.zeros((*maps, *places.shape))
            for c, y, x in np.ndindex(*places.shape):
                unpooling[c, y * pool + places[c, y, x] // pool, x * pool + places[c, y, x] % pool, c, y, x] = 1
            whole = whole @ unpooling.reshape(np.prod(maps), places.size)
            size = places.shape[1:]
    return whole


def coordinate_descent(matrix, image, fidelity, tolerance=1e-9):
    """What minimises fidelity / 2 * |A z - y|^2 + |z|_1, one coordinate after the other, certified by its dual."""
    norms = fidelity * (matrix**2).sum(0)
    z, residual = np.zeros(matrix.shape[1]), image.copy()
    for _ in range(20000):
        for i in range(len(z)):
            if norms[i]:
                pulled = fidelity * matrix[:, i] @ residual + norms[i] * z[i]
                new = np.sign(pulled) * max(abs(pulled) - 1, 0) / norms[i]
                if new != z[i]:
                    residual -= (new - z[i]) * matrix[:, i]
                    z[i] = new
        cost = fidelity / 2 * residual @ residual + np.abs(z).sum()
        dual = residual / max(1, fidelity * np.abs(matrix.T @ residual).max())
        if cost - fidelity * (dual @ image - dual @ dual / 2) <= tolerance * cost:
            return z
    raise AssertionError("no minimum in 20000 sweeps")


def setting(case, fidelity=2.0, count=2):
    channels, layers, size = case
    network = network_of(channels, layers, fidelity)
    switches, top = random_switches(network, count, size)
    images = torch.randn(count, channels, *size, dtype=torch.float64)
    operator = network.operator(switches, size)
    return network, switches, images, operator, network.layers[-1].map_size(top)


class TestOperator:
    @pytest.mark.parametrize("case", NETWORKS)
    def test_down_is_the_matrix_and_up_its_transpose(self, case):
        network, switches, images, operator, top = setting(case)
        maps = torch.randn(2, network.layers[-1].maps, *top, dtype=torch.float64)
        down, up = operator.down(maps).detach().numpy(), operator.up(images).detach().numpy()
        for image in range(2):
            matrix = matrix_of(network, switches, case[2], image)
            np.testing.assert_allclose(down[image].ravel(), matrix @ maps[image].numpy().ravel(), atol=1e-12)
            np.testing.assert_allclose(up[image].ravel(), matrix.T @ images[image].numpy().ravel(), atol=1e-12)

    @pytest.mark.parametrize("size", [(1, 1), (2, 9), (31, 17), (24, 37)])
    @pytest.mark.parametrize("kernel, pool", [(1, 1), (2, 3), (3, 2), (7, 3), (6, 5)])
    def test_adjoint(self, size, kernel, pool):
        network = network_of(3, [(4, kernel, pool), (5, 3, 2), (3, kernel, pool)])
        switches, top = random_switches(network, 2, size)
        operator = network.operator(switches, size)
        maps = torch.randn(2, 3, *network.layers[-1].map_size(top), dtype=torch.float64)
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        down, up = operator.down(maps), operator.up(images)
        difference = (down * images).sum() - (maps * up).sum()
        assert abs(difference) <= 1e-12 * down.norm() * images.norm()

    def test_pooled_maps_go_down_through_the_layers_own_switches(self):
        network = network_of(3, [(4, 5, 2), (3, 3, 3)])
        features = network.infer(torch.randn(3, 3, 13, 10, dtype=torch.float64), steps=4)
        for layer in (1, 2):
            torch.testing.assert_close(
                network.reconstruct(features, layer, pooled=True),
                network.reconstruct(features, layer, batch_size=2),
                rtol=0,
                atol=1e-12,
            )


class TestInference:
    @pytest.mark.parametrize("method", ["fista", "ista"])
    @pytest.mark.parametrize("case", NETWORKS)
    def test_minimum_of_independent_solvers(self, case, method):
        linear_model = pytest.importorskip("sklearn.linear_model", reason="one of the solvers is scikit-learn's")
        fidelity = 0.7
        network, switches, images, operator, _ = setting(case, fidelity, count=1)
        with torch.no_grad():
            code = sparse_code(operator, images, fidelity, steps=20000, method=method, tolerance=2e-7)
        matrix, y = matrix_of(network, switches, case[2], 0), images[0].numpy().ravel()

        def objective(z):
            return fidelity / 2 * ((matrix @ z - y) ** 2).sum() + np.abs(z).sum()

        ours = objective(code.maps[0].numpy().ravel())
        assert float(code.objective[-1, 0]) == pytest.approx(ours, rel=1e-12)
        lasso = linear_model.Lasso(1 / (fidelity * len(y)), fit_intercept=False, tol=1e-11, max_iter=100000).fit(
            matrix, y
        )
        minima = [objective(lasso.coef_)]
        if y.size <= 60:
            minima.append(objective(coordinate_descent(matrix, y, fidelity)))
        for minimum in minima:
            assert ours == pytest.approx(minimum, rel=1e-6)
            assert ours - minimum <= float(code.gap[0]) + 1e-12 * ours

    @pytest.mark.parametrize("case", NETWORKS)
    def test_curvature_is_that_of_the_operator(self, case):
        network, switches, images, operator, _ = setting(case, 3.0)
        with torch.no_grad():
            code = sparse_code(operator, images, 3.0, steps=60)
        for image in range(2):
            norm = np.linalg.norm(matrix_of(network, switches, case[2], image), 2)
            assert float(code.curvature[image]) <= 1.1 * 3.0 * norm**2 * (1 + 1e-9)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("pooling", ["within", "after"])
    @pytest.mark.parametrize("method", ["fista", "ista"])
    def test_objective_never_rises_and_is_what_it_says(self, method, pooling, dtype):
        network = network_of(3, [(5, 5, 2), (6, 3, 3)], 1.5).to(dtype)
        images = torch.randn(3, 3, 19, 14, dtype=dtype) * torch.tensor([1e-3, 1.0, 50.0], dtype=dtype).view(3, 1, 1, 1)
        features = network.infer(images, steps=40, method=method, pooling=pooling)
        for layer, code in enumerate(features.codes):
            assert bool((code.objective[1:] <= code.objective[:-1]).all())
            assert bool((code.objective[-1, 1:] < code.objective[0, 1:]).all())
            error = (network.reconstruct(features, layer + 1) - images).double().square().sum((1, 2, 3))
            recomputed = 1.5 / 2 * error + code.maps.double().abs().sum((1, 2, 3))
            torch.testing.assert_close(
                code.objective[-1].double(), recomputed.detach(), rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=0
            )

    def test_one_value_per_window_with_pooling_within(self):
        network = network_of(3, [(5, 4, 3), (4, 3, 2)])
        features = network.infer(torch.randn(2, 3, 16, 11, dtype=torch.float64), steps=15)
        for layer, code in zip(network.layers, features.codes, strict=True):
            height, width = code.maps.shape[-2:]
            padded = F.pad((code.maps != 0).double(), (0, -width % layer.pool, 0, -height % layer.pool))
            assert float(F.avg_pool2d(padded, layer.pool).max()) * layer.pool**2 <= 1
            assert bool(code.maps.any())
            assert code.gap is None

    def test_a_step_is_the_proximal_operator_of_one_value_per_window(self):
        """One ISTA step from zero, by trying in each window every single value and none."""
        network = network_of(1, [(2, 3, 2)], 4.0)
        images = torch.randn(1, 1, 6, 4, dtype=torch.float64)
        operator = network.operator([], (6, 4))
        with torch.no_grad():
            code = sparse_code(operator, images, 4.0, steps=1, method="ista", pool=2)
            stride = 1 / float(code.curvature)
            moved = stride * 4.0 * operator.up(images)[0]
        for c, y, x in np.ndindex(2, 4, 3):
            window = moved[c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten()
            found = code.maps[0, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten()

            def cost(z, window=window):
                return float((z - window).square().sum() / 2 + stride * z.abs().sum())

            candidates = [torch.zeros_like(window)]
            for i, value in enumerate(window.tolist()):
                candidates.append(torch.zeros_like(window))
                candidates[-1][i] = np.sign(value) * max(abs(value) - stride, 0)
            assert cost(found) <= min(map(cost, candidates)) + 1e-12

    def test_each_image_is_inferred_by_itself(self):
        network = network_of(3, [(5, 5, 2), (6, 3, 2)])
        images = torch.randn(5, 3, 12, 15, dtype=torch.float64)
        together = network.infer(images, steps=12)
        for batch_size in (1, 2):
            apart = network.infer(images, steps=12, batch_size=batch_size)
            for one, other in zip(together.codes, apart.codes, strict=True):
                torch.testing.assert_close(one.maps, other.maps, rtol=0, atol=1e-9)

    def test_each_image_stops_at_its_own_gap(self):
        network = network_of(1, [(4, 3, 2), (3, 3, 2)])
        scales = torch.tensor([0.1, 1.0, 5.0, 0.0], dtype=torch.float64).view(-1, 1, 1, 1)
        images = torch.randn(4, 1, 12, 11, dtype=torch.float64) * scales
        arguments = {"steps": 300, "pooling": "after", "tolerance": 1e-2}
        together = network.infer(images, **arguments)
        apart = network.infer(images, batch_size=1, **arguments)
        for one, other in zip(together.codes, apart.codes, strict=True):
            torch.testing.assert_close(one.maps, other.maps, rtol=0, atol=1e-9)
            torch.testing.assert_close(one.objective, other.objective, rtol=1e-9, atol=1e-9)
            assert bool((one.gap <= 1e-2 * one.objective[-1]).all())
        stops = (together.codes[0].objective.diff(dim=0) != 0).sum(0)
        assert len(set(stops.tolist())) > 1

    def test_an_image_of_zeros_has_zero_maps(self):
        network = network_of(3, [(4, 5, 2), (3, 3, 2)])
        features = network.infer(torch.zeros(2, 3, 9, 9, dtype=torch.float64), pooling="after")
        assert not any(bool(code.maps.any()) or bool(code.objective.any()) for code in features.codes)
        assert bool((features.codes[0].gap == 0).all())

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"steps": 0}, "steps must be at least 1"),
            ({"method": "newton"}, "method must be one of 'fista', 'ista'"),
            ({"pooling": "never"}, "pooling must be one of 'within', 'after'"),
            ({"tolerance": 1e-3}, "tolerance needs the duality gap"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"depth": 3}, "depth must be between 1 and 2"),
        ],
    )
    def test_refused_arguments(self, arguments, message):
        network = network_of(3, [(4, 5, 2), (3, 3, 2)])
        with pytest.raises(ValueError, match=message):
            network.infer(torch.randn(1, 3, 8, 8, dtype=torch.float64), **arguments)

    @pytest.mark.parametrize("fidelity", [-1.0, 0.0, float("nan"), float("inf"), "much"])
    def test_refused_fidelity(self, fidelity):
        _, _, images, operator, _ = setting(NETWORKS[0])
        with pytest.raises(ValueError, match="fidelity must be a number above 0"), torch.no_grad():
            sparse_code(operator, images, fidelity)

    @pytest.mark.parametrize("arguments", [{"tolerance": -1.0}, {"tolerance": float("nan")}, {"pool": 0}])
    def test_refused_tolerance_and_pool(self, arguments):
        _, _, images, operator, _ = setting(NETWORKS[0])
        with pytest.raises(ValueError, match="must be (a number of )?at least"), torch.no_grad():
            sparse_code(operator, images, 1.0, **arguments)

    @pytest.mark.parametrize("scale, fidelity", [(1.0, 1e38), (1e20, 1.0), (float("nan"), 1.0)])
    def test_an_objective_that_is_not_finite_is_refused(self, scale, fidelity):
        network = DeconvolutionalNetwork([SparseLayer(3, 1.0, 3)])
        images = scale * torch.full((1, 3, 12, 12), 2.0)
        with pytest.raises(ValueError, match="the objective is not finite"), torch.no_grad():
            sparse_code(network.operator([], (12, 12)), images, fidelity)

    def test_refused_images(self):
        network = network_of(3, [(4, 5, 2)])
        for images in (torch.zeros(3, 8, 8).double(), torch.zeros(1, 1, 8, 8).double(), torch.zeros(0, 3, 8, 8)):
            with pytest.raises(ValueError, match=r"images must have shape \(N, 3, H, W\), not empty"):
                network.infer(images)
        with pytest.raises(TypeError, match="images must be torch.float64 on cpu as the filters are"):
            network.infer(torch.zeros(1, 3, 8, 8))
        with pytest.raises(ValueError, match="images must be finite"):
            network.infer(torch.full((1, 3, 8, 8), torch.nan, dtype=torch.float64))


class TestGradients:
    def test_reconstruction_by_maps_and_filters(self):
        network = network_of(2, [(2, 3, 2), (3, 2, 1)])
        switches, top = random_switches(network, 2, (4, 5))
        maps = torch.randn(2, 3, *network.layers[1].map_size(top), dtype=torch.float64, requires_grad=True)

        def down(signal, *filters):
            operator = network.operator(switches, (4, 5))
            operator.filters = list(filters)
            return operator.down(signal)

        filters = [weight.detach().requires_grad_() for weight in network.filters]
        assert torch.autograd.gradcheck(down, (maps, *filters))

    @pytest.mark.parametrize("case", NETWORKS)
    def test_gradient_of_the_objective(self, case):
        network, _, images, operator, top = setting(case)
        maps = torch.randn(2, network.layers[-1].maps, *top, dtype=torch.float64, requires_grad=True)
        (operator.down(maps) - images).square().sum().div(2).backward()
        with torch.no_grad():
            torch.testing.assert_close(operator.up(operator.down(maps) - images), maps.grad, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("case", NETWORKS)
    def test_one_filter_step_is_the_steepest_descent_of_autograd(self, case):
        network, switches, images, operator, top = setting(case)
        maps = torch.randn(2, network.layers[-1].maps, *top, dtype=torch.float64)
        weight = network.filters[-1]
        (operator.down(maps) - images).square().sum().div(2).backward()
        with torch.no_grad():
            slope = weight.grad
            operator.filters[-1] = slope
            moved = weight - slope * slope.square().sum() / operator.down(maps).square().sum()
            expected = moved / moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        torch.testing.assert_close(network.learn_filters(images, switches, maps, 1), expected, rtol=1e-9, atol=1e-9)


class TestLearning:
    def test_filters_are_those_of_least_squares(self):
        """Many steps of conjugate gradients against NumPy's solution for the explicit matrix of the filters."""
        network = network_of(2, [(3, 3, 2), (2, 2, 1)])
        switches, top = random_switches(network, 6, (9, 8))
        size = network.layers[1].map_size(top)
        maps = torch.randn(6, 2, *size, dtype=torch.float64)
        images = torch.randn(6, 2, 9, 8, dtype=torch.float64)
        operator, columns = network.operator(switches, (9, 8)), []
        with torch.no_grad():
            for place in range(network.filters[1].numel()):
                basis = torch.zeros(network.filters[1].numel(), dtype=torch.float64)
                basis[place] = 1
                operator.filters[1] = basis.view_as(network.filters[1])
                columns.append(operator.down(maps).flatten().numpy())
        solution = np.linalg.lstsq(np.stack(columns, 1), images.flatten().numpy(), rcond=None)[0]
        expected = torch.from_numpy(solution).view_as(network.filters[1])
        expected = expected / expected.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        torch.testing.assert_close(network.learn_filters(images, switches, maps, 60), expected, rtol=0, atol=1e-7)

    def test_filters_of_silent_maps_stay(self):
        network = network_of(3, [(4, 3, 2)])
        network.filters[0].data /= network.filters[0].flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        maps = torch.randn(2, 4, 10, 10, dtype=torch.float64)
        maps[:, 2] = 0
        learned = network.learn_filters(torch.randn(2, 3, 8, 8, dtype=torch.float64), [], maps)
        torch.testing.assert_close(learned[2], network.filters[0][2].detach())
        assert not torch.equal(learned[1], network.filters[0][1])

    def test_learns_what_made_the_images(self):
        """Images made of sparse maps and known filters: their error falls, and each filter is found at some shift."""
        generator = torch.Generator().manual_seed(3)
        ramp = torch.linspace(-1, 1, 5, dtype=torch.float64)
        envelope = torch.exp(-3 * (ramp[:, None] ** 2 + ramp**2))
        made = torch.stack([torch.sin(3 * ramp)[:, None] * envelope, envelope * torch.cos(5 * ramp)])
        made = (made / made.flatten(1).norm(dim=1).view(-1, 1, 1))[:, None]
        maps = torch.randn(12, 2, 28, 28, generator=generator, dtype=torch.float64)
        maps *= torch.rand(maps.shape, generator=generator, dtype=torch.float64) < 0.015
        images = F.conv_transpose2d(5 * maps, made, padding=4)
        network = DeconvolutionalNetwork([SparseLayer(4, 4.0, 7, 2)], channels=1, seed=0).double()
        history = network.fit(images, epochs=8, steps=20, batch_size=4, progress=False)
        assert history[-1].error < 0.5 * history[0].error
        assert history[-1].objective < 0.8 * history[0].objective
        similarity = F.conv2d(network.filters[0].detach(), made, padding=4).abs().amax((0, 2, 3))
        assert float(similarity.min()) > 0.9

    def test_history_is_what_can_be_counted(self):
        network = network_of(3, [(5, 5, 2), (4, 3, 2)], 1.0)
        images = torch.randn(7, 3, 13, 12, dtype=torch.float64)
        history = network.fit(images, epochs=2, steps=6, batch_size=3, progress=False)
        assert [(entry.layer, entry.epoch) for entry in history] == [(layer, e) for layer in (1, 2) for e in (0, 1, 2)]
        features = network.infer(images, steps=6)
        for entry in history[2::3]:
            maps = features.codes[entry.layer - 1].maps
            error = (network.reconstruct(features, entry.layer).detach() - images).square().sum()
            assert entry.error == pytest.approx(float(error / images.square().sum()), rel=1e-6)
            assert entry.l1 == pytest.approx(float(maps.abs().sum()) / 7, rel=1e-6)
            assert entry.objective == pytest.approx(float(error) / 2 / 7 + entry.l1, rel=1e-6)
            assert entry.nonzero == pytest.approx(int((maps != 0).sum()) / maps.numel(), abs=2 / maps.numel())
            assert entry.silent == sum(not bool(maps[:, k].any()) for k in range(maps.shape[1]))
        for weight in network.filters:
            torch.testing.assert_close(weight.detach().flatten(1).norm(dim=1), torch.ones(len(weight)).double())

    def test_an_interrupted_run_goes_on_to_the_same_result(self, tmp_path, monkeypatch):
        images = torch.randn(6, 3, 12, 12)
        layers = [SparseLayer(4, 1.0, 5, 2), SparseLayer(3, 1.0, 3, 2)]

        def fit(parts):
            network = DeconvolutionalNetwork(layers)
            return network, network.fit(images, epochs=3, steps=4, batch_size=2, seed=5, parts=parts, progress=False)

        whole, history = fit(None)
        again, _ = fit(None)
        calls, learn = [], DeconvolutionalNetwork.learn_filters

        def interrupted(self, *arguments):
            calls.append(0)
            if len(calls) == 14:  # of 18: in the second epoch of the second layer
                raise KeyboardInterrupt
            return learn(self, *arguments)

        monkeypatch.setattr(DeconvolutionalNetwork, "learn_filters", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(Parts(tmp_path, "settings"))
        resumed, later = fit(Parts(tmp_path, "settings"))
        assert len(calls) == 14 + 6
        assert later == history
        for one, other, third in zip(whole.filters, resumed.filters, again.filters, strict=True):
            assert torch.equal(one, other)
            assert torch.equal(one, third)

    def test_goes_on_with_the_present_filters(self):
        images = torch.randn(4, 1, 11, 9)
        network = DeconvolutionalNetwork([SparseLayer(3, 2.0, 3, 2)], channels=1)
        before = network.filters[0].detach().clone()
        network.fit(images, epochs=0, go_on=True, progress=False)
        assert torch.equal(before, network.filters[0])
        network.fit(images, epochs=0, progress=False)
        assert not torch.equal(before, network.filters[0])

    def test_images_of_zeros_change_no_filter(self):
        network = DeconvolutionalNetwork([SparseLayer(3, 2.0, 3, 2), SparseLayer(2, 1.0, 3, 2)], channels=1)
        before = [weight.detach().clone() for weight in network.filters]
        history = network.fit(torch.zeros(3, 1, 9, 9), epochs=1, progress=False)
        for one, other in zip(before, network.filters, strict=True):
            torch.testing.assert_close(one, other.detach())
        assert [entry.silent for entry in history] == [3, 3, 2, 2]


class TestUnits:
    def test_strongest_by_brute_force(self):
        network = network_of(3, [(4, 3, 2), (3, 3, 2)])
        features = network.infer(torch.randn(5, 3, 10, 11, dtype=torch.float64), steps=5)
        maps = features.codes[1].maps
        units = network.strongest(features, 2, k=3, maps=[2, 0])
        assert units.layer == "layer2"
        assert units.channel.tolist() == [2, 2, 2, 0, 0, 0]
        for start, channel in ((0, 2), (3, 0)):
            peaks = sorted(((float(maps[n, channel].abs().max()), n) for n in range(5)), reverse=True)[:3]
            assert units.image[start : start + 3].tolist() == [n for _, n in peaks]
            assert units.activation[start : start + 3].abs().tolist() == [value for value, _ in peaks]
        assert torch.equal(units.activation, maps[units.image, units.channel, units.y, units.x])

    def test_projection_is_the_reconstruction_of_one_unit(self):
        network = network_of(3, [(4, 5, 3), (5, 3, 2)])
        images = torch.randn(3, 3, 14, 17, dtype=torch.float64)
        features = network.infer(images, steps=5)
        for layer in (1, 2):
            units = network.strongest(features, layer, k=2)
            projections = network.project(features, units)
            single = torch.zeros(len(units), *features.codes[layer - 1].maps.shape[1:], dtype=torch.float64)
            single[torch.arange(len(units)), units.channel, units.y, units.x] = units.activation
            switches = [places[units.image] for places in features.switches[: layer - 1]]
            expected = network.operator(switches, (14, 17)).down(single).detach()
            torch.testing.assert_close(projections.full(), expected, rtol=0, atol=1e-12)

    def test_refused(self):
        network = network_of(3, [(4, 3, 2), (3, 3, 2)])
        features = network.infer(torch.randn(1, 3, 6, 6, dtype=torch.float64), depth=1, steps=2)
        units = network.strongest(features, 1)
        with pytest.raises(ValueError, match="layer must be between 1 and 1"):
            network.strongest(features, 2)
        for maps in ([99], [-1]):
            with pytest.raises(ValueError, match="maps of layer1 are from 0 to 3, got"):
                network.strongest(features, 1, 1, maps)
        with pytest.raises(ValueError, match="k must be at least 1"):
            network.strongest(features, 1, 0)
        units.layer = "conv1"
        with pytest.raises(ValueError, match="units are of layer 'conv1'; this network has layer1, layer2"):
            network.project(features, units)


class TestSilentMaps:
    def test_they_are_called_silent_and_have_no_tiles(self, tmp_path, monkeypatch):
        network = DeconvolutionalNetwork([SparseLayer(3, 0.5, 3), SparseLayer(4, 0.5, 3)])
        features = network.infer(torch.rand(5, 3, 24, 24), steps=3)
        codes = features.codes[1].maps
        codes.zero_()
        codes[:, 1] = torch.rand_like(codes[:, 1]) + 0.1
        codes[2, 3, 1, 2], codes[4, 3, 0, 0] = -2.0, 1.0
        drawn = []
        monkeypatch.setattr(figures, "draw_maps", lambda path, title, caption, maps: drawn.extend(maps))
        figures.draw_units(tmp_path / "a.png", "", "", network, features, torch.rand(5, 3, 24, 24), 2, range(4))
        assert [len(entry.projections) for entry in drawn] == [len(entry.patches) for entry in drawn] == [0, 5, 0, 2]
        silent = "silent: zero in every crop"
        assert [entry.note for entry in drawn if entry.label in ("map 0", "map 2")] == [silent, silent]
        assert drawn[3].note == "strongest -2, in 2 crops only"


class TestContrast:
    @pytest.mark.parametrize("floor", [0.0, 0.3])
    @pytest.mark.parametrize("shape", [(2, 3, 9, 14), (1, 1, 3, 1), (1, 3, 20, 16)])
    def test_by_brute_force(self, shape, floor):
        images = torch.rand(shape, dtype=torch.float64)
        normalised = contrast_normalised(images, 5, 1.5, floor).numpy()
        n, c, height, width = shape
        y, x = np.mgrid[:height, :width]
        for image in range(n):
            values = images[image].numpy()
            centred, variance = np.zeros_like(values), np.zeros((height, width))
            weights = {}
            for v, u in np.ndindex(height, width):
                w = np.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * 1.5**2)) * (abs(y - v) <= 2) * (abs(x - u) <= 2)
                weights[v, u] = w / w.sum()
                centred[:, v, u] = values[:, v, u] - (weights[v, u] * values).sum((1, 2))
            for v, u in np.ndindex(height, width):
                variance[v, u] = (weights[v, u] * (centred**2).mean(0)).sum()
            deviation = np.sqrt(variance)
            expected = centred / np.maximum(deviation, max(deviation.mean(), floor))
            np.testing.assert_allclose(normalised[image], expected, atol=1e-9)

    def test_brightness_and_contrast_do_not_matter(self):
        images = torch.rand(2, 3, 30, 25, dtype=torch.float64)
        torch.testing.assert_close(contrast_normalised(7 * images + 3), contrast_normalised(images))
        bytes_ = torch.randint(256, (1, 3, 20, 20), dtype=torch.uint8)
        torch.testing.assert_close(
            contrast_normalised(bytes_).double(), contrast_normalised(bytes_.double()), rtol=0, atol=1e-4
        )

    def test_one_colour_becomes_zero(self):
        images = torch.stack([torch.full((3, 17, 19), level, dtype=torch.uint8) for level in (0, 1, 77, 255)])
        assert not contrast_normalised(images).any()

    def test_refused(self):
        with pytest.raises(ValueError, match="images must have shape"):
            contrast_normalised(torch.rand(3, 8, 8))
        with pytest.raises(ValueError, match="kernel_size must be odd"):
            contrast_normalised(torch.rand(1, 3, 8, 8), 4)
        for value in (torch.nan, torch.inf):
            images = torch.rand(1, 3, 8, 8)
            images[0, 1, 2, 3] = value
            with pytest.raises(ValueError, match="images must be finite"):
                contrast_normalised(images)


class TestFiles:
    def test_save_load_and_state_dict(self, tmp_path):
        network = DeconvolutionalNetwork([SparseLayer(4, 0.5, 5, 3), SparseLayer(6, 0.25, 3, 1)], channels=1, seed=9)
        network.save(tmp_path / "filters.npz")
        loaded = DeconvolutionalNetwork.load(tmp_path / "filters.npz")
        assert loaded.layers == network.layers
        assert loaded.channels == 1
        other = DeconvolutionalNetwork(network.layers, channels=1)
        other.load_state_dict(network.state_dict())
        for one, two, three in zip(network.filters, loaded.filters, other.filters, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)

    def test_files_that_hold_none(self, tmp_path):
        good = tmp_path / "good.npz"
        DeconvolutionalNetwork([SparseLayer(2, 0.5, 3)], channels=1).save(good)
        with np.load(good) as file:
            settings, layer1 = file["settings"], file["layer1"]
        np.savez(tmp_path / "shape.npz", settings=settings, layer1=layer1[:1])
        np.savez(tmp_path / "nan.npz", settings=settings, layer1=layer1 * np.nan)
        np.savez(tmp_path / "missing.npz", settings=settings)
        np.savez(tmp_path / "settings.npz", settings=np.array("[1]"), layer1=layer1)
        np.save(tmp_path / "array.npy", layer1)
        (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:200])
        (tmp_path / "text.npz").write_text("no network")
        (tmp_path / "empty.npz").write_bytes(b"")
        for path in sorted(tmp_path.iterdir()):
            if path != good:
                with pytest.raises(ValueError, match=path.name):
                    DeconvolutionalNetwork.load(path)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ((0, 1.0), "maps must be an int of at least 1"),
            ((2, 0.0), "fidelity must be a number above 0"),
            ((2, float("nan")), "fidelity must be a number above 0"),
            ((2, 1.0, 2.5), "kernel_size must be an int"),
            ((2, 1.0, 3, 0), "pool must be an int"),
        ],
    )
    def test_refused_layers(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            SparseLayer(*arguments)

    def test_refused_networks(self):
        with pytest.raises(ValueError, match="at least one layer"):
            DeconvolutionalNetwork([])
        with pytest.raises(TypeError, match="layers must be SparseLayer, got 3"):
            DeconvolutionalNetwork([3])
        with pytest.raises(ValueError, match="channels must be at least 1"):
            DeconvolutionalNetwork([SparseLayer(2, 1.0)], channels=0)
        assert isinstance(DeconvolutionalNetwork([SparseLayer(2, 1.0)]), nn.Module)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one.png", "two.png"):
        pixels = torch.randint(256, (40, 52, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).resize((104, 80), Image.Resampling.BICUBIC).save(tmp_path / name)
    return tmp_path


def run(*arguments):
    options = {
        "--images": ".", "--maps": "3,4", "--fidelity": "1,1", "--kernel": "5,3", "--pool": "2,3", "--epochs": "1",
        "--steps": "3", "--size": "24", "--crops": "5", "--batch-size": "2", "--shown-size": "33", "-o": "out/deep",
    }  # fmt: skip
    flags = [argument for argument in arguments if argument == "--grey"]
    pairs = [argument for argument in arguments if argument != "--grey"]
    options |= dict(zip(pairs[::2], pairs[1::2], strict=True))
    return CliRunner().invoke(command, [*flags, *(part for pair in options.items() for part in pair)])


class TestCommand:
    @pytest.mark.parametrize("flags", [[], ["--grey"]])
    def test_writes_figures_numbers_and_filters(self, place, flags):
        result = run(*flags)
        assert result.exit_code == 0, result.output
        files = {"curves.png", "filters.npz", "layer1.png", "layer2.png", "reconstructions.png", "unsupervised.json"}
        assert {path.name for path in (place / "out/deep").iterdir()} == files
        numbers = json.loads((place / "out/deep/unsupervised.json").read_text())
        network = DeconvolutionalNetwork.load(place / "out/deep/filters.npz")
        assert network.channels == (1 if flags else 3)
        assert [tuple(weight.shape[::2]) for weight in network.filters] == [(3, 5), (4, 3)]
        assert [(entry["layer"], entry["epoch"]) for entry in numbers["history"]] == [(1, 0), (1, 1), (2, 0), (2, 1)]
        for entry in numbers["reconstructions"]:
            with Image.open(place / entry["photograph"]) as photograph:
                square = photograph.crop((12, 0, 92, 80)).resize((33, 33), Image.Resampling.BICUBIC)
            image = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 255
            if flags:
                image = (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
            image = contrast_normalised(image, floor=0.02)
            features = network.infer(image, steps=3)
            for layer in (1, 2):
                error = float(
                    (network.reconstruct(features, layer).detach() - image).square().sum() / image.square().sum()
                )
                assert entry["layers"][layer - 1]["error"] == pytest.approx(error, rel=1e-3)

    def test_an_interrupted_run_goes_on(self, place, monkeypatch):
        assert run("-o", "whole").exit_code == 0
        calls, learn = [], DeconvolutionalNetwork.learn_filters

        def interrupted(self, *arguments):
            calls.append(0)
            if len(calls) == 5:  # three batches a layer: in the epoch of the second
                raise KeyboardInterrupt
            return learn(self, *arguments)

        monkeypatch.setattr(DeconvolutionalNetwork, "learn_filters", interrupted)
        assert run("-o", "resumed").exit_code == 1
        assert [path.name for path in (place / "resumed").iterdir()] == [".parts-unsupervised"]
        assert run("-o", "resumed").exit_code == 0
        assert len(calls) == 5 + 3
        texts = [(place / folder / "unsupervised.json").read_text() for folder in ("whole", "resumed")]
        assert texts[0] == texts[1]
        assert not (place / "resumed/.parts-unsupervised").exists()

    def test_learned_filters_are_used_again(self, place):
        assert run().exit_code == 0
        result = run("--filters", "out/deep/filters.npz", "-o", "again")
        assert result.exit_code == 0, result.output
        first, second = (json.loads((place / f / "unsupervised.json").read_text()) for f in ("out/deep", "again"))
        assert second["history"] == []
        assert second["reconstructions"] == first["reconstructions"]
        assert "curves.png" not in {path.name for path in (place / "again").iterdir()}

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_filters_of_other_dtypes_are_computed_with_in_float32(self, place, dtype):
        DeconvolutionalNetwork([SparseLayer(3, 1.0, 3)]).save(place / "filters.npz")
        with np.load(place / "filters.npz") as file:
            arrays = {"settings": file["settings"], "layer1": file["layer1"].astype(dtype)}
        np.savez(place / "other.npz", **arrays)
        result = run("--filters", "other.npz")
        assert result.exit_code == 0, result.output
        learned = DeconvolutionalNetwork.load(place / "out/deep/filters.npz").filters[0].detach()
        assert torch.equal(learned, torch.from_numpy(arrays["layer1"]).float())

    def test_an_objective_that_overflows_is_refused(self, place):
        result = run("--fidelity", "1e38")
        assert result.exit_code == 2
        assert "the objective is not finite" in result.stderr.splitlines()[-1]
        assert not (place / "out").exists()

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--maps", "3,x"], "maps must be whole numbers separated by commas"),
            (["--fidelity", "1,2,3"], "fidelity needs one number, or one for each of the 2 layers"),
            (["--maps", ""], "maps must be whole numbers separated by commas"),
            (["--fidelity", "0"], "fidelity must be a number above 0"),
            (["--size", "0"], "size must be at least 1"),
            (["--shown-size", "0"], "shown-size must be at least 1"),
            (["--images", "nowhere"], "no such file or folder"),
            (["--filters", "one.png"], "holds no deconvolutional network"),
            (["--filters", "nowhere.npz"], "filters 'nowhere.npz': no such file"),
            (["--fidelity", "nan"], "fidelity must be a number above 0"),
            (["--seed", "-1"], "--seed must be from 0 to 2**63 - 1"),
            (["--seed", "9" * 20], "--seed must be from 0 to 2**63 - 1"),
            (["--epochs", "-1"], "epochs must be at least 0"),
            (["--batch-size", "0"], "batch_size must be at least 1"),
            (["--device", "tpu"], "device"),
            (["-o", "one.png"], "is a file"),
        ],
    )
    def test_one_line_on_bad_input(self, place, arguments, message):
        result = run(*arguments)
        assert result.exit_code == 2
        assert isinstance(result.exception, SystemExit)
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert sorted(path.name for path in place.iterdir()) == ["one.png", "two.png"]
