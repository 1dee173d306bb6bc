"""Real runtimes: what they make of a quantized file. Nothing is imported here, since child processes start often."""
