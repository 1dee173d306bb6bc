"""The shipped targets: one file of declarations each, ending in `target = Target(...)`."""
