"""From files to frames: which files there are, what their headers mean, and which frames belong together."""
