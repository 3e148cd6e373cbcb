"""What runs on the machines: agents, supervisors, ranks, trainers and engines."""

from quarterdeck_workers.rank.reporting import report

__all__ = ["report"]
