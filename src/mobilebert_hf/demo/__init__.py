"""A demo that runs with no network: an embedded corpus and the task made of it."""
