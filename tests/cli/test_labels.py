"""The true classes of photographs, as the command line takes them."""

from __future__ import annotations

import pytest

from deconv_kernels.cli.labels import read_labels


def test_numbers_names_and_files(tmp_path):
    (tmp_path / "classes").write_text("cat\ndog\n  fish \n\n")
    (tmp_path / "labels").write_text("fish\n0\n")
    classes = str(tmp_path / "classes")
    assert read_labels("2,0", None, 2) == [2, 0]
    assert read_labels("dog,0,fish", classes, 3) == [1, 0, 2]
    assert read_labels(str(tmp_path / "labels"), classes, 2) == [2, 0]
    assert read_labels("predicted", classes, 7) == "predicted"


def test_a_list_longer_than_a_name_of_a_file_can_be():
    assert read_labels(",".join(["985"] * 200), None, 200) == [985] * 200


def test_an_empty_line_shifts_no_class(tmp_path):
    (tmp_path / "classes").write_text("cat\n\ndog\n")
    with pytest.raises(ValueError, match="line 2 is empty"):
        read_labels("dog", str(tmp_path / "classes"), 1)


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [("1,2", 3, "3 photographs need one each, got 2"), ("cow", 1, "'cow' is not a number"), ("9" * 20, 1, "no class")],
)
def test_what_is_no_label_is_refused(labels, count, message):
    with pytest.raises(ValueError, match=message):
        read_labels(labels, None, count)
