"""Pixel arithmetic: arrays in, arrays out, nothing of wbpy imported.

All kernels release the GIL and use one thread each; the callers spread bands or tiles over a pool. No kernel's
result depends on how the image was cut into bands or tiles.
"""
