"""A real Slurm cluster on this machine: slurmctld, slurmd and sshd, every node a host of its own.

`Sandbox` in `cluster.py` is the Python interface, `nemodeploy sandbox` the command. Nothing outside this package
knows how it is made: to the product it is one more cluster file.
"""
