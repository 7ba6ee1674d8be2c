"""A demo that runs offline, on an embedded corpus."""
