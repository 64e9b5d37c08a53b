"""What a network's last layer says of classes: probabilities, of several classes or of one."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.deconvnet import Deconvnet
from ...engine.steps.pointwise import Activation

__all__ = ["class_count", "class_to_follow", "ends_in_sigmoid", "log_odds", "probabilities"]


def class_count(outputs: int) -> int:
    """How many classes a row of outputs tells apart: as many as it has, and of a single output two, no and yes."""
    return max(2, outputs)


def probabilities(outputs: Tensor, logits: bool = True) -> Tensor:
    """The probability of every class.

    Args:
        outputs: (N, classes), or (N, 1) of a network that tells one class from its absence.
        logits: they go through a softmax, a single one through a sigmoid. False if they are probabilities already.

    Returns:
        (N, classes) float64 on the host; of a single output (N, 2), class 1 being the one that it stands for.

    Raises:
        ValueError: probabilities that are below 0 or above 1.
    """
    outputs = outputs.to("cpu", torch.float64)
    if not logits and not bool(((outputs >= 0) & (outputs <= 1)).all()):
        raise ValueError("the network's output is no probability: it must be from 0 to 1")
    if outputs.shape[1] > 1:
        return outputs.softmax(1) if logits else outputs
    return torch.cat((torch.sigmoid(-outputs), torch.sigmoid(outputs)) if logits else (1 - outputs, outputs), 1)


def class_to_follow(outputs: Tensor) -> int:
    """The class to look at where none was named, of one image's outputs (classes,).

    The most probable one; of a single output class 1, whose probability is what such a network says.
    """
    return int(outputs.argmax()) if len(outputs) > 1 else 1


def log_odds(outputs: Tensor, label: int, logits: bool = True) -> Tensor:
    """The logarithm of how much more probable one class is than all others together, (N,) float64 on the host.

    Args:
        outputs, logits: as for `probabilities`.
        label: the class.
    """
    outputs = outputs.to("cpu", torch.float64)
    if not logits:
        return probabilities(outputs, logits)[:, label].logit(eps=torch.finfo(torch.float64).eps)
    if outputs.shape[1] == 1:
        return outputs[:, 0] if label else -outputs[:, 0]
    others = torch.arange(outputs.shape[1]) != label
    return outputs[:, label] - outputs[:, others].logsumexp(1)


def ends_in_sigmoid(net: Deconvnet, layer: str, outputs: Tensor) -> bool:
    """Whether the single output of a layer is a sigmoid's, so that it is a probability already; see `probabilities`.

    Args:
        outputs: of one image, (classes, ...).
    """
    made = net.tape.maker(net.layer(layer).value)
    if made is None:
        return False
    step = net.tape.bound([made.number])[0][made.number]
    if outputs.numel() != 1 or not isinstance(step, Activation):
        return False
    low, high = step.function(outputs.new_tensor([[-50.0], [50.0]])).flatten().tolist()
    return 0 <= low < 1e-3 and 1 - 1e-3 < high <= 1
