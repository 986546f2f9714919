"""x."""


def ready_seconds(posts: int, authors: int, seed: int) -> dict[str, float]:
    return {}
