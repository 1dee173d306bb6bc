"""What makes a quantized model more accurate: a file for each algorithm."""
