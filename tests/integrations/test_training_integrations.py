"""TensorBoard's writer and a Lightning callback, with the real packages."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import deconv_kernels as dk
from deconv_kernels.engine.pictures import mosaic


class Residual(nn.Module):
    """A small residual network that classifies."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.second = nn.Sequential(nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 5, 3, padding=1))
        self.relu, self.drop = nn.ReLU(), nn.Dropout(0.5)
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.relu(self.second(x) + x)
        return self.last(self.drop(x.mean((2, 3))))


def pictures_of(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """The pictures in TensorBoard's files, by tag."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return {
        tag: [(e.step, np.asarray(Image.open(io.BytesIO(e.encoded_image_string)))) for e in events.Images(tag)]
        for tag in events.Tags()["images"]
    }


def test_tensorboard_shows_the_pictures(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    from deconv_kernels.integrations.tensorboard import add_projections

    net = dk.Deconvnet(Residual())
    record = net.record(torch.randn(3, 3, 12, 14), "relu")
    found = net.project(record, record.strongest("relu", k=1))
    with tensorboard.SummaryWriter(tmp_path) as writer:
        add_projections(writer, "maps", found, 3, columns=5)
        add_projections(writer, "maps", found, 4, columns=5, to_rgb=lambda values: values.flip(1))
    written = pictures_of(tmp_path)["maps"]
    assert [step for step, _ in written] == [3, 4]
    expected = mosaic(found.images(full=False), columns=5)
    assert np.array_equal(written[0][1], expected) and np.array_equal(written[1][1], expected[..., ::-1])
    with pytest.raises(TypeError, match="must have add_image"):
        add_projections(tmp_path, "maps", found)
    with pytest.raises(ValueError, match="number of projections must be at least 1"):
        add_projections(writer, "maps", found[:0])


def test_the_callback_projects_with_the_weights_of_each_epoch(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed")
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from pytorch_lightning.loggers import TensorBoardLogger

    from deconv_kernels.integrations.lightning import ProjectionCallback

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Residual()
            self.states: list[dict[str, Tensor]] = []

        def training_step(self, batch: list[Tensor], number: int) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def on_train_epoch_end(self) -> None:
            self.states.append({name: value.clone() for name, value in self.model.state_dict().items()})

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    def trained(*callbacks: ProjectionCallback) -> Classifier:
        torch.manual_seed(seed)
        classifier = Classifier()
        settings = {"max_epochs": 3, "accelerator": "cpu", "enable_checkpointing": False}
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
        logger = TensorBoardLogger(tmp_path) if callbacks else False
        trainer = lightning.Trainer(callbacks=list(callbacks), logger=logger, **settings, **quiet)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(classifier, torch.utils.data.DataLoader(data, batch_size=4))
        return classifier

    seed = int(torch.randint(2**31, ()))
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 10, 10), torch.randint(0, 2, (8,)))
    images = torch.randn(3, 3, 12, 14)
    callback = ProjectionCallback(images, "relu", maps=[4, 1], network="model")
    rarely = ProjectionCallback(images, "second", every_n_epochs=2, network="model")
    classifier, without = trained(callback, rarely), trained()
    for name, value in without.model.state_dict().items():
        assert torch.equal(value, classifier.model.state_dict()[name]), name

    assert [epoch for epoch, _ in callback.history] == [0, 1, 2] and [epoch for epoch, _ in rarely.history] == [1]
    for (_, found), state in zip(callback.history, classifier.states, strict=True):
        model = Residual()
        model.load_state_dict(state)
        net = dk.Deconvnet(model)
        record = net.record(images, "relu")
        expected = net.project(record, record.strongest("relu", 1, [4, 1]))
        assert torch.equal(found.windows, expected.windows) and torch.equal(found.boxes, expected.boxes)
    written = pictures_of(next(tmp_path.rglob("events*")).parent)
    assert [step for step, _ in written["projections/relu"]] == [2, 4, 6]
    for (_, picture), (_, found) in zip(written["projections/relu"], callback.history, strict=True):
        assert np.array_equal(picture, mosaic(found.images(full=False)))
    with pytest.raises(dk.UnknownLayer, match="no layer 'third'"):
        trained(ProjectionCallback(images, "third", network="model"))
