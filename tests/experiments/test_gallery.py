"""Photographs, crops, figures and the gallery that is made of them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from deconv_kernels import Deconvnet, plot
from deconv_kernels.cli.gallery_job import GalleryJob
from deconv_kernels.cli.gallery_settings import Settings
from deconv_kernels.cli.options import ImageSources, Machine, Network
from deconv_kernels.engine.units import Units
from deconv_kernels.experiments.common.responses import (
    by_map,
    describe_field,
    describe_rectification,
    receptive_field,
    rectifier_of,
    strongest_responses,
)
from deconv_kernels.experiments.gallery import choose_maps, distinct, strongest
from deconv_kernels.measure import gallery as comparison
from deconv_kernels.measure.baselines import WrongResult
from deconv_kernels.models import VGG16, AlexNet
from deconv_kernels.photographs import Crop, Photograph, cut, load_photographs, plan_centres, plan_crops
from deconv_kernels.plot import gallery as figures

ABACUS = Network(model="alexnet", machine=Machine(device="abacus"))


def _photograph(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Colour blobs of a few sizes: something for every filter."""
    small = generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three photographs of different sizes and forms."""
    seed = torch.seed() % 2**31
    print("photographs from seed", seed)
    generator = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("photographs")
    _photograph(generator, 320, 240).save(folder / "b.png")
    _photograph(generator, 224, 300).convert("L").save(folder / "a.png")
    _photograph(generator, 500, 448).save(folder / "c.jpg")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An AlexNet that nobody trained, its convolutions only, under torchvision's names."""
    print("weights from seed", torch.seed())
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    model = AlexNet(features_only=True)
    torch.save({f"features.{i}.{n}": p for i, layer in enumerate(model) for n, p in layer.named_parameters()}, path)
    return path


@pytest.fixture
def settings(folder, weights):
    return Settings(
        network=Network(model="alexnet", weights=str(weights)), images=ImageSources(images=(str(folder),)),
        layers="conv1,conv2", maps=3, k=4, crops=10, sample=1,
    )  # fmt: skip


class TestPhotographs:
    def test_a_folder_gives_its_images_by_name_in_rgb(self, folder):
        photographs = load_photographs(folder)
        assert [photograph.name for photograph in photographs] == ["a.png", "b.png", "c.jpg"]
        assert [photograph.pixels.shape for photograph in photographs] == [(300, 224, 3), (240, 320, 3), (448, 500, 3)]
        grey = np.asarray(Image.open(folder / "a.png"))
        assert np.array_equal(photographs[0].pixels, np.stack([grey] * 3, axis=2))

    def test_hidden_files_are_left_out_and_taken_when_named(self, folder, tmp_path):
        (tmp_path / ".thumbnails").mkdir()
        Image.effect_noise((20, 20), 50).save(tmp_path / ".thumbnails" / "b.png")
        Image.effect_noise((20, 20), 50).save(tmp_path / ".b.png")
        (tmp_path / "._a.jpg").write_bytes(b"\0\5\x16\7" + bytes(60))
        with pytest.raises(ValueError, match="holds no image files .* that are not hidden"):
            load_photographs(tmp_path)
        Image.effect_noise((30, 20), 50).save(tmp_path / "a.jpg")
        assert [photograph.name for photograph in load_photographs(tmp_path)] == ["a.jpg"]
        for named in (tmp_path / ".b.png", tmp_path / ".thumbnails"):
            assert load_photographs(named)[0].pixels.shape == (20, 20, 3)

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P in parts", "RGB", "L", "I;16"])
    def test_transparent_parts_are_white(self, tmp_path, seed, mode):
        generator = np.random.default_rng(seed)
        pixels = generator.integers(0, 250, (17, 23, 4), dtype=np.uint8)
        colour, opacity = pixels[..., :3].astype(np.float64), pixels[..., 3:] / 255
        path = tmp_path / "a.png"
        if mode == "RGBA":
            Image.fromarray(pixels).save(path)
        elif mode == "LA":
            grey = Image.fromarray(pixels[..., 0])
            Image.merge("LA", [grey, Image.fromarray(pixels[..., 3])]).save(path)
            colour = colour[..., :1].repeat(3, axis=2)
        elif mode == "I;16":
            deep = pixels[..., 0].astype(np.uint16) * 257
            Image.fromarray(deep).save(path, transparency=int(deep[3, 4]))
            colour, opacity = colour[..., :1].repeat(3, axis=2), (deep != deep[3, 4])[..., None] * 1.0
        elif mode == "L":
            Image.fromarray(pixels[..., 0]).save(path, transparency=int(pixels[3, 4, 0]))
            colour, opacity = colour[..., :1].repeat(3, axis=2), (pixels[..., :1] != pixels[3, 4, 0]) * 1.0
        elif mode == "RGB":
            Image.fromarray(pixels[..., :3]).save(path, transparency=tuple(pixels[3, 4, :3].tolist()))
            opacity = (pixels[..., :3] != pixels[3, 4, :3]).any(axis=2, keepdims=True) * 1.0
        else:
            palette = generator.integers(0, 256, (256, 3), dtype=np.uint8)
            levels = generator.integers(0, 256, 256, dtype=np.uint8)
            image = Image.fromarray(pixels[..., 0], "P")
            image.putpalette(palette.tobytes())
            image.save(path, transparency=int(pixels[3, 4, 0]) if mode == "P" else levels.tobytes())
            colour = palette[pixels[..., 0]].astype(np.float64)
            one = (pixels[..., 0] != pixels[3, 4, 0])[..., None] * 1.0
            opacity = one if mode == "P" else levels[pixels[..., 0]][..., None] / 255
        with pytest.warns(UserWarning, match="^transparent parts are shown on white: a.png$"):
            (photograph,) = load_photographs(path)
        assert photograph.transparent
        expected = opacity * colour + (1 - opacity) * 255
        assert np.abs(photograph.pixels - expected).max() <= 1

    def test_what_could_be_transparent_and_is_not_is_told_of_nothing(self, tmp_path, recwarn):
        pixels = np.full((9, 8, 4), 255, dtype=np.uint8)
        pixels[..., 0] = np.arange(9)[:, None]
        Image.fromarray(pixels).save(tmp_path / "a.png")
        (photograph,) = load_photographs(tmp_path / "a.png")
        assert not photograph.transparent
        assert np.array_equal(photograph.pixels, pixels[..., :3])
        assert not recwarn.list

    def test_files_keep_the_order_given(self, folder):
        photographs = load_photographs([folder / "c.jpg", str(folder / "a.png")])
        assert [photograph.name for photograph in photographs] == ["c.jpg", "a.png"]

    def test_a_camera_held_sideways_is_turned_upright(self, tmp_path):
        pixels = np.zeros((240, 320, 3), dtype=np.uint8)
        pixels[:, :10] = 255
        orientation = Image.Exif()
        orientation[0x0112] = 6
        Image.fromarray(pixels).save(tmp_path / "turned.png", exif=orientation)
        (photograph,) = load_photographs(tmp_path / "turned.png")
        assert photograph.pixels.shape == (320, 240, 3)
        assert photograph.pixels[:10].min() == 255
        assert photograph.pixels[10:].max() == 0

    def test_samples_are_real_photographs(self):
        if find_spec("skimage") is None:
            pytest.skip("the sample photographs come with scikit-image")
        photographs = load_photographs("samples")
        assert len(photographs) >= 11
        assert all(min(photograph.pixels.shape[:2]) >= 224 for photograph in photographs)
        assert all(photograph.pixels.std() > 5 for photograph in photographs)

    def test_what_cannot_be_read_is_refused_by_name(self, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(b"not a photograph")
        (tmp_path / "empty").mkdir()
        whole = tmp_path / "whole.png"
        Image.effect_noise((300, 300), 50).save(whole)
        (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:5000])
        for source, message in (
            ("absent.jpg", "absent.jpg': no such file or folder"),
            ("broken.jpg", "broken.jpg' cannot be read"),
            ("cut.png", "cut.png' cannot be read"),
            ("empty", "empty' holds no image files"),
        ):
            with pytest.raises(ValueError, match=message) as raised:
                load_photographs([whole, tmp_path / source])
            assert "\n" not in str(raised.value)
        with pytest.raises(ValueError, match="no images were given"):
            load_photographs([])

    def test_sixteen_bit_greys_keep_their_range(self, tmp_path):
        levels = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(64, 48)
        Image.fromarray(levels).save(tmp_path / "deep.png")
        (photograph,) = load_photographs(tmp_path / "deep.png")
        assert np.array_equal(photograph.pixels, np.rint(levels / 257).astype(np.uint8)[..., None].repeat(3, axis=2))

    def test_greys_of_unknown_range_are_refused(self, tmp_path):
        Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(tmp_path / "float.tiff")
        with pytest.raises(ValueError, match="grey levels are of 'F'"):
            load_photographs(tmp_path / "float.tiff")


class TestCrops:
    @pytest.mark.parametrize("size", [0, -5])
    def test_crops_of_no_pixels_are_refused(self, size):
        with pytest.raises(ValueError, match="size of crops must be at least 1"):
            plan_crops([Photograph("one", np.zeros((9, 9, 3), dtype=np.uint8))], size)

    def test_crops_are_squares_inside_their_photographs_at_several_scales(self, folder):
        photographs = load_photographs(folder)
        crops = plan_crops(photographs, limit=300)
        assert crops == plan_crops(load_photographs(folder), limit=300)
        assert 60 < len(crops) == len(set(crops)) <= 300
        for crop in crops:
            height, width = photographs[crop.photograph].pixels.shape[:2]
            assert 0 <= crop.y <= height - crop.side
            assert 0 <= crop.x <= width - crop.side
        assert {crop.side for crop in crops if crop.photograph == 2} == {448, 317, 224}
        assert {crop.side for crop in crops if crop.photograph == 0} == {224}
        assert len(plan_crops(photographs, limit=11)) == 11

    def test_photographs_share_the_crops_equally(self):
        generator = np.random.default_rng(0)
        photographs = [
            Photograph(str(size), np.asarray(_photograph(generator, *size)))
            for size in ((1000, 900), (300, 260), (512, 512))
        ]
        assert Counter(crop.photograph for crop in plan_crops(photographs, limit=31)) == {0: 10, 1: 10, 2: 11}

    def test_a_photograph_of_the_crops_size_gives_one(self):
        photograph = Photograph("square", np.zeros((224, 224, 3), dtype=np.uint8))
        assert plan_crops([photograph], limit=50) == [Crop(0, 0, 0, 224)]

    def test_a_crop_at_full_size_is_the_photographs_pixels(self, folder):
        photographs = load_photographs(folder / "b.png")
        crops = [Crop(0, 7, 90, 224), Crop(0, 0, 80, 240)]
        pixels = cut(photographs, crops)
        assert pixels.shape == (2, 3, 224, 224)
        assert pixels.dtype == torch.uint8
        assert np.array_equal(pixels[0].permute(1, 2, 0), photographs[0].pixels[7:231, 90:314])
        whole = (
            Image.fromarray(photographs[0].pixels).crop((80, 0, 320, 240)).resize((224, 224), Image.Resampling.BICUBIC)
        )
        assert np.array_equal(pixels[1].permute(1, 2, 0), np.asarray(whole))

    def test_small_photographs_are_enlarged_in_words(self, seed):
        generator = np.random.default_rng(seed)
        small = Photograph("small.png", generator.integers(0, 256, (100, 250, 3), dtype=np.uint8))
        large = Photograph("large.png", generator.integers(0, 256, (224, 224, 3), dtype=np.uint8))
        message = r"^photographs smaller than 224x224 pixels are enlarged: small.png \(250x100\)$"
        with pytest.warns(UserWarning, match=message):
            crops = plan_crops([small, large], limit=6)
        assert {crop.side for crop in crops if crop.photograph == 0} == {100}
        with pytest.warns(UserWarning, match=message):
            assert plan_centres([small, large], 224) == [Crop(0, 0, 75, 100), Crop(1, 0, 0, 224)]
        pixels = cut([small, large], crops)
        enlarged = Image.fromarray(small.pixels).crop((crops[0].x, 0, crops[0].x + 100, 100))
        expected = np.asarray(enlarged.resize((224, 224), Image.Resampling.BICUBIC))
        assert np.array_equal(pixels[0].permute(1, 2, 0), expected)
        many = [Photograph(f"{number}.png", small.pixels) for number in range(8)]
        with pytest.warns(UserWarning, match=r"0.png \(250x100\), .* 4.png \(250x100\) and 3 more$"):
            plan_crops(many)


class TestPlot:
    def test_contrast_is_normalised_per_picture_around_grey(self):
        values = torch.zeros(3, 3, 2, 2)
        values[0, 0, 0, 0], values[0, 1, 1, 1] = 8, -4
        values[1] = values[0] / 1000
        pictures = plot.with_contrast(values, saturated=0)
        assert pictures.dtype == np.uint8
        assert pictures[0, 0, 0].tolist() == [255, 128, 128]
        assert pictures[0, 1, 1].tolist() == [128, 64, 128]
        assert np.array_equal(pictures[0], pictures[1])
        assert (pictures[2] == 128).all()

    def test_the_largest_values_saturate(self):
        values = torch.arange(300, dtype=torch.float32).reshape(1, 3, 10, 10) + 1
        values[0, 2, 9, 9] = 1e6
        picture = plot.with_contrast(values, saturated=0.01)[0]
        assert picture[9, 9].tolist() == [128 + round(127 * 100 / 297), 128 + round(127 * 200 / 297), 255]

    def test_patches_are_the_images_and_light_outside(self):
        images = torch.randint(0, 200, (2, 3, 20, 30), dtype=torch.uint8)
        patches = plot.patches(images, [1, 0], [[4, 5, 12, 13], [-2, 25, 6, 33]])
        assert np.array_equal(patches[0], images[1, :, 4:12, 5:13].permute(1, 2, 0))
        assert np.array_equal(patches[1, 2:, :5], images[0, :, 0:6, 25:30].permute(1, 2, 0))
        assert (patches[1, :2] == 236).all()
        assert (patches[1, :, 5:] == 236).all()

    @pytest.mark.parametrize(("side", "factor"), [(5, 22), (40, 3), (196, 1)])
    def test_every_pixel_is_drawn_as_a_square_of_its_own_colour(self, tmp_path, side, factor):
        mark = (17, 201, 93)
        projections = np.full((9, side, side, 3), 128, dtype=np.uint8)
        patches = np.full((9, side, side, 3), 40, dtype=np.uint8)
        projections[4, 1, 2] = mark
        plot.draw_maps(tmp_path / "f.png", "title", "caption", [plot.MapTiles("map 1", "", projections, patches)] * 3)
        page = np.asarray(Image.open(tmp_path / "f.png").convert("RGB"))
        rows, columns = np.nonzero((page == mark).all(axis=2))
        assert len(rows) == 3 * factor**2
        assert np.ptp(rows) == factor - 1
        assert (page == 40).all(axis=2).sum() >= 3 * 9 * (side * factor) ** 2

    def test_filters_are_drawn_in_rgb(self, tmp_path):
        filters = torch.zeros(4, 3, 3, 3)
        filters[2, 0] = 1.0
        plot.draw_filters(tmp_path / "f.png", "title", "caption", filters)
        page = np.asarray(Image.open(tmp_path / "f.png").convert("RGB"))
        assert (page == (255, 128, 128)).all(axis=2).sum() == 129 * 129
        assert (page == 128).all(axis=2).sum() >= 3 * 129 * 129


class TestMining:
    def test_maps_are_a_random_choice_that_repeats(self):
        chosen = choose_maps("conv5_3", 512, 16, seed=0)
        assert chosen == sorted(set(chosen)) == choose_maps("conv5_3", 512, 16, seed=0)
        assert len(chosen) == 16
        assert 0 <= chosen[0] <= chosen[-1] < 512
        assert chosen != choose_maps("conv5_3", 512, 16, seed=1)
        assert chosen != choose_maps("conv4_3", 512, 16, seed=0)
        assert choose_maps("conv1", 5, 16, seed=0) == [0, 1, 2, 3, 4]

    def test_one_place_counts_once(self):
        """Units of a 10x10 layer that see 40 of 224 pixels, by falling activation.

        After the first come the same place in a shifted crop, the same place of another photograph, a place far away,
        and the same place in a crop of twice the scale, where the unit sees four times the area.
        """
        crops = [Crop(0, 0, 0, 224), Crop(0, 0, 112, 224), Crop(1, 0, 0, 224), Crop(0, 0, 0, 448)]
        image, y, x = [0, 1, 2, 0, 3], [5, 5, 5, 0, 2], [7, 2, 7, 0, 3]
        units = Units("layer", image, 3, y, x, [5.0, 4.0, 3.0, 2.0, 1.0])
        assert distinct(units, 4, crops, (10, 10), (40, 40), 224) == [0, 2, 3, 4]

    def test_repeats_fill_up_in_falling_order(self):
        crops = [Crop(0, 0, 0, 224)] * 4
        units = Units("layer", [0, 1, 2, 3] * 2, [8] * 4 + [9] * 4, 0, [0, 0, 0, 9] * 2, [4.0, 3.0, 2.0, 1.0] * 2)
        assert distinct(units, 2, crops, (10, 10), (40, 40), 224) == [0, 3, 4, 7]
        assert distinct(units, 3, crops, (10, 10), (40, 40), 224) == [0, 1, 3, 4, 5, 7]

    def test_fewer_images_than_asked_for_are_said(self):
        record = Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 3))).record(torch.randn(5, 3, 7, 7), "0")
        with pytest.warns(UserWarning, match="the record has 5 images, of which '0' gives 5 units per map and not 9"):
            assert len(record.strongest("0", k=9)) == 4 * 5


class Residual(nn.Module):
    """Normalisation that turns signs around, a rectifier written as a function, a sum, and maps that are dead."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.third = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 3, stride=2)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.running_mean, std=0.3)
        self.norm.bias.data.copy_(torch.tensor([-9.0, -9.0, 0.1, -0.5, -1.0, 0.0, 0.3, -1.5]))
        self.third.bias.data.copy_(torch.tensor([-99.0, -0.5, -0.3, 0.0, -0.4, -99.0]))

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.second(x) + x)
        return F.relu(self.third(x)).mean((2, 3))


class TestResponses:
    def test_a_layer_stands_for_its_rectifier(self):
        tape = Deconvnet(Residual()).tape
        names = {layer: rectifier_of(tape, layer) for layer in ("first", "norm", "relu", "second", "add", "third")}
        assert names == {
            "first": "relu", "norm": "relu", "relu": "relu", "second": "second", "add": "relu_1", "third": "relu_2",
        }  # fmt: skip
        assert describe_rectification(tape, "first") == "Activations of layer first as layer relu rectifies them."
        assert describe_rectification(tape, "relu") == ""
        assert describe_rectification(tape, "second").startswith("No rectifier follows layer second")
        chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU6(), nn.MaxPool2d(2), nn.Flatten())
        tape = Deconvnet(chain).tape
        assert [rectifier_of(tape, name) for name in "01234"] == ["2", "2", "2", "3", "4"]
        assert describe_rectification(tape, "3") == describe_rectification(tape, "4") == ""

    @pytest.mark.parametrize("layer", ["first", "norm", "second", "third"])
    def test_they_are_those_of_autograd_above_zero(self, layer):
        model = Residual().double().eval()
        images = torch.randn(6, 3, 15, 14, dtype=torch.float64)
        net = Deconvnet(model)
        rectifier = rectifier_of(net.tape, layer)
        record = net.record(images, rectifier)
        units = strongest_responses(record, rectifier, 4)
        with torch.no_grad():
            first = F.relu(model.norm(model.first(images)))
            maps = {"second": model.second(first), "third": F.relu(model.third(F.relu(model.second(first) + first)))}
        peaks = maps.get(layer, first).flatten(2).amax(2).T
        places = by_map(units, range(len(peaks)))
        for channel, of_map in enumerate(peaks):
            expected = of_map[of_map > 0].sort(descending=True).values[:4]
            torch.testing.assert_close(units.activation[places[channel]], expected)
            assert (units.channel[places[channel]] == channel).all()

    def test_receptive_fields_are_those_of_large_images_whatever_the_size(self):
        net = Deconvnet(VGG16(features_only=True).eval())
        record = net.record(torch.zeros(1, 3, 32, 32), ["conv1_1", "pool1", "conv3_3", "conv5_3"])
        fields = [receptive_field(net.tape, record, layer) for layer in ("conv1_1", "pool1", "conv3_3", "conv5_3")]
        assert fields == [(3, 3), (6, 6), (40, 40), (196, 196)]
        model = Residual().eval()
        net = Deconvnet(model)
        record = net.record(torch.randn(1, 3, 9, 40), ["relu_2", "mean"])
        assert receptive_field(net.tape, record, "relu_2") == (7, 7)
        assert receptive_field(net.tape, record, "mean") is None
        images = torch.zeros(1, 3, 41, 41, requires_grad=True)
        inside = F.relu(model.norm(model.first(images)))
        seen = model.third(model.second(inside) + inside)[0, 0, 10, 10]
        touched = torch.autograd.grad(seen, images)[0][0].abs().sum(0) > 0
        assert all(int(touched.any(axis).sum()) <= 7 for axis in (0, 1))

    def test_captions_say_the_field_and_what_is_shown(self):
        assert describe_field((40, 30), (40, 30)) == "30x40 pixels"
        clipped = "196x196 pixels, more than an image has: shown are its 128x128"
        assert describe_field((196, 196), (128, 128)) == clipped
        assert describe_field(None, (64, 48)) == "the whole image, 48x64 pixels"


class TestGallery:
    @pytest.fixture
    def own(self, folder, tmp_path, monkeypatch):
        """A run on the residual network; what it drew, by file."""
        print("weights from seed", torch.seed())
        torch.save(Residual().state_dict(), tmp_path / "own.pth")
        place = f"{Path(__file__)}:Residual"
        settings = Settings(
            network=Network(model=place, weights=str(tmp_path / "own.pth")),
            images=ImageSources(images=(str(folder),)),
            layers="first,second,third,relu_2", maps=8, k=4, crops=9, sample=0,
        )  # fmt: skip
        drawn = {}

        def draw(path, title, caption, maps, columns=4):
            drawn[path.name] = (title, caption, maps)
            draw_maps(path, title, caption, maps, columns)

        draw_maps = plot.draw_maps
        monkeypatch.setattr(figures, "draw_maps", draw)
        return GalleryJob(settings), drawn

    def test_only_responses_are_shown_and_dead_maps_are_called_dead(self, own, tmp_path):
        job, drawn = own
        summary = job.run(tmp_path / "out", progress=False)
        rows = list(csv.DictReader((tmp_path / "out" / "units.csv").open()))
        assert all(float(row["activation"]) > 0 for row in rows)
        windows = np.load(tmp_path / "out" / "projections.npz")
        inputs = job.shown.weights.preprocess(cut(job.shown.photographs, job.shown.crops))
        with torch.no_grad():
            first = F.relu(job.shown.model.norm(job.shown.model.first(inputs)))
            second = job.shown.model.second(first)
            maps = {"first": first, "second": second, "third": F.relu(job.shown.model.third(F.relu(second + first)))}
        maps["relu_2"] = maps["third"]
        for layer, rectifier in (("first", "relu"), ("second", ""), ("third", "relu_2"), ("relu_2", "")):
            mine = [row for row in rows if row["layer"] == layer]
            # Which rows there are is asserted below, map by map; chance may leave none.
            assert {row["rectified_by"] for row in mine} == ({rectifier} if mine else set())
            assert len(windows[layer]) == len(mine)
            (rate,) = (rate for rate in summary.rates if rate.layer == layer)
            title, caption, tiles = drawn[f"{layer}.png"]
            assert f"layer {layer}: " in title
            assert ("rectifies them" in caption) == bool(rectifier)
            peaks = maps[layer].flatten(2).amax(2).T
            chosen = choose_maps(layer, len(peaks), 8, job.settings.seed)
            assert len(tiles) == len(chosen)
            for channel, tile in zip(chosen, tiles, strict=True):
                responses = peaks[channel][peaks[channel] > 0].sort(descending=True).values[:4]
                found = [row for row in mine if row["map"] == str(channel)]
                assert [row["rank"] for row in found] == [str(rank + 1) for rank in range(len(responses))]
                activations = torch.tensor([float(row["activation"]) for row in found])
                torch.testing.assert_close(activations, responses, rtol=1e-4, atol=1e-4)
                assert len(tile.projections) == len(tile.patches) == len(responses)
                assert ("dead" in tile.note) == (len(responses) == 0) == (channel in rate.dead)
                assert ("only" in tile.note) == (0 < len(responses) < 4) == (channel in rate.fewer)
            assert ("Shown are responses" in caption) == bool(rate.dead or rate.fewer)
        written = json.loads((tmp_path / "out" / "gallery.json").read_text())
        dead = {rate["layer"]: rate["dead"] for rate in written["rates"]}
        assert {0, 5} <= set(dead["third"])
        assert any("layer third: map" in line and "dead" in line for line in summary.lines())

    def test_a_layer_of_dead_maps_has_a_figure(self, own, tmp_path):
        job, drawn = own
        job.shown.model.third.bias.data.fill_(-1e4)
        for distinct_places in (False, True):
            job.settings, job.layers = replace(job.settings, distinct=distinct_places, sample=2), ("third",)
            summary = job.run(tmp_path / "out", progress=False)
            assert summary.rates[0].dead == tuple(range(6))
            assert [len(tile.projections) for tile in drawn["third.png"][2]] == [0] * 6
            assert min(Image.open(tmp_path / "out" / "third.png").size) > 500
            assert (tmp_path / "out" / "units.csv").read_text().count("\n") == 1

    def test_units_and_projections_are_what_the_network_says(self, settings, tmp_path):
        job = GalleryJob(settings)
        summary = job.run(tmp_path / "out", progress=False)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(summary.files)
        assert set(summary.files) == {
            "conv1.png", "conv2.png", "conv1_filters.png", "crops.csv", "gallery.json", "projections.npz", "units.csv",
        }  # fmt: skip

        with torch.no_grad():
            conv1 = job.shown.model.conv1(job.shown.weights.preprocess(cut(job.shown.photographs, job.shown.crops)))
            conv2 = job.shown.model[1:4](conv1)
        rows = list(csv.DictReader((tmp_path / "out" / "units.csv").open()))
        assert len(rows) == 2 * 3 * 4 == summary.projections
        for layer, maps in (("conv1", conv1), ("conv2", conv2)):
            mine = [row for row in rows if row["layer"] == layer]
            chosen = choose_maps(layer, maps.shape[1], 3, settings.seed)
            peaks = maps[:, chosen].flatten(2).amax(2)
            expected = peaks.topk(4, dim=0).values.T.flatten()
            torch.testing.assert_close(torch.tensor([float(row["activation"]) for row in mine]), expected)
            assert [int(row["map"]) for row in mine] == [channel for channel in chosen for _ in range(4)]
            assert [int(row["rank"]) for row in mine] == [1, 2, 3, 4] * 3
            for row, value in zip(mine, expected.tolist(), strict=True):
                crop, channel, y, x = (int(row[column]) for column in ("crop", "map", "y", "x"))
                assert maps[crop, channel, y, x].item() == pytest.approx(value, rel=1e-5)

        first = next(row for row in rows if row["layer"] == "conv1")
        y, x = int(first["y"]), int(first["x"])
        box = [int(first[column]) for column in ("y0", "x0", "y1", "x1")]
        assert box == [4 * y - 2, 4 * x - 2, 4 * y + 9, 4 * x + 9]

        windows = np.load(tmp_path / "out" / "projections.npz")
        assert windows["conv2"].shape == (12, 3, 51, 51)
        inside = np.zeros((3, 11, 11), dtype=bool)
        inside[:, max(0, -box[0]) : 224 - box[0], max(0, -box[1]) : 224 - box[1]] = True
        filter_ = job.shown.model.conv1.weight[int(first["map"])].numpy()
        expected = np.where(inside, filter_ * float(first["activation"]), 0)
        np.testing.assert_allclose(windows["conv1"][0], expected, rtol=1e-5)

        crops = list(csv.DictReader((tmp_path / "out" / "crops.csv").open()))
        assert [(row["photograph"], int(row["side"])) for row in crops] == [
            (job.shown.photographs[crop.photograph].name, crop.side) for crop in job.shown.crops
        ]
        written = json.loads((tmp_path / "out" / "gallery.json").read_text())
        assert written["settings"]["layers"] == ["conv1", "conv2"]
        assert written["rates"][1]["difference"] <= 1e-5
        assert written["rates"][1]["baselines"]["full-frame ATen"] > 0

    def test_a_second_run_gives_the_same_and_keeps_strangers(self, settings, tmp_path):
        settings = replace(settings, layers="conv1", sample=0)
        (tmp_path / "conv1.png").write_text("old")
        (tmp_path / "diary.txt").write_text("mine")
        GalleryJob(settings).run(tmp_path, progress=False)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        GalleryJob(settings).run(tmp_path, progress=False)
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert before["diary.txt"] == b"mine"
        assert before["conv1.png"] != b"old"
        del before["gallery.json"], after["gallery.json"]
        assert before == after

    def test_projections_of_the_figure_are_distinct_places(self, settings):
        job = GalleryJob(replace(settings, crops=30, distinct=True))
        inputs = job.shown.weights.preprocess(cut(job.shown.photographs, job.shown.crops))
        record = job.net.record(inputs, ["relu2"], progress=False)
        maps = choose_maps("conv2", record.shape("relu2")[0], 3, settings.seed)
        units = strongest(job.net, record, "relu2", settings.k, maps, job.shown.crops)
        channels = units.channel.unique().tolist()
        first_of_each = record.strongest("relu2", 1, channels)
        assert torch.equal(units.activation[::4], first_of_each.activation)
        for first in range(0, len(units), 4):
            falling = units.activation[first : first + 4]
            assert torch.equal(falling, falling.sort(descending=True).values)
            assert len(set(units.image[first : first + 4].tolist())) == 4

    @pytest.mark.parametrize("exists", [False, True])
    def test_an_error_on_the_way_leaves_nothing(self, settings, tmp_path, monkeypatch, exists):
        def fail(*arguments: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(figures, "draw_filters", fail)
        if exists:
            (tmp_path / "out").mkdir()
        with pytest.raises(OSError, match="disk full"):
            GalleryJob(settings).run(tmp_path / "out", progress=False)
        assert list(tmp_path.rglob("*")) == ([tmp_path / "out"] if exists else [])

    WRONG = pytest.mark.parametrize(
        "wrong", [lambda x: x * 1.01, lambda x: x * float("nan")], ids=["off by 1 %", "nan"]
    )

    @WRONG
    def test_projections_that_are_not_the_defined_ones_stop_the_run(self, settings, tmp_path, monkeypatch, wrong):
        honest = comparison.definition
        monkeypatch.setattr(comparison, "definition", lambda *a, **k: wrong(honest(*a, **k)))
        with pytest.raises(WrongResult, match="projections of relu1 differ from their definition"):
            GalleryJob(settings).run(tmp_path / "out", progress=False)
        assert list(tmp_path.iterdir()) == []

    @WRONG
    def test_a_baseline_that_is_wrong_is_left_out(self, settings, tmp_path, monkeypatch, wrong):
        honest = comparison.project_full_frame
        monkeypatch.setattr(comparison, "project_full_frame", lambda *a, **k: wrong(honest(*a, **k)))
        summary = GalleryJob(settings).run(tmp_path / "out", progress=False)
        for rates in summary.rates:
            assert rates.difference <= 1e-5
            assert "full-frame ATen" not in rates.baselines
            assert rates.left_out["full-frame ATen"].endswith("largest value, and ours is the defined one")
            (line,) = (line for line in summary.lines() if line.startswith(f"{rates.layer}: full-frame ATen"))
            assert "is left out: it differs by" in line

    def test_a_baseline_that_fails_is_left_out(self, settings, tmp_path, monkeypatch):
        def fail(*arguments: object, **named: object) -> None:
            raise AttributeError("no such thing\nand more about it")

        monkeypatch.setattr(comparison, "project_full_frame", fail)
        summary = GalleryJob(settings).run(tmp_path / "out", progress=False)
        assert {rates.left_out["full-frame ATen"] for rates in summary.rates} == {"no such thing"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"layers": "conv9"},
                r"no layer 'conv9' \(did you mean .*; the layers are: conv1, relu1, .*pool5$",
            ),
            ({"layers": ""}, "no layers were given"),
            ({"layers": "conv1,conv1"}, "layer 'conv1' was given more than once"),
            ({"maps": 0}, "maps must be at least 1, got 0"),
            ({"k": 11}, "10 crops are too few for the 11 strongest"),
            ({"rule": "backwards"}, "rule must be one of"),
            ({"overlap": "first"}, "overlap must be"),
            (
                {"network": Network(model="alexnet", machine=Machine(device="abacus"))},
                "device must be cpu or cuda, got 'abacus'",
            ),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_settings_that_cannot_work_are_refused_at_once(self, settings, change, message):
        with pytest.raises(ValueError, match=message):
            GalleryJob(replace(settings, **change))
