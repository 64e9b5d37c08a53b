"""What the page asks for, computed: layers, maps, class probabilities, units, and a picture under a grey square."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..checks import one_of
from ..engine.deconvnet import Deconvnet
from ..engine.errors import UnsupportedModule
from ..engine.fields import as_map
from ..engine.pictures import Pixels, patches, with_contrast
from ..engine.recompute import Recomputation
from ..engine.record import Record
from ..engine.steps.base import RULES
from ..engine.units import Units
from ..experiments.common.classes import class_count, ends_in_sigmoid, probabilities
from ..experiments.common.layers import classes_of
from ..experiments.common.tracing import with_way_back
from ..models import Weights
from .kept import Kept
from .library import Library
from .strongest import StrongestOfFolder

__all__ = ["ClassProbability", "Explorer", "Occluded", "Place", "Square", "UnitPictures"]

_ACTIVATIONS_BYTES = 256 * 2**20
_RECORDS_BYTES = 128 * 2**20
_OCCLUSIONS_BYTES = 128 * 2**20
_CLASSES_SHOWN = 5
_MOST_SEARCHED = 4096  # maps of a layer; tokens of transformers count as hundreds of thousands
_RANK = 2  # of pictures, the axes y and x


@dataclass(frozen=True)
class LayerFacts:
    """What the page says of a layer.

    Attributes:
        name: of the layer.
        kind: the class of its module; empty for a function.
        maps, height, width: of its output; a row of numbers counts as maps of one position.
    """

    name: str
    kind: str
    maps: int
    height: int
    width: int


@dataclass(frozen=True)
class Place:
    """A unit of a layer: map, row and column."""

    layer: str
    map: int
    y: int
    x: int


@dataclass(frozen=True)
class UnitPictures:
    """A unit and what it looks like.

    Attributes:
        activation: of the unit.
        box: its receptive field in pixels of the image: y0, x0, y1, x1, half open; it may overhang.
        projection, patch: uint8 RGB (h, w, 3), in that box.
        silent: whether nothing of the projection is other than zero.
    """

    activation: float
    box: tuple[int, ...]
    projection: Pixels
    patch: Pixels
    silent: bool


@dataclass(frozen=True)
class ClassProbability:
    """The probability of a class, and its name where that is known."""

    number: int
    name: str | None
    probability: float


@dataclass(frozen=True)
class Square:
    """A grey square on an image: its first row and column, and its side, in pixels."""

    y: int
    x: int
    side: int


@dataclass(frozen=True)
class Occluded:
    """What a grey square changes.

    Attributes:
        classes: the most probable classes of the clean image as they are now, and the one that is most probable now.
        map: (H, W), the map watched.
        total, clean_total: its total activation now, and that of the clean image.
    """

    classes: list[ClassProbability]
    map: Tensor
    total: float
    clean_total: float


class Explorer:
    """A network and a library of pictures.

    Nothing here belongs to one page: every question names its picture, and what is kept in between only saves time.
    Not for several threads at once.

    Args:
        model: the network, in evaluation mode, of one input.
        weights: how it reads pictures, and whose weights it has.
        library: the pictures.
        classes: the names of classes, from class 0 on; may be fewer than there are.

    Attributes:
        rule: the rule to begin with: deconvnet, or gradient where a part of the network has no rule for the way back.
        refusal: why it is not deconvnet.
        layers: of the network, for pictures of the library's size.
        strongest: the strongest units of every map over the library's folders, as far as these have been looked at; of
            layers with a usual number of maps.

    Raises:
        ValueError, UnsupportedModule: the network cannot be traced or does not take such pictures.
    """

    def __init__(self, model: nn.Module, weights: Weights, library: Library, classes: Sequence[str] = ()) -> None:
        self.model, self.weights, self.library, self.classes = model, weights, library, classes
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        size = library.size
        blank = self._input(torch.zeros((3, size, size), dtype=torch.uint8))
        net, refused = with_way_back(model, blank)
        self.rule, self.refusal = net.rule, None if refused is None else str(refused)
        self._nets: dict[str, Deconvnet | UnsupportedModule] = {net.rule: net}
        net.shapes(blank, net.tape.layers[-1:])
        self._names = list(net.layers)
        shapes = net.shapes(blank, self._names)
        self.layers = [LayerFacts(name, self._kind(name), *as_map(shapes[name], _RANK)) for name in self._names]
        self._facts = {layer.name: layer for layer in self.layers}
        self.logits = classes_of(net, shapes)
        self._bytes = sum(layer.maps * layer.height * layer.width for layer in self.layers) * blank.element_size()
        self._activations: Kept[tuple[str, str], Tensor] = Kept(_ACTIVATIONS_BYTES)
        self._records: Kept[tuple[str, str], Record] = Kept(_RECORDS_BYTES)
        self._occlusions: Kept[tuple[str, str], Recomputation] = Kept(_OCCLUSIONS_BYTES)
        searched = [layer.name for layer in self.layers if layer.maps <= _MOST_SEARCHED]
        self.strongest = StrongestOfFolder(net, library, self._input, searched)
        _prepare(net, blank, self._names[-1])

    def _kind(self, layer: str) -> str:
        try:
            return type(self.model.get_submodule(layer)).__name__
        except AttributeError:
            return ""

    def _input(self, pixels: Tensor) -> Tensor:
        """What the network is given of a picture (3, H, W): a batch of one."""
        return self.weights.preprocess(pixels[None]).to(self.device)

    def _net(self, rule: str) -> Deconvnet:
        """The network under a rule.

        Raises:
            UnsupportedModule: a part of it has no exact rule.
        """
        one_of("rule", rule, RULES)
        if rule not in self._nets:
            size = (self.library.size,) * 2
            try:
                self._nets[rule] = Deconvnet(self.model, rule, image_size=size)
            except UnsupportedModule as error:
                self._nets[rule] = error
        net = self._nets[rule]
        if isinstance(net, UnsupportedModule):
            raise net.with_traceback(None)
        return net

    def facts(self, layer: str) -> LayerFacts:
        """What there is to say of a layer.

        Raises:
            UnknownLayer: no such layer.
        """
        if layer not in self._facts:
            self._net(self.rule).layer(layer)
            raise ValueError(f"layer {layer!r} is a container: name one of its layers")
        return self._facts[layer]

    @property
    def start(self) -> str:
        """The layer to begin with: the last one with maps of a fair size."""
        large = [layer.name for layer in self.layers if min(layer.height, layer.width) >= 8]
        return large[-1] if large else self.layers[-1].name

    @property
    def class_count(self) -> int:
        """How many classes the network tells apart."""
        return 0 if self.logits is None else class_count(self.facts(self.logits).maps)

    @property
    def grey(self) -> tuple[int, ...]:
        """The RGB colour of the square: what the network reads as zero."""
        channels = len(self.weights.preprocessing.mean)
        levels = self.weights.deprocess(torch.zeros((channels, 1, 1))).flatten().round().clamp(0, 255)
        return tuple(int(level) for level in levels)

    def maps(self, image: str, layer: str) -> Tensor:
        """The activations of a layer, (C, H, W).

        Raises:
            UnknownImage, UnknownLayer: what was asked for is not here.
        """
        facts = self.facts(layer)
        kept = self._activations.get((image, layer))
        if kept is None:
            at_once = self._bytes <= _ACTIVATIONS_BYTES // 2
            self._record(image, self.rule, self._names if at_once else [layer])
            kept = self._activations.get((image, layer))
            assert kept is not None
        return kept.reshape(facts.maps, facts.height, facts.width)

    def map(self, image: str, layer: str, map: int) -> Tensor:
        """One map of a layer, (H, W).

        Raises:
            UnknownImage, UnknownLayer, ValueError: what was asked for is not here.
        """
        facts = self.facts(layer)
        if not 0 <= map < facts.maps:
            raise ValueError(f"map of {layer!r} must be from 0 to {facts.maps - 1}, got {map}")
        return self.maps(image, layer)[map]

    def _record(self, image: str, rule: str, keeping: Sequence[str] = ()) -> Record:
        """The record of an image for all layers, made anew if activations are to be kept."""
        record = None if keeping else self._records.get((image, rule))
        if record is None:
            net, inputs = self._net(rule), self._input(self.library.pixels(image))
            if keeping:
                full = net.record(inputs, keeping, activations=True, progress=False)
                for layer in keeping:
                    activations = full.activations[layer][0]
                    self._activations.put((image, layer), activations, activations.nbytes)
                if len(keeping) < len(self._names):
                    return full
                record = replace(full, activations={})
            else:
                record = net.record(inputs, self._names, progress=False)
            self._records.put((image, rule), record, record.nbytes)
        return record

    def probabilities(self, image: str) -> list[ClassProbability]:
        """The most probable classes of an image, by falling probability; empty if the network tells no classes apart.

        Raises:
            UnknownImage: no such picture.
        """
        if self.logits is None:
            return []
        found = self._of_classes(self.maps(image, self.logits).flatten())
        return self._shown(found, found.argsort(descending=True, stable=True)[:_CLASSES_SHOWN].tolist())

    def _of_classes(self, scores: Tensor) -> Tensor:
        """The probabilities of classes, whether the network ends in logits or in probabilities."""
        assert self.logits is not None
        several = len(scores) > 1 and bool((scores >= 0).all()) and abs(float(scores.double().sum()) - 1) < 1e-4
        are_probabilities = several or ends_in_sigmoid(self._net(self.rule), self.logits, scores)
        return probabilities(scores[None], not are_probabilities)[0]

    def _shown(self, found: Tensor, numbers: Sequence[int]) -> list[ClassProbability]:
        names = dict(enumerate(self.classes))
        return [ClassProbability(number, names.get(number), float(found[number])) for number in numbers]

    def unit(self, image: str, place: Place, rule: str, overlap: str) -> UnitPictures:
        """A unit, its projection and the patch of the picture that it sees.

        Args:
            image: a picture of the library.
            place: of the unit.
            rule, overlap: as for `Deconvnet` and `Deconvnet.project`.

        Raises:
            UnknownImage, UnknownLayer, ValueError: what was asked for is not here.
            UnsupportedModule: a part of the network has no exact rule.
        """
        net = self._net(rule)
        activation = self.strongest.activation(image, place.layer, place.map, place.y, place.x)
        if activation is None:
            map = self.map(image, place.layer, place.map)
            if not (0 <= place.y < map.shape[0] and 0 <= place.x < map.shape[1]):
                raise ValueError(
                    f"a unit of a map of {map.shape[0]}x{map.shape[1]} was asked for at {place.y},{place.x}"
                )
            activation = float(map[place.y, place.x])
        units = Units(place.layer, 0, place.map, place.y, place.x, activation)
        projections = net.project(self._record(image, rule), units, overlap=overlap, progress=False)
        box = tuple(projections.boxes[0].tolist())
        (picture,) = with_contrast(self.weights.preprocessing.to_rgb(projections.windows))
        (patch,) = patches(self.library.pixels(image)[None], [0], [box])
        return UnitPictures(activation, box, picture, patch, not bool(projections.windows.any()))

    def occluded(self, image: str, layer: str, map: int, square: Square) -> Occluded:
        """What a grey square over an image changes; only what it covers is computed again.

        Args:
            image: a picture of the library.
            layer, map: what is watched beside the classes.
            square: it may overhang the image.

        Raises:
            UnknownImage, UnknownLayer, ValueError: what was asked for is not here, or a side that cannot be.
        """
        clean = self.map(image, layer, map)
        if not 1 <= square.side <= self.library.size:
            raise ValueError(f"the side of the square must be from 1 to {self.library.size}, got {square.side}")
        recomputation = self._occlusions.made(
            (image, layer), lambda: self._recomputation(image, layer), lambda _: self._bytes
        )
        origin = torch.tensor([[square.y, square.x]]).clamp(-self.library.size, self.library.size)
        channels = len(self.weights.preprocessing.mean)
        content = torch.zeros((channels, square.side, square.side), device=self.device)
        changed = recomputation(origin, content)
        now = changed[layer].reshape(-1, *clean.shape)[map]
        return Occluded(self._classes_now(image, changed), now, float(now.double().sum()), float(clean.double().sum()))

    def _recomputation(self, image: str, layer: str) -> Recomputation:
        wanted = list(dict.fromkeys([layer, *([] if self.logits is None else [self.logits])]))
        return Recomputation(self._net(self.rule), self._input(self.library.pixels(image))[0], wanted)

    def _classes_now(self, image: str, changed: dict[str, Tensor]) -> list[ClassProbability]:
        if self.logits is None:
            return []
        found = self._of_classes(changed[self.logits].flatten())
        before = [each.number for each in self.probabilities(image)]
        return self._shown(found, list(dict.fromkeys([*before, int(found.argmax())])))


def _prepare(net: Deconvnet, images: Tensor, layer: str) -> None:
    """Projects a unit of the last layer once, so that no answer waits for what only the first projection has to do.

    It packs the weights, and the first gradient of torch's autograd imports SymPy, which takes a second.
    """
    net.project(net.record(images, layer, progress=False), Units(layer, 0, 0, 0, 0), seed="one", progress=False)
