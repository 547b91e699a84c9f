"""Walk a plan: the store of artifacts, the two passes over the pixels, events and logs."""
