"""Training of both models: `fit`."""

from phoenix.training.fitting import Begun, Checkpoints, Fitted, fit
from phoenix.training.loop import Progress

__all__ = ["Begun", "Checkpoints", "Fitted", "Progress", "fit"]
