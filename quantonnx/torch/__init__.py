"""PyTorch on both ends: export that quantizes well, and training that starts from an ONNX file and returns it."""

from quantonnx.torch.module import OnnxModule, from_onnx
from quantonnx.torch.preparing import prepare_qat
from quantonnx.torch.returning import to_onnx

__all__ = ["OnnxModule", "from_onnx", "prepare_qat", "to_onnx"]
