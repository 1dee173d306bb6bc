"""Both ends in PyTorch: modules become quantized ONNX files, and ONNX files become modules that train."""
