"""Networks that ask for the sizes of their maps: traced for a size, exact, or refused by name."""

import copy
import math
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_same, assert_untouched, held, of_units, one_by_one
from torch import Tensor, nn

import deconv_kernels as dk
from deconv_kernels.engine.errors import NeedsSizes
from deconv_kernels.measure.baselines import definition

SIZE = (3, 13, 11)
Program = Callable[[Any, Tensor], Tensor]
ASKING: dict[str, Program] = {}


def asking(program: Program) -> Program:
    ASKING[program.__name__] = program
    return program


class Asking(nn.Module):
    """A network whose forward is a function of its layers and of images (N, 3, H, W)."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        self.third = nn.Conv2d(4, 4, 1)
        self.attention, self.attention_in_windows = Attention(4), AttentionInWindows(4)
        self.register_buffer("scale", torch.rand(4, 1, 1) + 0.5)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        return self.program(self, x)


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows = self.qkv(x.flatten(2).transpose(1, 2)).reshape(batch, height * width, 3, 2, channels // 2)
        q, k, v = rows.permute(2, 0, 3, 1, 4).unbind(0)
        found = F.scaled_dot_product_attention(q, k, v)
        return found.transpose(1, 2).reshape(batch, height * width, channels).transpose(1, 2).view(x.shape)


class AttentionInWindows(Attention):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % 3 or x.shape[3] % 3:
            x = F.pad(x, (0, -x.shape[3] % 3, 0, -x.shape[2] % 3))
        batch, channels, height, width = x.shape
        parts = x.view(batch, channels, height // 3, 3, width // 3, 3).permute(0, 2, 4, 1, 3, 5)
        parts = super().forward(F.normalize(parts.reshape(-1, channels, 3, 3)))
        back = parts.view(-1, height // 3, width // 3, channels, 3, 3).permute(0, 3, 1, 4, 2, 5)
        return back.reshape(batch, channels, height, width)[..., :-1]


@asking
def one_way_for_small_maps(net: Any, x: Tensor) -> Tensor:
    y = net.relu(net.norm(net.first(x)))
    if y.shape[-2] < 7:
        y = F.interpolate(y, size=7)
    return net.second(y)


@asking
def padded_as_in_tensorflow(net: Any, x: Tensor) -> Tensor:
    y = net.relu(net.first(x))
    height, width = y.shape[-2:]
    down, right = (max((math.ceil(size / 2) - 1) * 2 + 3 - size, 0) for size in (height, width))
    return F.relu(net.second(F.pad(y, (right // 2, right - right // 2, down // 2, down - down // 2))))


@asking
def refuses_other_channels(net: Any, x: Tensor) -> Tensor:
    if x.shape[1] != net.first.in_channels:
        raise ValueError("other channels")
    return F.relu(net.first(x), inplace=True)


@asking
def a_batch_of_some_length(net: Any, x: Tensor) -> Tensor:
    y = net.relu(net.first(x))
    if y.shape[-1] > 4:
        y = F.avg_pool2d(y, 2)
    return y.view(len(y), -1)


@asking
def sizes_unpacked(net: Any, x: Tensor) -> Tensor:
    batch, *rest = net.first(x).shape
    return F.relu(net.first(x)).reshape(batch, math.prod(rest))


@asking
def whole_numbers_of_sizes(net: Any, x: Tensor) -> Tensor:
    y = F.relu(net.first(x))
    return y.view(int(y.size(0)), int(y.size(1)), int(y.size(2)) * int(y.size(3))).flatten(1)


@asking
def as_another(net: Any, x: Tensor) -> Tensor:
    y = F.relu(net.first(x))
    assert y.shape[1] == 4
    z = y.unflatten(1, (2, 2)).flatten(1, 2).view_as(y).reshape_as(y) + net.scale.expand_as(y)
    return z + torch.zeros_like(y) + y.new_zeros(y.shape) + torch.ones(len(y), 1, 1, 1, dtype=y.dtype)


@asking
def buffers_written(net: Any, x: Tensor) -> Tensor:
    y = net.relu(net.first(x))
    if y.shape[2] % 2:
        net.scale.mul_(2)
    y *= net.scale
    net.scale.add_(1)
    return y.mul_(net.scale)


@asking
def buffers_written_while_images_have_no_dimension(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    if y.shape[1] == 4:
        parts = y.permute(1, 0, 2, 3)
        net.scale.view(4, 1, 1).mul_(2)
        y = (parts * net.scale[:, None]).softmax(0).permute(1, 0, 2, 3)
    return F.relu(y) * net.scale


@asking
def maps_written(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    if y.shape[2] > 2:
        y += 0.5
    z = F.relu_(y)
    z.mul_(2).sub_(0.25)
    return torch.cat([y, z], 1)


@asking
def modules_called_twice(net: Any, x: Tensor) -> Tensor:
    y = net.relu(net.first(x))
    for _ in range(y.shape[1] // 2):
        y = net.relu(net.third(y)) + y
    return y


@asking
def without_gradient_for_a_while(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    with torch.no_grad():
        gate = (y.mean((2, 3), keepdim=True) > 0).to(y.dtype) * len(y.shape)
    return F.relu(y) * gate if y.shape[1] == 4 else y


@asking
def attends(net: Any, x: Tensor) -> Tensor:
    return net.third(net.attention(F.max_pool2d(net.relu(net.first(x)), 2)))


@asking
def windows_in_the_batch(net: Any, x: Tensor) -> Tensor:
    y = F.pad(net.relu(net.first(x)), (0, -x.shape[3] % 3, 0, -x.shape[2] % 3))
    batch, channels, height, width = y.shape
    parts = y.view(batch, channels, height // 3, 3, width // 3, 3).permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, 3, 3)
    parts = F.softmax(net.third(parts).flatten(1), 1).view(-1, channels, 3, 3)
    back = parts.view(batch, height // 3, width // 3, channels, 3, 3).permute(0, 3, 1, 4, 2, 5)
    return back.reshape(batch, channels, height, width)


@asking
def one_query_for_all_windows(net: Any, x: Tensor) -> Tensor:
    y = net.third(net.relu(net.first(x))[:, :, :8, :8])
    batch, channels, *_ = y.shape
    parts = y.reshape(batch, channels, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, channels)
    query = y.mean((2, 3))[:, None].repeat_interleave(parts.shape[0] // batch, dim=0)
    once = y.flatten(1).repeat_interleave(batch // y.shape[0], dim=0)
    return torch.cat([(query * parts).reshape(batch, -1), once], 1)


@asking
def patches_of_maps(net: Any, x: Tensor) -> Tensor:
    y = F.pad(net.relu(net.first(x)), [0] * 4 + [1, 1] + [0, 0]) if x.shape[1] == 3 else x
    patches = F.unfold(y, (3, 2), padding=1, stride=2)
    norms = torch.linalg.vector_norm(patches, dim=1, keepdim=True)
    return F.fold(patches / norms.clamp_min(1e-6), y.shape[2:], (3, 2), padding=1, stride=2)


@asking
def rows_and_columns(net: Any, x: Tensor) -> Tensor:
    y = net.relu(net.first(x))
    rows, columns = F.adaptive_max_pool2d(y, (y.shape[2] // 2, 1)), F.adaptive_max_pool2d(y, (1, y.shape[3] // 2))
    largest, where = F.adaptive_max_pool2d(y, 2, return_indices=True)
    placed = torch.gather(y.flatten(2), 2, where.flatten(2)).view(largest.shape)
    return torch.cat([z.flatten(1) for z in (rows, columns, largest, placed)], 1)


@asking
def windows_in_a_block(net: Any, x: Tensor) -> Tensor:
    return net.attention_in_windows(net.relu(net.first(x)))


@asking
def autocast_switched_off(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    with torch.autocast(y.device.type, enabled=y.shape[1] != 4):
        y = net.third(F.relu(y))
    return y


@asking
def filtered_in_its_spectrum(net: Any, x: Tensor) -> Tensor:
    y = net.relu(net.first(x))
    spectrum = torch.fft.rfft2(y)
    spectrum = spectrum * torch.view_as_complex(torch.stack([net.scale, net.scale.flip(0)], -1))
    return net.third(torch.fft.irfft2(spectrum, s=y.shape[-2:]))


@asking
def length_of_the_batch(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    wide = torch.zeros(len(x), 4, y.shape[2] + 1, y.shape[3], dtype=y.dtype)
    wide[:, :, 1:] = y
    wide[:, 1:3, :2].mul_(2)
    return net.relu(wide).view(len(wide), -1)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, by: float = 2.0) -> Tensor:
        return x * by

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * 5, None


class Halves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight)
        return x[:, :2].clone(), x[:, 2:] * weight

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, None]:
        return torch.cat([3 * first, second * ctx.saved_tensors[0]], 1), None


kept_apply = Doubled.apply


@asking
def functions_with_a_backward_of_their_own(net: Any, x: Tensor) -> Tensor:
    y = Doubled.apply(net.first(x), 3.0)
    if y.shape[1] == 4:
        first, second = Halves.apply(F.relu(y), net.scale[:1])
        y = torch.cat([kept_apply(second), first], 1)
    return net.third(y)


class OfTheHubs(nn.Module):
    """Takes and returns what networks of the hubs do."""

    main_input_name = "pixel_values"

    def __init__(self) -> None:
        super().__init__()
        self.net = Asking(one_way_for_small_maps)

    def forward(self, labels: Any = None, pixel_values: Tensor | None = None, return_dict: bool = True) -> Any:
        if pixel_values is None or pixel_values.shape[1] != 3:
            raise ValueError("no images")
        logits = self.net(pixel_values)
        return Output(None, logits) if return_dict else (logits,)


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


def assert_exact(net: dk.Deconvnet, model: nn.Module, size: tuple[int, ...]) -> None:
    """Asserts that activations and projections are those of the network itself."""
    images = torch.randn(3, *size, dtype=torch.float64)
    alone = one_by_one(model, images)
    net.record(images, net.layers[0])  # which traces it for their size
    record = net.record(images, net.output, activations=True, batch_size=2)
    assert_same(record.activations[net.output], alone, f"activations of {size}")
    units = torch.tensor([[2, *(length // 2 for length in alone.shape[1:])], [0] * alone.dim()])
    found = net.project(record, dk.Units(net.output, *(*units.T, 0, 0)[:4]), "one")
    assert_same(found.full(), of_units(model, images, units, net.rule), f"projections of {size}")


@pytest.mark.parametrize("name", ASKING)
def test_networks_that_ask_for_sizes_are_exact(name: str) -> None:
    model = Asking(ASKING[name])
    before = held(model)
    net = dk.Deconvnet(model, "gradient", image_size=SIZE)
    assert_exact(net, model, SIZE)
    assert_exact(net, model, (3, 16, 12))  # traced anew
    assert_exact(net, model, SIZE)
    assert_untouched(model, before)


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", ["one_way_for_small_maps", "padded_as_in_tensorflow", "modules_called_twice"])
def test_rectifiers_go_by_the_rule(name: str, rule: str) -> None:
    model = Asking(ASKING[name])
    assert_exact(dk.Deconvnet(model, rule, image_size=SIZE), model, SIZE)


def test_sizes_are_those_of_the_images_that_are_recorded() -> None:
    model = Asking(one_way_for_small_maps)
    net = dk.Deconvnet(model)
    with pytest.raises(NeedsSizes, match=r"test_sizes.py:\d+ \(if y.shape.*image_size=\(C, H, W\)"):
        _ = net.layers
    net.record(torch.randn(1, *SIZE).double(), "relu")
    assert net.layers == ["first", "norm", "relu", "second"]
    assert_exact(net, model, SIZE)
    net.record(torch.randn(1, 3, 6, 6).double(), "relu")
    assert net.layers == ["first", "norm", "relu", "interpolate", "second"]
    assert_exact(net, model, (3, 6, 6))


def test_weights_may_change_between_records() -> None:
    model = Asking(padded_as_in_tensorflow)
    net = dk.Deconvnet(model, "gradient", image_size=SIZE)
    assert_exact(net, model, SIZE)
    with torch.no_grad():
        model.first.weight[:, 1] = 0
        model.second.weight.data *= 3
    assert_exact(net, model, SIZE)


def test_records_of_several_sizes_live_side_by_side() -> None:
    model = Asking(one_way_for_small_maps)
    net = dk.Deconvnet(model, "gradient")
    images = [torch.randn(1, *size).double() for size in (SIZE, (3, 6, 6))]
    records = [net.record(x, "second", activations=True) for x in images]
    records[1] = pickle.loads(pickle.dumps(records[1]))
    for x, record in zip(images, records, strict=True):
        units = record.strongest("second", 1)
        expected = of_units(model, x, units.table().T, "gradient")
        assert_same(net.project(record, units, "one").full(), expected, f"{tuple(x.shape)}")
    again = copy.deepcopy(net)
    assert_exact(again if again.record(images[0], "second") else again, model, SIZE)


class Row(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x)) if x.shape[1] == 8 else x


def test_rows_may_be_asked_for_their_size() -> None:
    model = Row().double()
    assert_exact(dk.Deconvnet(model, "gradient", image_size=(8,)), model, (8,))


def test_one_call_traces_for_the_size_of_its_images() -> None:
    model = Asking(one_way_for_small_maps)
    images = torch.randn(1, 3, 6, 6).double()
    found = dk.project(model, images, "interpolate", [(0, 2, 3, 3)], rule="gradient", seed="one")
    net = dk.Deconvnet(model, "gradient")
    units = dk.Units("interpolate", 0, 2, 3, 3)
    assert torch.equal(found, net.project(net.record(images, "interpolate"), units, "one").full())


def test_a_copy_is_traced_for_the_same_size() -> None:
    net = dk.Deconvnet(Asking(one_way_for_small_maps), image_size=(3, 6, 6))
    for again in (copy.deepcopy(net), copy.copy(net)):
        assert again.layers == net.layers


def test_a_part_without_a_rule_is_opened_by_the_line_that_the_message_prints() -> None:
    model = Asking(attends)
    with pytest.raises(dk.UnsupportedModule, match="rules={.*scaled_dot_product_attention.*: 'gradient'}"):
        dk.Deconvnet(model, image_size=SIZE)
    net = dk.Deconvnet(model, image_size=SIZE, rules={Attention: "gradient"})
    assert "attention" in net.layers
    assert_exact(net, model, SIZE)


def advised(message: str) -> dict[Any, str]:
    """The rules that a refusal prints, as Python takes them."""
    line = re.search(r"rules=({.*?})\)", message)
    assert line is not None, message
    return eval(line[1], dict(sys.modules))


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize(
    "name",
    ["attends", "windows_in_the_batch", "functions_with_a_backward_of_their_own", "one_query_for_all_windows"]
    + ["patches_of_maps", "windows_in_a_block"],
)
def test_the_line_that_a_refusal_prints_is_enough(name: str, rule: str) -> None:
    model = Asking(ASKING[name])
    with pytest.raises(dk.UnsupportedModule, match="rules=") as refused:
        dk.Deconvnet(model, rule, image_size=SIZE)
    net = dk.Deconvnet(model, rule, image_size=SIZE, rules=advised(str(refused.value)))
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    for layer in ("relu", net.output) if "relu" in net.layers else (net.output,):
        record = net.record(images, layer, activations=True)
        units = record.strongest(layer, 1)[:3]
        assert_same(net.project(record, units, "one").full(), definition(net, images, units), f"{layer} of {name}")


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_windows_of_a_block_are_one_step_where_a_rule_names_the_block(rule: str) -> None:
    model = Asking(windows_in_a_block)
    net = dk.Deconvnet(model, rule, image_size=SIZE, rules={AttentionInWindows: "gradient"})
    assert "attention_in_windows" in net.layers
    assert_exact(net, model, SIZE)


class Volumes(nn.Module):
    def __init__(self, program: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.program, self.first, self.last = program, nn.Conv3d(1, 4, 2), nn.Conv3d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.program(F.relu(self.first(x))))


@pytest.mark.parametrize(
    "program",
    [
        lambda x: x.flip(-4) - x.mean(-4, keepdim=True),
        lambda x: F.pad(x, [0] * 6 + [1, 0, 0, 0])[..., 1:, :-1, 1:, :],
        lambda x: x.flatten(-4, -3).unflatten(1, (4, -1)).transpose(-4, -1).transpose(1, 4),
    ],
)
def test_dimensions_of_volumes_count_from_the_end(program: Callable[[Tensor], Tensor]) -> None:
    model = Volumes(program).double().eval()
    net = dk.Deconvnet(model, "gradient")
    images = torch.randn(2, 1, 5, 6, 4, dtype=torch.float64)
    record = net.record(images, "last", activations=True)
    assert_same(record.activations["last"], one_by_one(model, images), "activations")
    found = net.project(record, dk.Units("last", 1, 2, z=2, y=3, x=1), "one")
    assert_same(found.full(), of_units(model, images, torch.tensor([[1, 2, 2, 3, 1]])), "projection")


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_what_only_moves_images_about_needs_no_rule(rule: str) -> None:
    def rows_of_all_images(net: Any, x: Tensor) -> Tensor:
        y = net.relu(net.first(x)).flatten(2).transpose(1, 2)
        rows = net.norm.eval()(y.flatten(0, 1)[:, :, None, None]).squeeze(3).squeeze(2)
        return torch.stack([rows.reshape_as(y), y]).sum(0).transpose(1, 2).view(x.shape[0], 4, *x.shape[2:])

    model = Asking(rows_of_all_images)
    assert_exact(dk.Deconvnet(model, rule, image_size=SIZE), model, SIZE)


def test_a_map_is_a_tensor_to_torch_jit_isinstance() -> None:
    model = Asking(lambda net, x: F.relu(net.first(x)) if torch.jit.isinstance(x, Tensor) else x)
    net = dk.Deconvnet(model)
    assert net.layers == ["first", "relu"]
    assert_exact(net, model, SIZE)


def test_a_map_is_a_tensor_to_isinstance() -> None:
    model = Asking(lambda net, x: F.relu(net.first(x)) if isinstance(x, Tensor) else x)
    net = dk.Deconvnet(model)
    assert net.layers == ["first", "relu"]
    assert_exact(net, model, SIZE)


captured: list[Tensor] = []


class Capturing(nn.Module):
    """Reads what its parts make by hooks that it installs in its first call, as networks of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not getattr(self, "_output_capturing_hooks_installed", False):
            self.first.register_forward_hook(lambda module, args, output: captured.append(output))
            self._output_capturing_hooks_installed = True
        captured.clear()
        y = self.second(F.relu(self.first(x)))
        return y + captured[0].mean((2, 3), keepdim=True)[:, :1] if x.shape[1] == 3 else y


def test_hooks_that_a_network_installs_itself_are_followed_again() -> None:
    model = Capturing().double()
    for rule in ("gradient", "deconvnet"):
        model(torch.randn(1, *SIZE, dtype=torch.float64))
        net = dk.Deconvnet(model, rule, image_size=SIZE)
        images = torch.randn(2, *SIZE, dtype=torch.float64)
        record = net.record(images, net.output, activations=True)
        assert_same(record.activations[net.output], model(images), "activations")


class Overwriting(nn.Module):
    """Overwrites what it is given, or only a part of that."""

    def __init__(self, part: bool) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        (x[:, 1:] if self.part else x).mul_(2)
        return x.sin().cos()


@pytest.mark.parametrize("part", [False, True])
def test_a_module_that_is_one_step_may_not_write_into_what_it_is_given(part: bool) -> None:
    model = Asking(lambda net, x: net.third(net.over(net.first(x))) if x.shape[1] == 3 else x)
    model.over = Overwriting(part)
    with pytest.raises(dk.UnsupportedModule, match="writes into what"):
        net = dk.Deconvnet(model, "gradient", image_size=SIZE, rules={Overwriting: "gradient"})
        net.record(torch.randn(2, *SIZE, dtype=torch.float64), "third")


def test_networks_of_the_hubs() -> None:
    model = OfTheHubs()
    net = dk.Deconvnet(model, "gradient", image_size=SIZE)
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    record = net.record(images, "net.second", activations=True)
    assert net.output == "net.second"
    assert_same(record.activations["net.second"], model(pixel_values=images).logits, "activations")
    assert_exact(net, model.net, SIZE)
    tuples = dk.Deconvnet(model, "gradient", image_size=SIZE, arguments={"return_dict": False})
    assert_exact(tuples, model.net, SIZE)


def plain_written(net: Any, x: Tensor) -> Tensor:
    net.held[0].add_(1)
    return F.relu(net.first(x)) * net.held[0] if x.shape[1] == 3 else x


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            lambda net, x: net.first(x) - net.first(x).mean(0, keepdim=x.shape[1] == 3),
            "mixes the images",
        ),
        (lambda net, x: torch.stack([net.first(y[None])[0] for y in x]) if x.shape[1] == 3 else x, "one by one"),
        (lambda net, x: torch.cat([net.first(x[i : i + 1]) for i in range(len(x))]), "one by one"),
        (lambda net, x: net.first(x) * (x.shape[0] ** 2 if x.shape[1] == 3 else 1), "size of the batch"),
        (lambda net, x: net.first(x) * (1.5 / x.shape[0] if x.shape[1] == 3 else 1), "another size of the batch"),
        (lambda net, x: net.first(x) if x.shape[1] == 3 and x.sum() > 0 else x, "cannot trace Asking"),
        (plain_written, "register that tensor as a buffer"),
    ],
    ids=[
        "mean of images",
        "iterated",
        "sliced",
        "batch squared",
        "by the batch",
        "values",
        "written",
    ],
)
def test_what_is_not_exact_is_refused(program: Program, message: str) -> None:
    model = Asking(program)
    model.held = [torch.ones(4, 1, 1, dtype=torch.float64)]
    before = held(model)
    with pytest.raises(dk.UnsupportedModule, match=message):
        net = dk.Deconvnet(model, "gradient", image_size=SIZE)
        net.record(torch.randn(2, *SIZE, dtype=torch.float64), net.output)
    assert_untouched(model, before)
