"""What the engine raises and warns of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class UnsupportedModule(ValueError):  # noqa: N818
    """The network has a part for which there is no exact rule.

    Attributes:
        page: of the documentation, where it is explained.

    Example:
        >>> try:
        ...     dk.Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 5), nn.SiLU()))
        ... except dk.UnsupportedModule as error:
        ...     print("SiLU" in str(error))
        True
    """

    page: ClassVar[str] = "docs/rules.md"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # What `add_note` does, which Python 3.10 lacks: tracebacks end with it, and the message stays as it is.
        self.__notes__ = [f"Explained in {self.page}."]


class NeedsSizes(UnsupportedModule):
    """The network asks for the sizes of its maps, which are known only with an image.

    Args:
        reason: where it does, for people.
        surely: whether knowing them is sure to help.
    """

    def __init__(self, reason: str, surely: bool = True) -> None:
        super().__init__(f"{reason}. Record images first, or give Deconvnet(..., image_size=(C, H, W))")
        self.surely = surely


class UnusedRule(UserWarning):
    """A rule was given for what the network does not call."""


_MOST_NAMED = 8


class Undecided(UnsupportedModule):
    """The network has parts about which there is no agreement, and the user has not decided either.

    Args:
        parts: what they are, for people.
        keys: of `rules`, as they are written in Python, for the same parts.
        why: more about the parts, a sentence that goes on.
        others: what else a rule may be.
    """

    def __init__(self, parts: Sequence[str], keys: Sequence[str], why: str = "", others: str = "") -> None:
        rules = ", ".join(f"{key}: 'gradient'" for key in dict.fromkeys(keys))
        have, them = ("has", "it") if len(parts) == 1 else ("have", "them")
        named = [*parts[:_MOST_NAMED], f"{len(parts) - _MOST_NAMED} more"] if len(parts) > _MOST_NAMED + 1 else parts
        super().__init__(
            f"{', '.join(named)} {have} no exact backward rule: {why}say what to do with {them}, as in "
            f"Deconvnet(..., rules={{{rules}}}){others}, or use rule='gradient'"
        )
        self.parts, self.keys = tuple(parts), tuple(keys)

    @classmethod
    def of_all(cls, errors: Sequence[Undecided]) -> Undecided:
        """One error for several."""
        if len(errors) == 1:
            return errors[0]
        return cls([part for e in errors for part in e.parts], [key for e in errors for key in e.keys])


class UnknownLayer(ValueError):  # noqa: N818
    """The network has no layer of that name.

    Example:
        >>> net = dk.Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()))
        >>> try:
        ...     net.record(torch.randn(1, 3, 8, 8), "conv9")
        ... except dk.UnknownLayer as error:
        ...     print("conv9" in str(error))
        True
    """
