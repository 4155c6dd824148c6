"""Planning decoding for accelerators that are not there."""
