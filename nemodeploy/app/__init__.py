"""The use cases: up, status, down, logs, generate. They take ports, and know neither click nor paramiko."""
