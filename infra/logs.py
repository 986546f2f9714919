"""How the processes of the system log: one line an event, on stderr."""

import logging


def configure() -> None:
    """Set up logging for a process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)  # tells at length which accelerators there are not
