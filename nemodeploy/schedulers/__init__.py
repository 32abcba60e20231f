"""Pure: how jobs are submitted and asked about, as text."""
