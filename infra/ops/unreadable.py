"""What to say where something stored cannot be read."""


class StateUnreadable(RuntimeError):
    """What the system keeps cannot be read; the text says what, where and why."""
