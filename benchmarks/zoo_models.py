"""The zoo's networks as torch modules, with random weights under which activations look like a trained network's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import zoo_feeds
from package_download import Unavailable
from torch import Tensor, nn

SEED = 50


class Wrapped(nn.Module):
    """A network of the transformers library with plain tensors in and one tensor out."""

    def __init__(self, network: nn.Module, inputs: tuple[str, ...], output: str) -> None:
        super().__init__()
        self.network, self.inputs, self.output = network, inputs, output

    def forward(self, *values: Tensor) -> Tensor:
        """Return the field `output` of what the network returns."""
        return self.network(**dict(zip(self.inputs, values, strict=True)))[self.output]


@functools.cache
def _torchvision() -> Any:
    """Import torchvision, whose own operators a build of torch without them has to be told about first."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    return torchvision, library  # the definitions live as long as the library object


def vision(name: str) -> nn.Module:
    """Return torchvision's classifier `name`."""
    return _torchvision()[0].models.get_model(name, weights=None)


def deeplab() -> nn.Module:
    """Return DeepLabV3 on MobileNetV3-Large, 21 classes, its scores at the image's size."""
    make = _torchvision()[0].models.segmentation.deeplabv3_mobilenet_v3_large
    return Wrapped(make(weights=None, weights_backbone=None), ("x",), "out")


def packed_vit() -> nn.Module:
    """Return torchvision's ViT in size S, whose attention is torch's MultiheadAttention (packed in-projection)."""
    return _torchvision()[0].models.VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536
    )


def timm_model(name: str) -> nn.Module:
    """Return timm's network `name`."""
    _torchvision()
    import timm

    return timm.create_model(name, pretrained=False)


def own(name: str) -> nn.Module:
    """Return a network that benchmarks/ writes out itself."""
    import torch_networks

    return getattr(torch_networks, name)()


def yolo() -> nn.Module:
    """Return the detector of the v8 kind, 320×320, 80 classes."""
    import zoo_networks

    return zoo_networks.YoloV8()


def minilm(attention: str) -> nn.Module:
    """Return MiniLM-L6 (BERT, hidden 384) with mean pooling left to its user."""
    _torchvision()
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        attn_implementation=attention,
    )
    return Wrapped(BertModel(config, add_pooling_layer=False), ("input_ids", "attention_mask"), "last_hidden_state")


def gpt2(attention: str) -> nn.Module:
    """Return a GPT-2 of 6 layers, hidden 512, with its language head and without cache."""
    _torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=16384,
        bos_token_id=0,
        eos_token_id=0,
        n_embd=512,
        n_layer=6,
        n_head=8,
        use_cache=False,
        attn_implementation=attention,
    )
    return Wrapped(GPT2LMHeadModel(config), ("input_ids", "attention_mask"), "logits")


def whisper(attention: str) -> nn.Module:
    """Return the encoder of Whisper tiny: 80×3000 log-mel values in, 1500×384 states out."""
    _torchvision()
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=384,
        encoder_layers=4,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        attn_implementation=attention,
    )
    return Wrapped(WhisperEncoder(config), ("input_features",), "last_hidden_state")


def initialize(network: nn.Module) -> None:
    """Draw weights that keep activations alive: scaled by fan-in, norms and layer scales unequal per channel."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.xavier_normal_(module.in_proj_weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
        elif isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
    for name, parameter in network.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.uniform_(parameter, 0.05, 0.5)
        elif name.endswith("relative_position_bias_table"):
            nn.init.normal_(parameter, 0.0, 0.5)


def settle(network: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    """Set every running mean and variance to those of `batches`, as training would have left them."""
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = None  # a plain average over the batches
        module.train()
    if norms:
        with torch.no_grad():
            for values in batches:
                network(*values)
    network.eval()


def tensors(feed: zoo_feeds.Feed) -> tuple[Tensor, ...]:
    """Return a feed's arrays as tensors, in order."""
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in feed.values())


def prepare(make: Callable[[], nn.Module], name: str, draw: zoo_feeds.Draw) -> nn.Module:
    """Return the network in evaluation mode, the same weights on every call."""
    torch.manual_seed(SEED)
    try:
        made = make()
    except ImportError as error:
        raise Unavailable(f"{name} needs {error.name}: pip install {error.name}") from error
    initialize(made)
    if hasattr(made, "settle_head"):
        made.settle_head()
    samples = list(zoo_feeds.feeds(f"{name} settles", draw, 16))
    settle(made, [tensors(zoo_feeds.batch(samples[start : start + 8])) for start in (0, 8)])
    return made
