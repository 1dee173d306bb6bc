"""Transforms the small models of tests for a target that has every pattern of transformers, and checks the result."""

from __future__ import annotations

import onnx
from models import assert_same_results, parse
from quantonnx.patterns.activation import gelus
from quantonnx.patterns.attention import attentions
from quantonnx.patterns.conversions import conversions
from quantonnx.patterns.linear import embeddings
from quantonnx.patterns.normalization import normalizations

from quantonnx.config import QuantConfig
from quantonnx.matching import Matcher
from quantonnx.placement import place
from quantonnx.rewriting import Transformed, transform
from quantonnx.sites import Site
from quantonnx.target import Target, get_target

TARGET = get_target("tensorrt").with_patterns((*attentions, *normalizations, *gelus, *embeddings))


def transformed(proto: onnx.ModelProto, target: Target = TARGET) -> Transformed:
    """Returns the transformed model, after asserting that it computes the same under the same name."""
    done = transform(proto, target=target)
    assert_same_results(proto, done.model)
    assert [output.name for output in done.model.graph.outputs] == [output.name for output in proto.graph.output]
    return done


def sites(graph: str, *, target: Target = TARGET) -> list[Site]:
    """Returns where pairs stand in the model of a graph."""
    done = transform(parse(graph), target=target)
    return list(place(done.model, done.matches, QuantConfig()).sites)


def fused(done: Transformed) -> list[str]:
    """Returns the patterns that were applied, in the order of the graph."""
    return [step.pattern for step in done.matches if step.apply]


def converted(graph: str, *, opset: int = 17, outputs: tuple[str, ...] = ("y",)) -> Transformed:
    """Returns the transformed model, after asserting that it computes the same, under the same names, and is finished."""
    proto = parse(graph, opset=opset)
    done = transform(proto, target="tensorrt")
    assert_same_results(proto, done.model)
    assert [output.name for output in done.model.graph.outputs] == list(outputs)
    matcher = Matcher(done.model)
    left = [c.__name__ for c in conversions for node in done.model.graph.nodes if matcher.match(c, node)]
    assert not left
    return done


def taken(done: Transformed) -> list[str]:
    """Returns the conversions that were applied, in their order."""
    return [step.pattern for step in done.plan.conversions]
