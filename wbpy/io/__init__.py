"""Files: the only place that knows FITS, XISF and camera raw, and where products are written, whole or not at all."""
