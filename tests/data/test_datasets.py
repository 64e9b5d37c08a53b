"""Labelled images: those that packages ship, crops by photograph, and folders by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from deconv_kernels.data.datasets import crops_by_photograph, load_class_folders, load_digits, load_faces
from deconv_kernels.photographs import Photograph


def test_digits_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    digits, data = datasets.load_digits(), load_digits(8)
    assert data.images.shape == (1797, 3, 8, 8)
    for channel in range(3):
        np.testing.assert_array_equal(data.images[:, channel].numpy(), np.rint(digits.images * 255 / 16))
    assert [data.classes[label] for label in data.labels] == [str(label) for label in digits.target]
    enlarged = load_digits(40).images
    assert enlarged.shape == (1797, 3, 40, 40)
    assert enlarged.dtype == torch.uint8


def test_faces_come_before_patches_without_one():
    pytest.importorskip("skimage", reason="the faces come with scikit-image")
    data = load_faces(25)
    assert data.images.shape == (200, 3, 25, 25)
    assert data.labels.tolist() == [0] * 100 + [1] * 100
    assert data.classes == ("face", "no face")


@pytest.mark.parametrize(("height", "width", "gap"), [(144, 150, 16), (201, 255, 16), (160, 131, 0), (170, 141, 9)])
def test_crops_of_different_quarters_share_no_pixel(height, width, gap):
    """Every pixel holds its own place, so that crops tell where they were cut."""
    y, x = np.mgrid[:height, :width]
    photograph = np.stack((y, x, np.zeros_like(y)), axis=2).astype(np.uint8)
    other = photograph.copy()
    other[..., 2] = 1
    data = crops_by_photograph([Photograph("a", photograph), Photograph("b", other)], size=64, side=64, gap=gap)
    assert data.classes == ("a", "b")
    assert len(data) == len(data.images) == len(data.groups)
    places: dict[int, set[tuple[int, int]]] = {}
    for image, label, group in zip(data.images.numpy(), data.labels.tolist(), data.groups.tolist(), strict=True):
        assert (image[2] == label).all()
        assert group // 4 == label
        places.setdefault(group, set()).update(zip(image[0].ravel().tolist(), image[1].ravel().tolist(), strict=True))
    assert sorted(places) == list(range(8))
    for one in range(4):
        for two in range(one):
            rows, columns = (
                [sorted({place[axis] for place in places[quarter]}) for quarter in (one, two)] for axis in (0, 1)
            )
            apart = max(max(a[0] - b[-1], b[0] - a[-1]) for a, b in (rows, columns))
            assert apart > gap  # the nearest rows, or columns, have at least `gap` others between them


def test_photographs_too_small_for_quarters_are_refused():
    small = Photograph("small.png", np.zeros((200, 143, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"small.png is 143x200 pixels; 144 are needed"):
        crops_by_photograph([small], 32)
    for arguments, message in (({"side": 1}, "side of at least 2"), ({"gap": -1}, "gaps of at least 0")):
        with pytest.raises(ValueError, match=message):
            crops_by_photograph([small], 32, **arguments)
    with pytest.raises(ValueError, match="size must be at least 1"):
        crops_by_photograph([small], 0)


def test_folders_are_classes_read_when_asked_for(tmp_path):
    for name, colour in (("cats", 10), ("dogs", 200)):
        (tmp_path / name).mkdir()
        for number in range(3):
            pixels = np.full((30, 50, 3), colour + number, dtype=np.uint8)
            pixels[:, :10] = pixels[:, 40:] = 0  # outside the central square
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
        (tmp_path / name / "notes.txt").write_text("no image")
        (tmp_path / name / "._0.png").write_bytes(b"hidden")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "._cats").write_bytes(b"hidden")
    (tmp_path / "dogs" / "3.jpg").write_bytes(b"no image")
    data = load_class_folders(tmp_path, 12)
    assert data.classes == ("cats", "dogs")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    for place, value in enumerate((10, 11, 12, 200, 201, 202)):
        assert torch.equal(data.images[place], torch.full((3, 12, 12), value, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"3.jpg' cannot be read"):
        data.images[6]


def test_folders_that_are_no_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        load_class_folders(tmp_path / "absent", 12)
    (tmp_path / "cats").mkdir()
    with pytest.raises(ValueError, match="at least two"):
        load_class_folders(tmp_path, 12)
    (tmp_path / "dogs").mkdir()
    with pytest.raises(ValueError, match="cats' holds no image files"):
        load_class_folders(tmp_path, 12)
