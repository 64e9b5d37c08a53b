"""Signals and volumes: what is the same for pictures is tested with these, in the files of its parts."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from pathlib import Path

import pytest
import torch
from networks import NETWORKS, some_units
from tolerances import assert_close
from torch import Tensor, nn

import deconv_kernels as dk
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.fingerprint import fingerprint
from deconv_kernels.engine.record import Record
from deconv_kernels.experiments.mining import mine
from deconv_kernels.experiments.occlusion import occlude, occluded
from deconv_kernels.one_call import load_projections, save_projections

RANKED = {1: ("ECG ResNet", "layer1"), 3: ("C3D", "conv3b")}
COLUMNS = {1: ("image", "channel", "x"), 3: ("image", "channel", "z", "y", "x")}


def recorded(rank: int) -> tuple[Deconvnet, Tensor, str, Record]:
    name, layer = RANKED[rank]
    net, images = Deconvnet(NETWORKS[name].build()), NETWORKS[name].images(3)
    assert isinstance(images, Tensor)
    return net, images, layer, net.record(images, layer, activations=True)


@pytest.mark.parametrize("rank", RANKED)
def test_units_are_picked_as_a_search_by_hand_picks_them(rank: int) -> None:
    _, _, layer, record = recorded(rank)
    maps = record.activations[layer]
    assert record.shape(layer) == maps.shape[1:] and record.rank == rank
    for units, sign in ((record.strongest(layer, 2), 1), (record.weakest(layer, 2), -1)):
        assert units.columns == COLUMNS[rank] and len(units) == 2 * maps.shape[1]
        for channel in range(maps.shape[1]):
            ranked = sorted(range(3), key=lambda n: -float((sign * maps[n, channel]).max()))
            for image, unit in zip(ranked, units[units.channel == channel], strict=False):
                place = torch.unravel_index((sign * maps[image, channel]).argmax(), maps.shape[2:])
                assert unit.table()[:, 0].tolist() == [image, channel, *map(int, place)]
                assert unit.activation.item() == maps[(image, channel, *place)].item()
    median = record.at_quantile(layer, 0.5)
    middle = maps.transpose(0, 1).flatten(1).sort().values
    assert torch.equal(median.activation, middle[:, round(0.5 * (middle.shape[1] - 1))])
    assert torch.equal(record.seeds(dk.Units.of_table(layer, median.table())), median.activation)


@pytest.mark.parametrize("rank", RANKED)
def test_windows_boxes_and_files(rank: int, tmp_path: Path) -> None:
    net, images, layer, record = recorded(rank)
    units = dk.Units.of_table(layer, some_units(record.activations[layer], 7, rank).T)
    found = net.project(record, units)
    assert found.windows.dim() == rank + 2 and found.boxes.shape == (7, 2 * rank)
    assert found.image_size == images.shape[2:]
    full = found.full()
    for window, box, frame in zip(found.windows, found.boxes.tolist(), full, strict=True):
        assert [stop - start for start, stop in zip(box[:rank], box[rank:], strict=True)] == list(window.shape[1:])
        bounds = [(max(0, a), min(b, n)) for a, b, n in zip(box[:rank], box[rank:], images.shape[2:], strict=True)]
        inside = (slice(None), *(slice(a - at, b - at) for (a, b), at in zip(bounds, box, strict=False)))
        within = frame[(slice(None), *(slice(a, b) for a, b in bounds))]
        assert torch.equal(window[inside], within) and frame.count_nonzero() == within.count_nonzero()
    assert torch.equal(full, dk.project(net, images, layer, units.table().T))
    save_projections(tmp_path / "units.npz", found)
    loaded = load_projections(tmp_path / "units.npz")
    assert torch.equal(loaded.units.table(), units.table()) and torch.equal(loaded.full(), full)
    peaks = dk.project(net, images, layer, units.table()[:2].T, seed="one")
    strongest = [record.strongest(layer, 3)[record.strongest(layer, 3).channel == c] for c in units.channel]
    same = dk.Units.concatenate([u[u.image == n] for u, n in zip(strongest, units.image, strict=True)])
    assert torch.equal(peaks, net.project(record, same, seed="one").full())


@pytest.mark.parametrize("rank", RANKED)
def test_units_of_other_images_are_refused(rank: int) -> None:
    net, images, layer, record = recorded(rank)
    with pytest.raises(ValueError, match=f"are named by {', '.join(COLUMNS[rank])}.*got image, channel, y, x"):
        net.project(record, dk.Units(layer, 0, 0, 0, 0))
    with pytest.raises(ValueError, match=rf"shape \(U, {2 + rank}\), of image.* and x, or"):
        dk.project(net, images, layer, [[0, 0, 0, 0]])
    with pytest.raises(ValueError, match="images must have shape"):
        net.record(images[0], layer)
    with pytest.raises(AttributeError, match="these units have no z: they are named by image, channel, y, x"):
        _ = dk.Units(layer, 0, 0, 0, 0).z
    with pytest.raises(ValueError, match="units with z need y"):
        dk.Units(layer, 0, 0, x=0, z=0)
    with pytest.raises(ValueError, match="same columns"):
        dk.Units.concatenate([dk.Units(layer, 0, 0, 0, 0), dk.Units(layer, 0, 0, x=0)])


@pytest.mark.parametrize("rank", RANKED)
def test_mining_ranks_all_units(rank: int, tmp_path: Path) -> None:
    net, images, layer, record = recorded(rank)
    mined = mine(net, images.split(2), layer, 3, one_per_image=False, weakest=True, quantiles=(0.5,), progress=False)
    maps = record.activations[layer].transpose(0, 1).flatten(1)
    strongest = mined.strongest[layer]
    assert torch.equal(strongest.activation.view(len(maps), 3), maps.sort(descending=True).values[:, :3])
    assert torch.equal(record.seeds(dk.Units.of_table(layer, strongest.table())), strongest.activation)
    median = mined.quantiles[layer][0.5]
    assert torch.equal(median.activation, record.at_quantile(layer, 0.5).activation)
    assert torch.equal(record.seeds(dk.Units.of_table(layer, median.table())), median.activation)
    mined.save(tmp_path / "mined.npz")
    assert torch.equal(type(mined).load(tmp_path / "mined.npz").strongest[layer].table(), strongest.table())


@pytest.mark.parametrize("rank", RANKED)
def test_occlusion_by_spans_and_cubes(rank: int) -> None:
    net, images, layer, _ = recorded(rank)
    size, stride = {1: ([20], [40]), 3: ([4, 6, 7], [5, 7, 9])}[rank]
    found = occlude(net, images[0], layer, net.output, size=size, stride=stride, label=1, progress=False)
    origins = torch.tensor(list(itertools.product(*(along.tolist() for along in found.places))))
    grid = [len(along) for along in found.places]
    changed = occluded(images[0], origins, torch.zeros(images.shape[1], *size, dtype=images.dtype))
    whole = net.record(changed, [layer, net.output], activations=True).activations
    assert found.activation.shape == found.probability.shape == torch.Size(grid) and math.prod(grid) > 3
    assert_close(found.activation.flatten(), whole[layer][:, found.map].flatten(1).sum(1))
    assert_close(found.probability.flatten(), whole[net.output].softmax(1)[:, 1])
    assert found.projection.shape == images.shape[1:] and found.units.shape == (1, rank)
    for raised in found.raises():
        assert raised.place in set(map(tuple, origins.tolist()))


@pytest.mark.parametrize("name", ["C3D", "U-Net of volumes"])
def test_volumes_with_their_channels_last(name: str) -> None:
    """Values, units and projections are those of contiguous volumes, and a run knows both as the same."""
    model, images = NETWORKS[name].build(), NETWORKS[name].images(2)
    assert isinstance(images, Tensor)
    last = images.contiguous(memory_format=torch.channels_last_3d)
    assert fingerprint(last) == fingerprint(images) != fingerprint(images + 1e-9)
    nets = Deconvnet(model), Deconvnet(copy.deepcopy(model).to(memory_format=torch.channels_last_3d))  # type: ignore[call-overload]
    layer = [layer for layer in nets[0].layers if isinstance(dict(model.named_modules()).get(layer), nn.Conv3d)][-1]
    records = [net.record(each, layer, activations=True) for net, each in zip(nets, (images, last), strict=True)]
    assert_close(*(record.activations[layer] for record in records))
    units = records[0].strongest(layer, 2)
    found = [net.project(record, units) for net, record in zip(nets, records, strict=True)]
    assert torch.equal(found[0].boxes, found[1].boxes)
    assert_close(found[0].windows, found[1].windows)


@pytest.mark.parametrize("rank", RANKED)
def test_records_of_other_versions_are_refused(rank: int) -> None:
    _, _, _, record = recorded(rank)
    (peaks,), (same,) = record.peaks.values(), pickle.loads(pickle.dumps(record)).peaks.values()
    assert torch.equal(same.place, peaks.place) and torch.equal(same.value, peaks.value)
    vars(peaks)["x"] = vars(peaks).pop("place")
    with pytest.raises(
        ValueError, match="pickled by another version: its peaks have value, x.*record the images again"
    ):
        pickle.loads(pickle.dumps(record))


def test_the_ends_of_recurrent_networks_are_refused_by_name_and_whole_under_gradient() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm, self.fc = nn.Conv1d(2, 4, 3), nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x, _ = self.lstm(torch.relu(self.conv(x)).transpose(1, 2))
            return self.fc(x[:, -1])

    model, images = Ends().double().eval(), torch.randn(2, 2, 11, dtype=torch.float64)
    with pytest.raises(dk.UnsupportedModule, match="LSTM"):
        Deconvnet(model)
    net = Deconvnet(model, "gradient")
    found = net.project(net.record(images, net.output), dk.Units(net.output, [0, 1], [0, 1], x=0), seed="one").full()
    leaf = images.clone().requires_grad_()
    output = model(leaf)
    (exact,) = torch.autograd.grad(output[0, 0] + output[1, 1], leaf)
    assert_close(found, exact)
