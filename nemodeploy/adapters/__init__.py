"""The only floor that touches the world: files, network, clocks."""
