"""Pure: what is wanted and how it is decided. No clock, no randomness, no files, no network."""
