"""Ties a directory with offsets to the Kafka cluster that they belong to."""

import os
from pathlib import Path
from typing import Final

from infra.ports.errors import OtherCluster

FILE: Final = "cluster_id"


def bind_to_cluster(directory: Path, cluster_id: str, remedy: str) -> None:
    """Store the id of the cluster in a directory, unless it is there.

    Raises:
        OtherCluster: the directory belongs to another cluster.

    """
    path = directory / FILE
    bound = path.read_text() if path.exists() else cluster_id
    if bound != cluster_id:
        raise OtherCluster(
            f"{directory} holds offsets of the Kafka cluster {bound}, but the settings name {cluster_id}: {remedy}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(f".{os.getpid()}")
    written.write_text(cluster_id)
    written.replace(path)  # another process may read it
