"""Which networks of public collections are exact: every one that is installed here, with random weights, in float64.

    python benchmarks/coverage.py --write                        # rewrites docs/networks.md
    python benchmarks/coverage.py timm --of 2                    # two models of every family of one collection
    python benchmarks/coverage.py --of 2 --keep found.jsonl      # goes on where an interrupted run stopped

A network is exact if its forward pass, and the projection of a unit of its output under the rule "gradient", are those
of the network itself under autograd. Under "deconvnet" and "guided" the definition decides, for a unit of the output
and one of a convolution; what has no rule of its own there is given the one that the refusal says.
"""

from __future__ import annotations

import ast
import json
import math
import multiprocessing
import random
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import deconv_kernels as dk
from deconv_kernels.engine.errors import Undecided
from deconv_kernels.engine.steps.convolution import Convolution
from deconv_kernels.engine.trace.builder import graph_of
from deconv_kernels.measure.baselines import installed, node_of

PAGE = Path(__file__).parent.parent / "docs" / "networks.md"
EXACT = 1e-9
SIDES = (64, 96, 128, 192)
_NOT_EXAMINED = ("too large", "too slow", "no network")
_UNITS_TRIED = 4  # until one has a gradient
_NO_MEMORY = "can't allocate memory"
MOST_MEMORY = 6 << 30
HF = (
    *("Beit", "Bit", "ConvNext", "ConvNextV2", "Cvt", "Data2VecVision", "DeiT", "Dinov2", "EfficientNet", "FocalNet"),
    *("Levit", "MobileNetV1", "MobileNetV2", "MobileViT", "MobileViTV2", "PoolFormer", "Pvt", "PvtV2"),
    *("RegNet", "ResNet", "Segformer", "SwiftFormer", "Swin", "Swinv2", "ViT", "ViTMSN"),
)


class Network(NamedTuple):
    """A network of a collection.

    Attributes:
        name: of it.
        family: to which it belongs.
        make: builds it.
        size: (C, H, W) or (C, D, H, W), of the images that it is made for.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    size: tuple[int, ...]


def of_torchvision() -> Iterator[Network]:
    from torchvision import models

    for name in models.list_models(module=models) + models.list_models(module=models.segmentation):
        # Detection and video are other tasks; quantized networks are not differentiable.
        builder = models.get_model_builder(name)
        given: dict[str, Any] = {"weights": None}
        if name in ("googlenet", "inception_v3"):
            given["init_weights"] = False
        if "segmentation" in builder.__module__:
            given["weights_backbone"] = None
        side = 299 if name == "inception_v3" else 224
        yield Network(name, builder.__module__.rpartition(".")[2], lambda b=builder, g=given: b(**g), (3, side, side))


def of_timm() -> Iterator[Network]:
    import timm

    for name in timm.list_models():
        family = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        size = tuple(config.input_size) if config is not None else (3, 224, 224)
        yield Network(name, family, lambda n=name: timm.create_model(n, pretrained=False), size)


def of_segmentation_models_pytorch() -> Iterator[Network]:
    import segmentation_models_pytorch as smp

    kinds = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN")
    for name in (*kinds, "Segformer", "UPerNet", "DPT"):
        encoders = ("tu-vit_tiny_patch16_224",) if name == "DPT" else ("resnet18", "mobilenet_v2")
        for encoder in encoders:
            make = lambda n=name, e=encoder: getattr(smp, n)(e, encoder_weights=None)  # noqa: E731
            yield Network(f"{name} {encoder}", name, make, (3, 224, 224))


def of_transformers() -> Iterator[Network]:
    import transformers

    for name in HF:
        kind = f"{name}For{'SemanticSegmentation' if name == 'Segformer' else 'ImageClassification'}"
        config = getattr(transformers, f"{name}Config", None)
        if config is not None and hasattr(transformers, kind):
            made = lambda k=kind, c=config: getattr(transformers, k)(c())  # noqa: E731
            side = getattr(config(), "image_size", None) or 224
            yield Network(kind, name, made, (3, side, side) if isinstance(side, int) else (3, *side))


def of_monai() -> Iterator[Network]:
    from monai.networks import nets

    channels = {"channels": (8, 16, 32), "strides": (2, 2)}
    inner = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}
    for dims in (2, 3):
        ends = {"spatial_dims": dims, "in_channels": 1, "out_channels": 2}
        size = (1, *(64 if dims == 2 else 32,) * dims)
        efficient = {"spatial_dims": dims, "in_channels": 1, "num_classes": 2}
        for name, given in {
            "UNet": {**ends, **channels, "num_res_units": 2},
            "AttentionUnet": {**ends, **channels},
            "AutoEncoder": {**ends, **channels, "strides": (2, 2, 2)},
            "BasicUNet": {**ends, "features": (8, 8, 16, 16, 32, 8)},
            "BasicUNetPlusPlus": {**ends, "features": (8, 8, 16, 16, 32, 8)},
            "DynUNet": {**ends, **inner},
            "SegResNet": {**ends, "init_filters": 8},
            "VNet": ends,
            "HighResNet": ends,
            "DenseNet121": ends,
            "EfficientNetBN": {"model_name": "efficientnet-b0", "pretrained": False, **efficient},
            "AHNet": {**ends, "psp_block_num": 3},
            "resnet18": {"spatial_dims": dims, "n_input_channels": 1, "num_classes": 2},
            "SENet154": {**ends, "num_classes": 2, "layers": (1, 1, 1, 1)},
            "UNETR": {**ends, "img_size": size[1:], "hidden_size": 96, "mlp_dim": 192},
            "SwinUNETR": {**ends, "feature_size": 12},
            "ViT": {"in_channels": 1, "img_size": size[1:], "patch_size": (16,) * dims, "spatial_dims": dims},
        }.items():
            taken = (1, 64, 64, 64) if (dims, name) in ((3, "AHNet"), (3, "SwinUNETR")) else size
            given = {k: v for k, v in given.items() if (name, k) != ("SENet154", "out_channels")}
            yield Network(f"{name} {dims}-d", f"{name} {dims}", lambda n=name, g=given: getattr(nets, n)(**g), taken)


COLLECTIONS: dict[str, Callable[[], Iterator[Network]]] = {
    "torchvision": of_torchvision,
    "timm": of_timm,
    "segmentation_models_pytorch": of_segmentation_models_pytorch,
    "transformers": of_transformers,
    "monai": of_monai,
}


@dataclass
class Found:
    """What became of a network.

    Attributes:
        network: its name.
        verdict: "exact", "wrong", "refused", "too slow", "too large" or "no network".
        why: of those that are not exact.
        size: of the images.
        parameters: how many it has.
        seconds: of the processor, to trace it.
        forward, gradient: deviations, relative to the largest value.
        rounding: the same of the network's own gradient in another memory format, where that had to be asked.
        others: of "deconvnet" and "guided": "exact", or why not.
        rules: those that it needs there.
    """

    network: str
    verdict: str
    why: str = ""
    size: tuple[int, ...] = ()
    parameters: int = 0
    seconds: float = 0.0
    forward: float = 0.0
    gradient: float = 0.0
    rounding: float = 0.0
    others: dict[str, str] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)


def smallest_size(network: Network) -> tuple[tuple[int, ...], int]:
    """The size of the smallest images that a network takes, of those tried, and the number of its parameters."""
    size = network.size
    with torch.device("meta"):
        model = network.make().eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for side in [side for side in SIDES if side < size[-1]]:
        tried = (size[0], *(side for _ in size[1:]))
        try:
            with torch.no_grad(), torch.device("meta"):
                model(torch.empty(2, *tried))
            return tried, parameters
        except Exception:  # whatever a network raises at images that it does not take
            continue
    return size, parameters


def examine(network: Network, size: tuple[int, ...]) -> Found:
    """Compares a network of a collection with itself."""
    torch.manual_seed(0)
    found = Found(network.name, "exact", size=size)
    try:
        model = network.make().double().eval()
    except Exception as error:  # whatever a collection raises at what it cannot build here
        return Found(network.name, "no network", _line(error))
    found.parameters = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # as the head of some networks before they are trained, which has no gradient then
                parameter.normal_(0, 0.1)
    images = torch.randn(2, *size, dtype=torch.float64)
    start = time.process_time()
    try:
        net = dk.Deconvnet(model, "gradient", image_size=size)
        found.seconds = time.process_time() - start
        layer = net.tape.output or net.layers[-1]
        output = _first(model(images))
        record = net.record(images, layer, activations=True)
        if net.tape.output is None and record.activations[layer].shape != output.shape:
            return _ended(found, "refused", "it returns several tensors")
        found.forward = _deviation(record.activations[layer], output)
        pixels = images.clone().requires_grad_()
        for _ in range(_UNITS_TRIED):
            unit, place = _some_unit(record, layer, 1)
            # Of two images: for LeViT, autograd gives another gradient for one image than for it among others, and the
            # difference quotient says that the former is wrong.
            (exact,) = torch.autograd.grad(_first(model(pixels))[(1, *place)], pixels)
            if exact.any():
                break
        projected = net.project(record, unit, "one").full()
        found.gradient = _deviation(projected, exact[1:])
        if max(found.forward, found.gradient) > EXACT and images.dim() == 4:
            # What another memory format makes of the network's own gradient is its rounding.
            pixels = pixels.detach().to(memory_format=torch.channels_last).requires_grad_()
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            (other,) = torch.autograd.grad(_first(model(pixels))[(1, *place)], pixels)
            found.rounding = _deviation(other[1:], exact[1:])
    except (dk.UnsupportedModule, ValueError, RuntimeError, TypeError, AttributeError, AssertionError) as error:
        return _ended(found, "too large" if _NO_MEMORY in str(error) else "refused", _line(error))
    if not max(found.forward, found.gradient) <= max(EXACT, 3 * found.rounding):
        return _ended(found, "wrong", "")
    del net, record  # and with it a copy of all weights
    for rule in ("deconvnet", "guided"):
        try:
            found.others[rule] = _against_the_definition(model, rule, images[1:], layer, found)
        except Exception as error:  # a refusal, or a fault of ours, that the page should show
            found.others[rule] = "too large" if _NO_MEMORY in str(error) else _line(error)
    return found


def _against_the_definition(model: nn.Module, rule: str, images: Tensor, layer: str, found: Found) -> str:
    """Compares a unit of a layer, and one of a convolution, with the definition of their projections."""
    net, rules = _with_rules(model, rule, images, layer)
    found.rules = list(rules)
    convolutions = [step.name for step in net.tape.steps if type(step) is Convolution and step.name in net.layers]
    for asked in (layer, *random.sample(convolutions, min(1, len(convolutions)))):
        record = net.record(images, asked, activations=True)
        unit, place = _some_unit(record, asked, 0)
        graph = graph_of(net.tape)
        try:
            node = node_of(graph.graph, net.layer(asked).step)
        except ValueError:  # the layer is a part of what a module computes
            continue
        # Of two images here too.
        meant, _ = dk.reference.project(graph, images, node, [[0, *place]] * 2, rule, rules=net._arguments[0])
        deviation = _deviation(net.project(record, unit, "one").full(), meant[:1])
        if not deviation <= max(EXACT, 3 * found.rounding):
            return f"off by {deviation:.0e} at {asked}"
    return "exact"


def _with_rules(model: nn.Module, rule: str, images: Tensor, layer: str) -> tuple[dk.Deconvnet, dict[str, Any]]:
    """A network with the rules that its refusals, also of images, say, and these as they say them."""
    said: dict[str, Any] = {}
    for _ in range(6):
        try:
            rules = dict.fromkeys(said.values(), "gradient")
            net = dk.Deconvnet(model, rule, rules=rules, image_size=images.shape[1:])
            net.record(images, layer)
            return net, said
        except Undecided as error:
            advice = re.search(r"rules=\{(.*?)\}\)", str(error))
            assert advice is not None
            for line in advice[1].split(": 'gradient'"):
                if key := line.removeprefix(", "):
                    said[key] = _evaluated(key)
    raise ValueError("what the refusals say is not enough")


def _evaluated(key: str) -> Any:
    """What a key of `rules` is in Python."""
    if key.startswith("'"):
        return ast.literal_eval(key)
    room, *names = key.split(".")
    value: Any = sys.modules[room]
    for name in names:
        value = getattr(value, name)
    return value


def _some_unit(record: dk.Record, layer: str, image: int) -> tuple[dk.Units, tuple[int, ...]]:
    """A unit of a layer, and its place in what the layer makes of its image, which need not have the images' axes."""
    shape, made = record.shape(layer), record.activations[layer].shape[1:]
    number = random.randrange(math.prod(made))
    channel, *position = (int(x) for x in torch.unravel_index(torch.tensor(number), tuple(shape)))
    axes = ("z", "y", "x")[3 - len(position) :]
    unit = dk.Units(layer, image, channel, **dict(zip(axes, position, strict=True)))
    return unit, tuple(int(x) for x in torch.unravel_index(torch.tensor(number), tuple(made)))


def _ended(found: Found, verdict: str, why: str) -> Found:
    found.verdict, found.why = verdict, why
    return found


def _first(output: Any) -> Tensor:
    return next(x for x in tree_leaves(output) if isinstance(x, Tensor))


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp_min(1e-30))


def _line(error: Exception) -> str:
    if not str(error):
        return traceback.format_exception_only(error)[-1].strip()
    text = re.sub(r"(?:/[^\s/:]+)+/", "", " ".join(str(error).split()))  # files by their names alone
    return text[:200].replace("|", "/")


def examined_apart(network: Network, most: float, seconds: int) -> Found:
    """What becomes of a network in a process of its own, whose memory is free again afterwards."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)

    def run() -> None:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
        try:
            size, parameters = smallest_size(network)
        except Exception:  # not every network can be built without memory
            size, parameters = network.size, 0
        if parameters > most:
            sender.send(Found(network.name, "too large", parameters=parameters))
        else:
            sender.send(examine(network, size))

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()  # type: ignore[no-any-return]
    except EOFError:
        process.join()
        slow = process.exitcode == -signal.SIGPROF
        return Found(network.name, "too slow" if slow else "too large", f"after {seconds} s" if slow else "")
    finally:
        process.join()


def families(networks: Iterator[Network], seed: int) -> list[list[Network]]:
    """The networks of every family, in an order that the seed draws."""
    found: dict[str, list[Network]] = {}
    for network in networks:
        found.setdefault(network.family, []).append(network)
    return [random.Random(f"{seed} {family}").sample(those, len(those)) for family, those in found.items()]


def page(results: dict[str, list[Found]], how: str) -> str:
    """docs/networks.md."""
    assert __doc__ is not None
    first, *_, last = __doc__.strip().split("\n\n")
    lines = ["# Networks", "", first, "", how, "", last, ""]
    lines += [
        "| collection | exact | refused | wrong | deconvnet and guided exact | of them without a rule of the user's |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        tried = [each for each in found if each.verdict in ("exact", "refused", "wrong")]
        count = {verdict: sum(each.verdict == verdict for each in tried) for verdict in ("exact", "refused", "wrong")}
        others = [each for each in tried if set(each.others.values()) == {"exact"}]
        plain = sum(not each.rules for each in others)
        numbers = f"{count['exact']} of {len(tried)} | {count['refused']} | {count['wrong']} | {len(others)} | {plain}"
        lines.append(f"| {name} | {numbers} |")
    for name, found in results.items():
        lines += ["", f"## {name}", ""]
        lines += ["| network | parameters | images | gradient | deviation | traced | deconvnet, guided | with rules |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        left = {verdict: [each.network for each in found if each.verdict == verdict] for verdict in _NOT_EXAMINED}
        for each in found:
            if each.verdict not in left:
                lines.append(f"| {' | '.join(_row(each))} |")
        for verdict, networks in left.items():
            if networks:
                lines += ["", f"{verdict.capitalize()}: {', '.join(networks)}."]
    return "\n".join(lines) + "\n"


def _row(found: Found) -> list[str]:
    if found.verdict not in ("exact", "wrong"):
        return [found.network, "", "", f"{found.verdict}: {found.why}" if found.why else found.verdict, *[""] * 4]
    size = "x".join(map(str, found.size[1:]))
    others = sorted(set(found.others.values()))
    said = "exact" if others == ["exact"] else "; ".join(f"{rule}: {what}" for rule, what in found.others.items())
    deviation = f"{max(found.forward, found.gradient):.0e}"
    numbers = [f"{found.parameters / 1e6:.1f} M", size, found.verdict, deviation, f"{found.seconds:.1f} s"]
    return [found.network, *numbers, said, ", ".join(f"`{key}`" for key in found.rules)]


@click.command()
@click.argument("collections", nargs=-1, type=click.Choice(list(COLLECTIONS)))
@click.option("--of", type=int, help="Networks of every family, drawn by the seed; by default all.")
@click.option("--only", default="", help="Networks or families whose names match this regular expression.")
@click.option("--seed", default=0, show_default=True)
@click.option("--most", default=6e7, show_default=True, help="Parameters; of larger networks others are drawn.")
@click.option("--seconds", default=300, show_default=True, help="Of the processor, for one network.")
@click.option("--keep", type=click.Path(path_type=Path), help="A file of results, which are not found again.")
@click.option("--write", is_flag=True, help="Rewrite docs/networks.md.")
def main(
    collections: tuple[str, ...],
    of: int | None,
    only: str,
    seed: int,
    most: float,
    seconds: int,
    keep: Path | None,
    write: bool,
) -> None:
    """Compare networks of the installed collections with themselves."""
    warnings.simplefilter("ignore")
    random.seed(seed)
    kept: dict[tuple[str, str], Found] = {}
    if keep is not None and keep.exists():
        for line in keep.read_text().splitlines():
            name, values = json.loads(line)
            kept[name, values["network"]] = Found(**values)
    results: dict[str, list[Found]] = {}
    for name in collections or COLLECTIONS:
        if not installed(name):
            click.echo(f"{name} is not installed here")
            continue
        for networks in families(COLLECTIONS[name](), seed):
            examined = 0
            for network in networks:
                if examined == of or not (re.search(only, network.name) or re.search(only, network.family)):
                    continue
                found = kept.get((name, network.name)) or examined_apart(network, most, seconds)
                examined += found.verdict in ("exact", "refused", "wrong")
                results.setdefault(name, []).append(found)
                if keep is not None and (name, network.name) not in kept:
                    with keep.open("a") as file:
                        file.write(json.dumps([name, asdict(found)]) + "\n")
                click.echo(f"{name} {found}")
    which = "all networks" if of is None else f"{of} of every family, seed {seed}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *results))
    how = (
        f"{versions}; {which}, of at most {most / 1e6:.0f} million parameters. Each had {seconds} s of one core and "
        f"{MOST_MEMORY >> 30} GiB, and images as small as it takes."
    )
    if write:
        PAGE.write_text(page(results, how))
    else:
        click.echo(page(results, how))


if __name__ == "__main__":
    main()
