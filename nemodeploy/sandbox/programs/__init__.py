"""What runs on the sandbox's nodes in place of a container image: a stand-in server program and a tiny model."""
