"""Pictures from Python: `show`, `Projections.images` and `Projections.show`, and what notebooks display."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import deconv_kernels as dk
from deconv_kernels.engine.pictures import patches, with_contrast
from deconv_kernels.models import TORCHVISION, Preprocessing, Weights

BGR = Preprocessing("BGR", 1.0, (10.0, 20.0, 30.0), (1.0, 2.0, 4.0))


class Skips(nn.Module):
    """A small U-Net."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU())
        self.middle = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.last = nn.Conv2d(10, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        before = self.down(x)
        return self.last(torch.cat([before, self.up(self.middle(before))], 1))


def photographs(count: int) -> list[Image.Image]:
    """Noise of several sizes."""
    sizes = [(40 + 3 * number, 37, 3) for number in range(count)]
    return [Image.fromarray(np.random.randint(0, 256, size, dtype=np.uint8)) for size in sizes]


def drawn(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.images]


def projections(channels: int = 3) -> dk.Projections:
    net = dk.Deconvnet(Skips(channels))
    record = net.record(torch.randn(3, channels, 18, 22), "middle")
    return net.project(record, record.strongest("middle", k=2))


class TestProjections:
    def test_pictures_have_the_contrast_of_all_figures(self):
        found = projections()
        pictures = found.images()
        assert pictures.dtype == np.uint8 and pictures.shape == (12, 18, 22, 3)
        assert np.array_equal(pictures, with_contrast(found.full()))
        assert np.array_equal(found.images(full=False), with_contrast(found.windows))
        flipped = found.images(to_rgb=lambda values: values.flip(1))
        assert np.array_equal(flipped, pictures[..., ::-1])

    def test_grey_is_grey(self):
        found = projections(1)
        assert np.array_equal(found.images(), with_contrast(found.full().repeat(1, 3, 1, 1)))

    def test_of_other_channels_the_norm_is_grey(self):
        found = projections(4)
        grey = found.full().square().sum(1, keepdim=True).sqrt()
        assert np.abs(found.images().astype(int) - with_contrast(grey.repeat(1, 3, 1, 1))).max() <= 1
        assert found.images(to_rgb=lambda x: x[:, :3]).shape == (12, 18, 22, 3)
        assert found._repr_html_().count("<img") == 1
        assert len(drawn(dk.show(Skips(4), torch.rand(5, 4, 20, 24), "last", maps=2, k=4))) == 2
        with pytest.raises(ValueError, match="to_rgb must return 1 or 3 channels, got 2"):
            found.images(to_rgb=lambda x: x[:, :2])

    def test_rows_are_no_pictures(self):
        net = dk.Deconvnet(nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 4)))
        record = net.record(torch.randn(2, 7), "2")
        rows = net.project(record, record.strongest("2", k=1))
        with pytest.raises(ValueError, match=r"\(C, D, H, W\), and the network takes 7: use show"):
            rows.images()
        assert len(rows.show().axes[0].lines) == 1
        assert rows._repr_html_() == f"<p>{rows._summary()}</p>".replace("'", "&#x27;")

    def test_a_figure_of_the_first_ones(self):
        found = projections()
        figure = found.show(most=5, columns=2)
        assert len(drawn(figure)) == 5 and "the first 5 of 12" in figure.get_suptitle()
        assert all(np.array_equal(*pair) for pair in zip(drawn(figure), found.images(full=False)[:5], strict=True))
        units = found.units
        assert titles(figure)[3] == f"map 1, image {units.image[3]}: {units.activation[3]:.4g}"
        with pytest.raises(ValueError, match="no projections to show"):
            found[:0].show()

    def test_notebooks_and_people_see_a_line(self):
        net = dk.Deconvnet(Skips())
        record = net.record(torch.randn(3, 3, 18, 22), "middle")
        units = record.strongest("middle", k=2)
        found = net.project(record, units)
        assert repr(record).startswith("Record(3 images of 3x18x22 up to 'middle.2', ")
        assert "12 units of 'middle', windows of 3x" in repr(found)
        assert "1 unit of 'middle', windows of 3x" in repr(found[:1]) and repr(units[:1]).endswith(", 1 unit)")
        assert repr(net.record(torch.randn(1, 3, 18, 22), "middle")).startswith("Record(1 image of 3x18x22 ")
        assert all(len(repr(each)) < 120 for each in (record, units, found))
        assert units._repr_html_().count("<tr>") == 11 and "and 2 more" in units._repr_html_()
        assert found._repr_html_().count("<img") == 1 and record._repr_html_().startswith("<p>Record of 3 images")
        assert found.show()._repr_png_().startswith(b"\x89PNG")


class TestShow:
    def test_the_strongest_maps_beside_their_patches(self):
        model, images = Skips(), torch.rand(5, 3, 20, 24)
        figure = dk.show(model, images, "last", maps=2, k=4)
        net = dk.Deconvnet(model)
        record = net.record(images, "last")
        peaks = record.strongest("last", k=1)
        strongest = peaks.channel[peaks.activation.argsort(descending=True)[:2]].tolist()
        assert [title.split(":")[0] for title in titles(figure)] == [f"map {number}" for number in strongest]
        units = record.strongest("last", 4, strongest)
        found = net.project(record, units)
        low, high = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
        seen = ((images - low) / (high - low) * 255).round().to(torch.uint8)
        expected = (found.images(full=False), patches(seen, units.image.tolist(), found.boxes.tolist()))
        height, width = found.windows.shape[2:]
        for side, tiles in enumerate(expected):
            factor = round(224 / 3 / max(height, width))
            gap = max(1, max(height, width) * factor // 32)
            left = side * (2 * width * factor + gap + 4 * gap)
            first = drawn(figure)[0][: height * factor, left : left + width * factor]
            assert np.array_equal(first[factor // 2 :: factor, factor // 2 :: factor], tiles[0])
        (alone,) = titles(dk.show(net, images[:1], "last", maps=[2]))
        assert alone == f"map 2: {net.record(images[:1], 'last').strongest('last', 1, [2]).activation[0]:.4g}"

    def test_photographs_in_any_form_are_the_same(self, tmp_path):
        model, given = Skips(), photographs(3)
        for number, photograph in enumerate(given):
            photograph.save(tmp_path / f"{number}.png")
        forms = [
            given,
            [np.asarray(photograph) for photograph in given],
            tmp_path,
            [str(tmp_path / "0.png"), given[1], np.asarray(given[2])],
        ]
        figures = [drawn(dk.show(model, form, "last", size=32, maps=[0, 3])) for form in forms]
        for other in figures[1:]:
            assert all(np.array_equal(*pair) for pair in zip(figures[0], other, strict=True))

    def test_preprocessing_of_this_package_and_of_others(self):
        model, pixels = Skips(), torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
        weights = Weights("own", "here", BGR, {})
        figures = [
            drawn(dk.show(model, each, "last", preprocess=preprocess))
            for each, preprocess in ((pixels, BGR), (pixels.numpy(), weights.preprocess))
        ]
        assert all(np.array_equal(*pair) for pair in zip(*figures, strict=True))
        usual = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]

        def own(image: Image.Image) -> Tensor:
            return TORCHVISION(torch.from_numpy(np.array(image)).permute(2, 0, 1))

        ours, theirs = (titles(dk.show(model, usual, "last", size=16, preprocess=p)) for p in (None, own))
        assert ours == theirs

    def test_grey_networks_and_deconvnets(self):
        net = dk.Deconvnet(Skips(1), rule="guided")
        assert len(titles(dk.show(net, photographs(2), "middle", size=20, maps=3, k=1))) == 3

    def test_volumes_are_rows_of_slices(self):
        model, volumes = nn.Sequential(nn.Conv3d(1, 2, (3, 5, 4)), nn.ReLU()), torch.rand(4, 1, 6, 9, 8)
        nn.init.ones_(model[0].bias)
        net = dk.Deconvnet(model)
        record = net.record(volumes, "1")
        found = net.project(record, record.strongest("1", k=2))
        pictures, whole = found.images(full=False), found.images()
        assert pictures.shape == (4, 5, 3 * 4 + 2, 3) and whole.shape == (4, 9, 5 * 8 + 4, 3)
        for picture, volume in zip(pictures, with_contrast(found.windows.expand(-1, 3, -1, -1, -1)), strict=True):
            assert all(np.array_equal(picture[:, 5 * plane : 5 * plane + 4], volume[plane]) for plane in range(3))
        figure = dk.show(net, volumes, "1", maps=2, k=2)
        assert len(titles(figure)) == 2
        cut = patches((volumes * 255).to(torch.uint8).expand(-1, 3, -1, -1, -1), [3], [[4, -1, 6, 7, 4, 10]])[0]
        assert np.array_equal(cut[0, 1:, :2, 0], (volumes[3, 0, 4, :4, 6:] * 255).to(torch.uint8).numpy())
        assert (cut[2] == 236).all() and (cut[:, 0] == 236).all()

    def test_signals_are_lines_over_what_they_were_seen_in(self):
        model, signals = nn.Sequential(nn.Conv1d(2, 3, 5, padding=2), nn.ReLU()), torch.rand(4, 2, 30)
        nn.init.ones_(model[0].bias)
        figure = dk.show(model, signals, "1", maps=2, k=3)
        assert [axes.get_title()[:3] for axes in figure.axes] == ["map", "map"]
        for axes in figure.axes:
            assert len(axes.lines) == 3 * 2 * 2  # of three units two channels, and of these what they were seen in
            assert all(len(line.get_ydata()) == 5 for line in axes.lines)

    @pytest.mark.parametrize(
        ("images", "more", "error", "message"),
        [
            (torch.rand(2, 3, 8), {}, ValueError, r"images must have shape \(N, C, H, W\)"),
            (torch.rand(2, 3, 4, 8, 8), {}, ValueError, r"images must have shape \(N, C, H, W\)"),
            (torch.rand(2, 7), {}, ValueError, "not rows"),
            (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), {}, ValueError, r"uint8 of shape \(N, 3, H, W\)"),
            (np.zeros((8, 8, 4), dtype=np.uint8), {}, ValueError, "a photograph of uint8"),
            ([], {}, ValueError, "no images were given"),
            (7, {}, TypeError, "images must be PIL images"),
            ("nowhere.png", {}, ValueError, "no such file"),
            (torch.rand(2, 3, 10, 10), {"preprocess": TORCHVISION}, ValueError, "leave preprocess out"),
            (torch.rand(2, 3, 10, 10), {"maps": 0}, ValueError, "maps must be at least 1"),
            (torch.rand(2, 3, 10, 10), {"k": 0}, ValueError, "k must be at least 1"),
            (torch.rand(2, 3, 10, 10), {"maps": [5]}, ValueError, "channel"),
        ],
        ids=[
            *("signals", "volumes", "rows", "channels last", "opacity", "none", "number", "path"),
            *("preprocessed", "no maps", "no units", "no such map"),
        ],
    )
    def test_what_cannot_be_shown_is_refused(self, images, more, error, message):
        with pytest.raises(error, match=message):
            dk.show(Skips(), images, "last", **more)
