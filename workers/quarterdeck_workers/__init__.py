"""What runs on the machines: agents, supervisors, ranks, trainers and engines."""
