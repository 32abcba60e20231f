"""nemodeploy: from SSH access to a Slurm GPU cluster to a large NeMo model that has answered a prompt."""

__version__ = "0.1.0"
