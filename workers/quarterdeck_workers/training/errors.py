"""What ends a training, with who is to blame and what to do."""

from __future__ import annotations

from quarterdeck.specs.beats import Blame
from quarterdeck_workers.rank.errors import DataError


class Diverged(Exception):
    """Loss or gradients are no longer finite: the recipe, not the machine, is the cause."""

    blame: Blame = "user_code"

    def __init__(self, step: int, what: str, learning_rate: float, last_saved: int | None) -> None:
        saved = f"step {last_saved} is saved" if last_saved else "nothing was saved yet"
        super().__init__(
            f"{what} at step {step} (learning rate {learning_rate:.3g}): lower "
            f"training.learning_rate, lengthen training.warmup_steps or clip harder; {saved}"
        )


class WrongData(DataError):
    """The datasets cannot feed this training."""
