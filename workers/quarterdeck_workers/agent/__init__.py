"""One per Ray cluster: presence, claim, start, kill; nothing else."""

from quarterdeck_workers.agent.main import main
from quarterdeck_workers.agent.ray_process import RayFailed, stop_ray
from quarterdeck_workers.agent.settings import AgentSettings

__all__ = ["AgentSettings", "RayFailed", "main", "stop_ray"]
