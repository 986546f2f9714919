"""Which models a process serves: those of a checkpoint, or untrained ones."""

from pathlib import Path

from phoenix.serving import Phoenix


def served(checkpoint: str, config: str, seed: int) -> Phoenix:
    """The models of the newest checkpoint in a directory; where none is named, seeded ones.

    Raises:
        ValueError: one line that says what is wrong with the checkpoint or the configuration's name.

    """
    if not checkpoint:
        return Phoenix.seeded(config, seed)
    from phoenix.checkpoints import phoenix_of  # takes a second to import, which untrained models need not wait for

    return phoenix_of(Path(checkpoint))
