"""Prepared videos to clips: the index, decoding, sampling, transforms and the loader."""
