"""Random graphs of convolutions, pools, rectifiers in many spellings, joins, skips and in-place operations."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from networks import randomise
from torch import Tensor, nn

Step = Callable[[list[Tensor]], Tensor]

# Applied to a convolution's or any other map; those with "_" or "inplace" overwrite it.
RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu({})": F.relu,
    "torch.relu({})": torch.relu,
    "{}.relu()": lambda x: x.relu(),
    "{}.clamp(min=0)": lambda x: x.clamp(min=0),
    "F.relu6(2 * {})": lambda x: F.relu6(2 * x),
    "{}.clamp(0, 1)": lambda x: x.clamp(0, 1),
    "F.leaky_relu({}, 0.2)": lambda x: F.leaky_relu(x, 0.2),
    "F.relu({}, inplace=True)": lambda x: F.relu(x, inplace=True),
    "{}.relu_()": lambda x: x.relu_(),
    "torch.relu_({})": torch.relu_,
    "{}.clamp_(min=0)": lambda x: x.clamp_(min=0),
    "F.hardtanh({}, 0, 2, inplace=True)": lambda x: F.hardtanh(x, 0.0, 2.0, inplace=True),
    "F.leaky_relu_({}, 0.1)": lambda x: F.leaky_relu_(x, 0.1),
}
POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "0.5 * {}": lambda x: 0.5 * x,
    "{} + 0.3": lambda x: x + 0.3,
    "{} / 2 - 0.1": lambda x: x / 2 - 0.1,
    "F.dropout({}, training=False)": lambda x: F.dropout(x, training=False),
    "F.local_response_norm({}, 3)": lambda x: F.local_response_norm(x, 3, alpha=0.5),
    "{}[:, 1:]": lambda x: x[:, 1:],
    "F.interpolate({}, scale_factor=2)": lambda x: F.interpolate(x, scale_factor=2),
    "{}.mul_(1.5)": lambda x: x.mul_(1.5),
    "F.pad({}, (2, -1))": lambda x: F.pad(x, (2, -1)),
    "torch.cumsum({}, 2) / 4": lambda x: torch.cumsum(x, 2) / 4,
    "2 * {}.narrow(1, 0, 2)": lambda x: 2 * x.narrow(1, 0, 2),
    "0.5 * {}.split(2, 2)[0]": lambda x: 0.5 * x.split(2, 2)[0],
    "torch.cat(({}, zeros), 1)": lambda x: torch.cat((x, torch.zeros_like(x[:, :1])), 1),
    "1.5 * {}.unflatten(1, (1, -1)).select(1, 0)": lambda x: 1.5 * x.unflatten(1, (1, -1)).select(1, 0),
    "{0} + {0}.mean(2, keepdim=True)": lambda x: x + x.mean(2, keepdim=True),
}
OF_PICTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "F.pad({}, (1, 0, 2, -1))": lambda x: F.pad(x, (1, 0, 2, -1)),
    "F.pad({}, reflect)": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "{}.roll((1, -1), (2, 3))": lambda x: x.roll((1, -1), (2, 3)),
    "{}.flip(3)": lambda x: x.flip(3),
    "{}.movedim(3, 2) / 2": lambda x: x.movedim(3, 2) / 2,
    "{0}.mean(3, keepdim=True).expand_as({0}) + 0.1": lambda x: x.mean(3, keepdim=True).expand_as(x) + 0.1,
    "{0}.to({0}).repeat(1, 1, 2, 1)": lambda x: x.to(x).repeat(1, 1, 2, 1),
    "{0} + {0}.mean((2, 3), keepdim=True)": lambda x: x + x.mean((2, 3), keepdim=True),
}


def pools(rank: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Poolings of maps of `rank` axes."""
    name, average = f"max_pool{rank}d", getattr(F, f"avg_pool{rank}d")
    pool, of_torch, window = getattr(F, name), getattr(torch, name), ((2, 3, 2)[:rank], (1, 2, 1)[:rank])
    return {
        f"F.{name}({{}}, 2)": lambda x: pool(x, 2),
        f"F.{name}({{}}, 3, 2, 1)": lambda x: pool(x, 3, 2, 1),
        f"F.{name}({{}}, 3, 1, 1)": lambda x: pool(x, 3, 1, 1),
        f"torch.{name}({{}}, {window[0]}, stride={window[1]})": lambda x: of_torch(x, window[0], stride=window[1]),
        f"F.{name}({{}}, 3, 2, ceil_mode=True)": lambda x: pool(x, 3, 2, ceil_mode=True),
        f"F.{name}({{}}, 2, 1, dilation=2)": lambda x: pool(x, 2, 1, dilation=2),
        f"F.avg_pool{rank}d({{}}, 3, 2, 1)": lambda x: average(x, 3, 2, 1),
    }


class RandomNetwork(nn.Module):
    """Steps that each read earlier values, any of them, and give a new one; the last value is returned.

    It never subtracts, so that no signal is nothing but the rounding of two that cancel.

    Attributes:
        text: a line for each step.
    """

    def __init__(self, images: Tensor, length: int) -> None:
        super().__init__()
        self.parts, self.rank = nn.ModuleList(), images.dim() - 2
        self.steps: list[Step] = []
        self.text: list[str] = []
        values = [images.clone()]
        kinds = (
            *(self.convolution,) * 5,
            *(self.called_again, self.normalisation, self.rectifier_module),
            *(self.one_of(RECTIFIERS),) * 4,
            *(self.one_of(POINTWISE | OF_PICTURES if self.rank == 2 else POINTWISE),) * 2,
            *(self.one_of(pools(self.rank)), self.addition, self.addition, self.concatenation, self.resized),
        )
        with torch.no_grad():
            while len(self.steps) < length:
                random.choice(kinds)(values)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step in self.steps:
            values.append(step(values))
        return values[-1]

    def append(self, text: str, step: Step, values: list[Tensor]) -> None:
        self.text.append(f"v{len(values)} = {text}")
        self.steps.append(step)
        values.append(step(values))

    def recent(self, values: list[Tensor]) -> int:
        """The number of a value, more often a late one, but now and then the images."""
        return max(random.randrange(len(values)), random.randrange(len(values)), random.randrange(len(values)))

    def overwritable(self, values: list[Tensor], number: int) -> bool:
        """Whether nothing else looks at another part of the memory of a value."""
        storage = values[number].untyped_storage().data_ptr()
        sharing = [value for value in values if value.untyped_storage().data_ptr() == storage]
        return all(value.shape == values[number].shape for value in sharing)

    def module(self, module: nn.Module, values: list[Tensor], source: int) -> None:
        randomise(module.double().eval(), values[source])
        self.parts.append(module)
        index = len(self.parts) - 1
        self.append(f"parts[{index}](v{source})  # {module}", lambda v: self.parts[index](v[source]), values)

    def convolution(self, values: list[Tensor]) -> None:
        source = self.recent(values)
        channels, *size = values[source].shape[1:]
        kernel, stride, dilation = random.choice((1, 2, 3, 3)), random.choice((1, 1, 2)), random.choice((1, 1, 2))
        padding = random.randint(0, kernel // 2)
        groups = channels if random.random() < 0.2 else 1
        out = groups if groups > 1 else random.choice((3, 4))
        if min(size) + 2 * padding <= dilation * (kernel - 1) or channels > 12:
            return
        convolution, transposed = getattr(nn, f"Conv{self.rank}d"), getattr(nn, f"ConvTranspose{self.rank}d")
        if random.random() < 0.1 and max(size) < 20:
            self.module(transposed(channels, out, kernel, stride, groups=groups), values, source)
        else:
            self.module(convolution(channels, out, kernel, stride, padding, dilation, groups), values, source)

    def called_again(self, values: list[Tensor]) -> None:
        source = self.recent(values)
        channels, *size = values[source].shape[1:]
        convolution = getattr(nn, f"Conv{self.rank}d")
        fitting = [
            number
            for number, part in enumerate(self.parts)
            if isinstance(part, nn.ReLU)
            or (isinstance(part, convolution) and part.in_channels == channels and min(size) > 4)
        ]
        if fitting and self.overwritable(values, source):
            index = random.choice(fitting)
            self.append(f"parts[{index}](v{source})", lambda v: self.parts[index](v[source]), values)

    def normalisation(self, values: list[Tensor]) -> None:
        source = self.recent(values)
        self.module(getattr(nn, f"BatchNorm{self.rank}d")(values[source].shape[1]), values, source)

    def rectifier_module(self, values: list[Tensor]) -> None:
        source = self.recent(values)
        if self.overwritable(values, source):
            module = random.choice((nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(inplace=True), nn.LeakyReLU(0.3)))
            self.module(module, values, source)

    def one_of(self, functions: dict[str, Callable[[Tensor], Tensor]]) -> Callable[[list[Tensor]], None]:
        def grow(values: list[Tensor]) -> None:
            source, text = self.recent(values), random.choice(list(functions))
            function = functions[text]
            channels, *size = values[source].shape[1:]
            if min(size) < 4 or channels < 2 or max(size) > 40:
                return
            if self.overwritable(values, source):
                self.append(text.format(f"v{source}"), lambda v: function(v[source]), values)

        return grow

    def addition(self, values: list[Tensor]) -> None:
        first = self.recent(values)
        alike = [
            number for number, value in enumerate(values) if value.shape == values[first].shape and number != first
        ]
        if not alike:
            return
        second = random.choice(alike)
        if random.random() < 0.4 and self.overwritable(values, first):

            def in_place(v: list[Tensor]) -> Tensor:
                x = v[first]
                x += v[second]
                return x

            self.append(f"v{first} += v{second}", in_place, values)
        elif random.random() < 0.3 and self.overwritable(values, first):
            self.append(f"v{first}.add_(v{second})", lambda v: v[first].add_(v[second]), values)
        else:
            self.append(f"v{first} + v{second}", lambda v: v[first] + v[second], values)

    def concatenation(self, values: list[Tensor]) -> None:
        first = self.recent(values)
        alike = [number for number, value in enumerate(values) if value.shape[2:] == values[first].shape[2:]]
        joined = [first, *random.sample(alike, min(len(alike), random.choice((1, 2))))]
        if sum(values[number].shape[1] for number in joined) <= 12:
            text = f"torch.cat([{', '.join(f'v{number}' for number in joined)}], 1)"
            self.append(text, lambda v: torch.cat([v[number] for number in joined], 1), values)

    def resized(self, values: list[Tensor]) -> None:
        first, second = self.recent(values), self.recent(values)
        if values[first].shape[2:] != values[second].shape[2:]:
            text = f"F.interpolate(v{first}, size=v{second}.shape[2:])"
            self.append(text, lambda v: F.interpolate(v[first], size=v[second].shape[2:]), values)
