"""Benchmarks anyone can run on one machine; README.md says what each shows."""
