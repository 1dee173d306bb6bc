"""PyTorch on both ends: export that quantizes well, and training that starts from an ONNX file and returns it."""

from quantonnx.torch.module import OnnxModule, from_onnx

__all__ = ["OnnxModule", "from_onnx"]
