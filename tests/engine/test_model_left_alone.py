"""Nothing that a Deconvnet does is seen on the model, and nothing that others do meanwhile is seen in its results."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconv_kernels import Units
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.errors import UnsupportedModule


class Talkative(nn.Module):
    """Leaves traces wherever its forward comes by."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.inner = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Dropout(0.5), nn.ReLU(inplace=True))
        self.register_buffer("calls", torch.zeros(1))
        self.times, self.last = 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.times += 1
        self.calls.add_(1)
        self.last = x
        x = self.pool(self.relu(self.norm(self.conv(x))))
        x = x * torch.tensor([2.0]) + torch.tensor(0.5)
        x += self.inner(x)
        return F.relu(x, inplace=True)


class Branching(Talkative):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if x.sum() > 0 else -x


def state(model: nn.Module) -> list[Any]:
    """All that a model holds, copied; its tensors with their version, so that nothing can be put back unseen."""
    found: list[Any] = []
    for name, module in model.named_modules():
        for key, value in sorted(vars(module).items()):
            held = list(value.items()) if isinstance(value, dict) else [(None, value)]
            for part, entry in held:
                if isinstance(entry, Tensor):
                    more = (entry.requires_grad, entry.grad is None, entry._version, id(entry))
                    found.append((name, key, part, entry.detach().clone().tolist(), *more))
                else:
                    found.append((name, key, part, id(entry) if callable(entry) else repr(entry)))
    return found


def randomised(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and name != "calls":
                tensor.normal_(0, 0.4)
    return model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
def test_a_model_is_as_it_was(training: bool, rule: str) -> None:
    model = randomised(Talkative()).train(training)
    model.conv.weight.requires_grad_(False)
    seen: list[Any] = []
    model.inner.register_forward_hook(lambda *call: seen.append(call))
    model.register_forward_pre_hook(lambda *call: seen.append(call))
    before = state(model)
    net = Deconvnet(model, rule)
    record = net.record(torch.randn(2, 3, 9, 10), net.layers, activations=True)
    for layer in net.layers:
        net.project(record, Units(layer, [0, 1], [2, 3], [1, 2], [3, 0]))
    assert state(model) == before
    assert not seen
    model.eval()
    twin = torch.randn(1, 3, 9, 10)
    last = net.record(twin, net.output, activations=True).activations[net.output]
    torch.testing.assert_close(last, model(twin))


def test_a_model_is_as_it_was_after_an_error() -> None:
    model = randomised(Branching()).train()
    before = state(model)
    with pytest.raises(
        UnsupportedModule, match=r"test_model_left_alone\.py:\d+ \(return x if x\.sum\(\) > 0 else -x\)"
    ):
        Deconvnet(model)
    assert state(model) == before
    model = randomised(Talkative())
    net, before = Deconvnet(model), state(model)
    with pytest.raises(RuntimeError):
        net.record(torch.randn(1, 4, 9, 10), net.layers)
    assert state(model) == before


def test_two_deconvnets_on_one_model_do_not_meet() -> None:
    model, images = randomised(Talkative()).double(), torch.randn(2, 3, 9, 10, dtype=torch.float64)
    units = Units("inner.2", [0, 1, 1], [0, 3, 5], [1, 2, 0], [3, 0, 4])

    def alone(rule: str) -> Tensor:
        net = Deconvnet(model, rule)
        return net.project(net.record(images, "inner.2"), units, seed="one").full()

    expected = [alone(rule) for rule in ("deconvnet", "guided")]
    nets = [Deconvnet(model, rule) for rule in ("deconvnet", "guided")]
    records = [net.record(images, "inner.2") for net in nets]
    for net, record, projections in zip(reversed(nets), reversed(records), reversed(expected), strict=True):
        assert torch.equal(net.project(record, units, seed="one").full(), projections)


def test_a_copy_has_weights_of_its_own() -> None:
    model, images = randomised(Talkative()).eval(), torch.randn(2, 3, 9, 10)
    net = Deconvnet(model, "guided")
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert (copied.rule, copied.layers) == (net.rule, net.layers)
        with torch.no_grad():
            copied.model.conv.weight.mul_(2)
        expected = copied.model(images)
        assert not torch.equal(model(images), expected)
        torch.testing.assert_close(copied.record(images, net.output, True).activations[net.output], expected)


def test_a_record_keeps_nothing_that_the_caller_can_change() -> None:
    model = nn.Sequential(nn.LocalResponseNorm(3, alpha=1.0), nn.Conv2d(3, 4, 3))
    net, images = Deconvnet(model, "gradient", "gradient"), torch.randn(2, 3, 7, 7)
    record = net.record(images, ["0", "1"], activations=True)
    units = Units("1", [0, 1], [0, 1], [2, 3], [4, 1])
    before = net.project(record, units).full()
    images.zero_()
    assert torch.equal(net.project(record, units).full(), before)


def test_reading_a_spectral_norm_in_training_mode_changes_nothing() -> None:
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    net, images = Deconvnet(model), torch.randn(2, 3, 7, 7)
    record = net.record(images, "1", activations=True)
    net.project(record, record.strongest("1", 1))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    torch.testing.assert_close(record.activations["1"], model.eval()(images))


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs work(number) in threads that begin together, and raises what one of them raises."""
    errors: list[BaseException] = []
    begin = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            begin.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_share_a_deconvnet() -> None:
    model, images = randomised(Talkative()).double(), torch.randn(2, 3, 21, 22, dtype=torch.float64)
    net = Deconvnet(model, "guided")
    layers = ["conv", "pool", "inner.0", net.output]
    units = [Units(layer, [0, 1, 1], [0, 3, 5], [1, 2, 0], [3, 0, 4]) for layer in layers]
    first = Deconvnet(model, "guided")
    record = first.record(images, layers)
    expected = [first.project(record, of_layer, seed="one").full() for of_layer in units]

    def work(number: int) -> None:
        for _ in range(5):
            mine = net.record(images, layers)
            assert torch.equal(net.project(mine, units[number], seed="one").full(), expected[number])

    in_threads(len(layers), work)


def test_threads_trace_one_model_while_it_runs() -> None:
    model, images = randomised(Talkative()).eval(), torch.randn(2, 3, 9, 10)
    output, layers = model(images), Deconvnet(model).layers

    def work(number: int) -> None:
        for _ in range(5):
            if number % 2:
                assert Deconvnet(model).layers == layers
            else:
                assert torch.equal(model(images), output)

    in_threads(4, work)
