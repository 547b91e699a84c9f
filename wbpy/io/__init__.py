"""Files: the only place that knows FITS and where products are written, whole or not at all."""
