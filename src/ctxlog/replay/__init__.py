"""Read contexts from a log: up to any point, with a manifest, from zero or from a snapshot, to the same bytes."""
