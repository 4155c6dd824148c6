"""Planning training for accelerators that are not there."""
