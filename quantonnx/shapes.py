"""How large the tensors of a model are, and how much its operators compute: estimates for costs and shares.

Shapes come from ONNX's own inference, on a copy of the graph without its weights. Dimensions that a model leaves open
are bound to typical numbers, so that a share of the work can be given for any model. Operators of ONNX Runtime's own
domain stand in the copy as the ONNX operator whose result has the same shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import prod

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

from quantonnx.exporting import export_node, export_value, is_plain
from quantonnx.following import LARGEST_VALUE, complete, unknown
from quantonnx.importing import Extras
from quantonnx.model import Model
from quantonnx.weights import payload, to_onnx_dtype

Shape = tuple[int | None, ...]

_BATCH, _IMAGE_SIDE, _LENGTH = 1, 224, 128
_NOTHING = Extras()

_STAND_INS: dict[str, tuple[str, tuple[int, ...] | slice]] = {
    "BiasGelu": ("Identity", (0,)),
    "ConvInteger": ("Conv", (0, 1)),
    "ConvTransposeInteger": ("ConvTranspose", (0, 1)),
    "DequantizeLinear": ("Cast", (0,)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "FastGelu": ("Identity", (0,)),
    "FusedConv": ("Conv", (0, 1)),
    "FusedGemm": ("Gemm", (0, 1)),
    "FusedMatMul": ("MatMul", (0, 1)),
    "Gelu": ("Identity", (0,)),
    "MatMulInteger": ("MatMul", (0, 1)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "MultiHeadAttention": ("Identity", (0,)),
    "NhwcFusedConv": ("Conv", (0, 1)),
    "QGemm": ("Gemm", (0, 3)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QLinearConv": ("Conv", (0, 3)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearLeakyRelu": ("Identity", (0,)),
    "QLinearMatMul": ("MatMul", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearSigmoid": ("Identity", (0,)),
    "QLinearSoftmax": ("Identity", (0,)),
    "QuantizeLinear": ("Identity", (0,)),
    "QuickGelu": ("Identity", (0,)),
    "SimplifiedLayerNormalization": ("Identity", (0,)),
    "SkipLayerNormalization": ("Identity", (0,)),
    "SkipSimplifiedLayerNormalization": ("Identity", (0,)),
}
"""Operators with another domain, or other numbers, than the one whose result has their shape: its inputs are theirs
at these places. Element types are of no interest here, so codes pass for the values that they mean."""

_OPERANDS = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "ConvTranspose": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "FusedConv": (0, 1),
    "FusedGemm": (0, 1),
    "FusedMatMul": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "MatMulNBits": (0, 1),
    "NhwcFusedConv": (0, 1),
    "QGemm": (0, 3),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "FusedConv", "NhwcFusedConv", "QLinearConv"})


def infer_shapes(model: Model, sizes: Mapping[str, Sequence[int]] | None = None) -> Mapping[str, Shape]:
    """Returns the shape of every tensor by name, as far as it can be known; unknown dimensions are None.

    `sizes` gives the shapes of graph inputs. Dimensions that stay open are taken as 1 for the first axis, 224 for the
    sides of an image (axes 2 and 3 of four), 128 for others; one name has one size everywhere. Never raises on a
    strange model: tensors of unknown rank are absent.
    """
    bound: dict[str, int] = {}
    inputs = [_bound_input(tensor, (sizes or {}).get(tensor.name), bound) for tensor in model.graph.inputs]
    shapes = _declared(model, bound)
    shapes |= {info.name: _dims(info.type) for info in inputs if info.type.tensor_type.HasField("shape")}
    with suppress(Exception):  # onnx raises several types, on models that a runtime may still take
        for name, kind in _inferred(_light_proto(model, inputs)).items():
            if kind.tensor_type.HasField("shape"):
                shapes[name] = _better(_dims(kind), shapes.get(name))
    return shapes


def multiply_accumulates(node: gs.Node, shapes: Mapping[str, Shape]) -> int:
    """Returns how many products of two numbers a node adds up: of convolutions, matrix products and attention.

    Padding counts as if it were there. 0 for every other operator, and where a shape is not known.
    """
    if node.op == "Attention" and not node.domain:
        return _attention(node, shapes)
    if node.op not in _OPERANDS:
        return 0
    first, second = (_of(shapes, node.inputs, place) for place in _OPERANDS[node.op])
    result = _of(shapes, node.outputs, 0)
    if node.op == "ConvTranspose":
        return _product(first) * _product(second[1:] if second else None)
    if node.op in _CONVOLUTIONS:
        return _product(result) * _product(second[1:] if second else None)
    depth = -2 if node.attrs.get("transA") and first and len(first) > 1 else -1
    return _product(result) * _product(first[depth:][:1] if first else None)


def _inferred(light: ModelProto) -> dict[str, TypeProto]:
    graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    types = {info.name: info.type for info in (*graph.value_info, *graph.output, *graph.input)}
    types |= {item.name: helper.make_tensor_type_proto(item.data_type, item.dims) for item in graph.initializer}
    if unknown(light, types):
        complete(light, types)
    return types


def _attention(node: gs.Node, shapes: Mapping[str, Shape]) -> int:
    """Two products: the queries with every key, and the weights with every value."""
    query, key, past = (_of(shapes, node.inputs, place) for place in (0, 1, 4))
    result = _of(shapes, node.outputs, 0)
    length = (key[-2:-1] if key else None, past[-2:-1] if past else (0,))
    return sum(map(_product, length)) * (_product(query) + _product(result)) if key else 0


def _of(shapes: Mapping[str, Shape], values: Sequence[gs.Tensor], place: int) -> Shape | None:
    return shapes.get(values[place].name) if place < len(values) else None


def _product(shape: Shape | None) -> int:
    return 0 if shape is None else prod(size or 0 for size in shape)


def _bound_input(tensor: gs.Tensor, given: Sequence[int] | None, bound: dict[str, int]) -> ValueInfoProto:
    """Returns a graph input with a number for every dimension; `bound` remembers the numbers of names."""
    if tensor.shape is None and given is None:
        return _info(tensor, None)
    dims = list(tensor.shape) if tensor.shape is not None else [None] * len(given or ())
    if given is not None and len(given) == len(dims):
        bound.update((dim, int(size)) for dim, size in zip(dims, given, strict=True) if isinstance(dim, str))
        return _info(tensor, [int(size) for size in given])
    sizes = [_size(dim, axis, len(dims), bound) for axis, dim in enumerate(dims)]
    return _info(tensor, sizes)


def _size(dim: int | str | None, axis: int, rank: int, bound: dict[str, int]) -> int:
    if isinstance(dim, int) and dim >= 0:
        return dim
    typical = _BATCH if axis == 0 else _IMAGE_SIDE if rank == 4 and axis in (2, 3) else _LENGTH
    return bound.setdefault(dim, typical) if isinstance(dim, str) and dim else typical


def _declared(model: Model, bound: Mapping[str, int]) -> dict[str, Shape]:
    """The shapes that the file itself gives."""
    return {
        name: tuple(bound.get(dim) if isinstance(dim, str) else _known(dim) for dim in tensor.shape)
        for name, tensor in model.tensors().items()
        if tensor.shape is not None
    }


def _known(dim: int | None) -> int | None:
    return int(dim) if dim is not None and dim >= 0 else None


def _dims(kind: TypeProto) -> Shape:
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.tensor_type.shape.dim)


def _better(inferred: Shape, declared: Shape | None) -> Shape:
    if declared is None or len(declared) != len(inferred):
        return inferred
    return tuple(known if size is None else size for size, known in zip(inferred, declared, strict=True))


def _light_proto(model: Model, inputs: Iterable[ValueInfoProto]) -> ModelProto:
    """The graph without weights, without types that the file gives to inner values, and with stand-ins."""
    proto = ModelProto(ir_version=10)
    proto.graph.name = "light"
    domains = {entry.domain: entry.version for entry in model.graph.import_domains or ()}
    for domain, version in (domains | {"": model.opset}).items():
        proto.opset_import.add(domain=domain, version=version)
    graph = proto.graph
    graph.input.extend(inputs)
    graph.output.extend(ValueInfoProto(name=tensor.name) for tensor in model.graph.outputs)
    _add_constants(graph, model)
    for node in model.graph.nodes:
        _add_node(graph, node)
    return proto


def _add_constants(graph: GraphProto, model: Model) -> None:
    for tensor in model.tensors().values():
        if isinstance(tensor, gs.Constant):
            _add_constant(graph, tensor, tensor.name)


def _add_constant(graph: GraphProto, constant: gs.Constant, name: str) -> None:
    if prod(constant.shape) > LARGEST_VALUE or not is_plain(constant):
        info = export_value(constant, _NOTHING)
        info.name = name
        graph.input.append(info)
        return
    part = payload(constant)
    tensor = graph.initializer.add()
    tensor.CopyFrom(part.header)
    tensor.name = name
    if part.size:
        tensor.raw_data = b"".join(part.checked())


def _add_node(graph: GraphProto, node: gs.Node) -> None:
    held = node.attrs.get("value") if node.op == "Constant" else None
    if isinstance(held, gs.Constant):
        _add_constant(graph, held, node.outputs[0].name)
        return
    stand_in = _STAND_INS.get(node.op)
    if stand_in is not None:
        graph.node.append(_stand_in(node, *stand_in))
        return
    graph.node.append(export_node(node, _NOTHING))
    if node.domain:  # nothing infers these, so that what the file says helps those after them
        graph.value_info.extend(_info(tensor, tensor.shape) for tensor in node.outputs if tensor.shape is not None)


def _stand_in(node: gs.Node, op: str, places: tuple[int, ...] | slice) -> NodeProto:
    inputs = (
        node.inputs[places]
        if isinstance(places, slice)
        else [node.inputs[place] for place in places if place < len(node.inputs)]
    )
    proto = NodeProto(op_type=op, name=node.name)
    proto.input.extend(tensor.name for tensor in inputs)
    proto.output.extend(tensor.name for tensor in node.outputs[:1])
    if op == "Cast":
        proto.attribute.add(name="to", type=AttributeProto.INT, i=TensorProto.FLOAT)
    else:
        proto.attribute.extend(_kept_attributes(node, op))
    return proto


def _kept_attributes(node: gs.Node, op: str) -> Iterator[AttributeProto]:
    known = onnx.defs.get_schema(op).attributes
    for attribute in export_node(node, _NOTHING).attribute:
        if attribute.name in known:
            yield attribute


def _info(tensor: gs.Tensor, shape: Sequence[int | str | None] | None) -> ValueInfoProto:
    info = ValueInfoProto(name=tensor.name)
    info.type.tensor_type.elem_type = TensorProto.FLOAT if tensor.dtype is None else to_onnx_dtype(tensor.dtype)
    if shape is None:
        return info
    info.type.tensor_type.shape.SetInParent()
    for size in shape:
        dim = info.type.tensor_type.shape.dim.add()
        if isinstance(size, str):
            dim.dim_param = size
        elif size is not None and size >= 0:
            dim.dim_value = int(size)
    return info
