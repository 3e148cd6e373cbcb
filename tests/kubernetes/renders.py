"""Values that the tables of rendered objects are made of."""

from __future__ import annotations

from tests.kubernetes.chart import LEAST

EVERYTHING = {
    **LEAST,
    "workers.enabled": True,
    "workers.replicas": 3,
    "workers.project": "cv",
    "api.autoscaling.enabled": True,
    "gateway.autoscaling.enabled": True,
    "ingress.enabled": True,
    "rbac.nodes": True,
    "artifacts.existingSecret": "artifacts",
    "tracing.endpoint": "http://collector:4318",
    "tracing.existingSecret": "tracing",
    "monitoring.serviceMonitor.enabled": True,
    "monitoring.podMonitor.enabled": True,
    "monitoring.prometheusRule.enabled": True,
    "monitoring.dashboards.enabled": True,
    "pools": [{"name": "gpu", "project": "nlp", "topology": ["example.com/rack"], "groups": [
        {"name": "big", "accelerator": "H100", "slots": 8, "maxReplicas": 2, "spot": True,
         "idleAfter": "10m", "memory": "512GiB", "labels": {"rack": "a"},
         "tolerations": [{"key": "gpu", "operator": "Exists"}]},
        {"name": "small", "slots": 4, "minReplicas": 1, "maxReplicas": 3},
    ]}],
}  # fmt: skip
TRIAL = {
    "image.registry": "localhost",
    "keys.existingSecret": "keys",
    "postgresql.enabled": True,
    "postgresql.existingSecret": "password",
    "artifacts.persistence.enabled": True,
    "workers.enabled": True,
}
