"""How a job reaches a Ray cluster, is watched, and is stopped: Jobs API or KubeRay."""
