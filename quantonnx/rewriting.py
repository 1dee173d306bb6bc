"""Apply a plan: conversions until nothing changes, then fusions once, the longest first.

Both are linear in the graph: conversions run over a work list that holds only what an edit touched, fusions claim
nodes greedily, and every step is found by the name of the value that it gives.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from quantonnx.collecting import uncollected
from quantonnx.declarations import largest
from quantonnx.editing import Rewriter
from quantonnx.errors import PatternError, PlanError
from quantonnx.matching import Matcher
from quantonnx.model import Model
from quantonnx.pattern import Pattern
from quantonnx.pattern_index import PatternIndex
from quantonnx.plan import Plan, Step
from quantonnx.target import Patterns, Target, get_target, load_patterns, named_target

Source = str | Path | bytes | onnx.ModelProto | Model


@dataclass
class Matches(Sequence[Step]):
    """The fusions found in a model, each of which can be switched off: `matches[3].apply = False`."""

    steps: list[Step]
    target: Target

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's overloads add nothing here
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def resolve(self, model: Model) -> Iterator[tuple[Step, Pattern]]:
        """Yields each applied step with its match in `model`, in the order of the steps."""
        matcher = Matcher(model)
        producers = _producers(model)
        for step in self.steps:
            node = producers.get(step.output)
            if step.apply and node is not None:
                found = matcher.match(self.target.names[step.pattern], node)
                if found is not None:
                    yield step, found


@dataclass(frozen=True)
class Report:
    """What `transform` did: steps applied, steps skipped with a reason, and how often each pattern was applied."""

    applied: list[Step]
    skipped: list[Step]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Transformed:
    """A fused float model, the matches in it, and what was done."""

    model: Model
    matches: Matches
    report: Report
    plan: Plan


@uncollected()
def make_plan(
    source: Source, *, target: str | Path | Target = "tensorrt", patterns: str | Path | Patterns = ()
) -> Plan:
    """Returns what would be done to a model for a target, without doing it.

    `patterns` are a user's own, or the path of a file that declares them; they are tried before the target's.
    """
    chosen = choose_target(target, patterns)
    model = Model.read(source)
    return _plan(model, chosen, _shown_source(source))


@uncollected()
def transform(
    source: Source,
    *,
    target: str | Path | Target | None = None,
    patterns: str | Path | Patterns = (),
    plan: Plan | None = None,
) -> Transformed:
    """Returns the fused float model of a target: same results, its operators folded as the compiler folds them.

    Without `target` it is the plan's, or tensorrt. With `plan`, exactly its applied steps are taken; one that no longer
    holds is reported as skipped, with the reason.
    """
    chosen = choose_target(target, patterns, plan)
    model = Model.read(source)
    if plan is None:
        plan = _plan(model, chosen, _shown_source(source))
    else:
        plan = replace(plan, conversions=_convert(model, chosen, plan), fusions=[replace(s) for s in plan.fusions])
    _fuse(model, chosen, plan.fusions)
    steps = plan.conversions + plan.fusions
    applied = [step for step in steps if step.apply]
    counts: dict[str, int] = {}
    for step in applied:
        counts[step.pattern] = counts.get(step.pattern, 0) + 1
    report = Report(applied, [step for step in steps if not step.apply], counts)
    return Transformed(model, Matches(plan.fusions, chosen), report, plan)


def choose_target(
    target: str | Path | Target | None, patterns: str | Path | Patterns = (), plan: Plan | None = None
) -> Target:
    """Returns the target asked for, else the plan's, else tensorrt, with the user's patterns before its own."""
    planned = plan.target if plan is not None else ""
    chosen = get_target(target) if target else named_target(planned or "tensorrt")
    if planned and target and chosen.name != planned:
        raise PlanError(f"the plan is for {planned}, not {chosen.name}", "leave the target out, or plan again")
    if isinstance(patterns, (str, Path)):
        patterns = load_patterns(patterns)
    return chosen.with_patterns(patterns) if patterns else chosen


def _plan(model: Model, target: Target, name: str) -> Plan:
    conversions = _convert(model, target, None)
    return Plan(name, target.name, conversions, _find_fusions(model, target))


def _shown_source(source: Source) -> str:
    return Path(source).name if isinstance(source, (str, Path)) else ""


def _convert(model: Model, target: Target, plan: Plan | None) -> list[Step]:
    wanted = None if plan is None else {(s.pattern, s.output): s for s in plan.conversions}
    editor, matcher, index = Rewriter(model), Matcher(model), PatternIndex(target.conversions)
    queue = deque(model.graph.nodes)
    budget = 10 * len(queue) + 1000
    done: list[Step] = []
    while queue:
        node = queue.popleft()
        found = next((m for p in index.fitting(node) if (m := matcher.match(p, node)) and _allowed(m, wanted)), None)
        if found is None:
            continue
        if len(done) >= budget:
            raise PatternError(f"conversion {type(found).__name__} never ends", "its rewrite must not match again")
        done.append(_step(found))
        editor.touched.clear()
        found.rewrite(editor)
        for touched in editor.touched:
            queue.append(touched)
            queue.extend(reader for output in touched.outputs for reader in output.outputs)
    if done:
        model.sort()
    if wanted:
        taken = {(step.pattern, step.output) for step in done}
        done += [_skipped(step) for key, step in wanted.items() if key not in taken]
    return done


def _skipped(step: Step) -> Step:
    return step if not step.apply else replace(step, apply=False, reason="it no longer holds on this model")


def _allowed(found: Pattern, wanted: dict[tuple[str, str], Step] | None) -> bool:
    if wanted is None:
        return True
    step = wanted.get((type(found).__name__, found.result.name))
    return step is not None and step.apply


def _step(found: Pattern) -> Step:
    nodes = tuple(node.name for node in reversed(found.nodes))
    points = tuple(point.role.name for point in found.qdq_points)
    return Step(type(found).__name__, found.result.name, nodes, points)


def _find_fusions(model: Model, target: Target) -> list[Step]:
    """Finds the fusions, the longest first.

    From the outputs up, a node inside a match is not tried as the end of one that can only be shorter, unless the
    match around it loses.
    """
    candidates = _Candidates(model, target)
    owner: dict[int, Step] = {}
    kept: list[tuple[int, Step]] = []
    while (entry := candidates.pop()) is not None:
        match, position = entry
        owners = [owner.get(id(node)) for node in match.nodes]
        winner = next((taken for taken in owners if taken is not None), None)
        if winner is None:
            step = _step(match)
            owner.update((id(node), step) for node in match.nodes)
        elif all(owners):
            continue  # inside a longer match, or covered by several: nothing to decide
        else:
            reason = _overlap(winner)
            step = replace(_step(match), apply=False, reason=reason)
            candidates.try_inside(match)
        kept.append((position, step))
    return [step for _, step in sorted(kept, key=lambda entry: entry[0])]


class _Candidates:
    """Matches in the order in which they are taken: more nodes first, then the order of the graph and of patterns."""

    def __init__(self, model: Model, target: Target) -> None:
        self._matcher, self._index = Matcher(model), PatternIndex(target.patterns)
        self._positions = {id(node): position for position, node in enumerate(model.graph.nodes)}
        self._around: dict[int, int] = {}  # the size of the longest match so far around each inner node
        self._heap: list[tuple[int, int, int, Pattern]] = []
        self._found: set[tuple[int, int]] = set()
        for node in reversed(model.graph.nodes):
            self._try(node, longer_than=self._around.get(id(node), 0))

    def pop(self) -> tuple[Pattern, int] | None:
        """Returns the next match and the position of its last node."""
        if not self._heap:
            return None
        _, position, _, match = heapq.heappop(self._heap)
        return match, position

    def try_inside(self, match: Pattern) -> None:
        """Tries the nodes inside a match that lost as the ends of shorter matches."""
        for node in match.nodes:
            if node.outputs[0] is not match.result:
                self._try(node, longer_than=0)

    def _try(self, node: gs.Node, *, longer_than: int) -> None:
        for order, pattern in enumerate(self._index.fitting(node)):
            if longer_than and len(largest(pattern.root)) <= longer_than:
                continue
            place = (self._positions[id(node)], order)
            match = self._matcher.match(pattern, node) if place not in self._found else None
            if match is not None and (size := len(match.binding.nodes)) > longer_than:
                self._found.add(place)
                heapq.heappush(self._heap, (-size, *place, match))
                for inner in match.nodes:
                    if inner is not node:
                        self._around[id(inner)] = max(size, self._around.get(id(inner), 0))


def _fuse(model: Model, target: Target, steps: Sequence[Step]) -> None:
    editor, matcher, producers = Rewriter(model), Matcher(model), _producers(model)
    owner: dict[int, Step] = {}  # nodes stay in the graph's list until the end, so that an identity means one node
    for step in steps:
        if not step.apply:
            continue
        pattern = target.names.get(step.pattern)
        node = producers.get(step.output)
        found = matcher.match(pattern, node) if pattern is not None and node is not None else None
        if found is None:
            step.apply, step.reason = False, _why_not(matcher, pattern, node, step)
            continue
        winner = next((owner[id(part)] for part in found.nodes if id(part) in owner), None)
        if winner is not None:
            step.apply, step.reason = False, _overlap(winner)
            continue
        owner.update((id(part), step) for part in found.nodes)
        found.rewrite(editor)
        if found.result.inputs:
            producers[step.output] = found.result.inputs[0]
    model.sort()


def _overlap(winner: Step) -> str:
    return f"overlaps {winner.pattern} at {winner.output!r}, which comes first"


def _why_not(matcher: Matcher, pattern: type[Pattern] | None, node: gs.Node | None, step: Step) -> str:
    if pattern is None:
        return f"the target has no pattern {step.pattern}"
    if node is None:
        return f"the model has no value {step.output!r}"
    return matcher.why_not(pattern, node) or "it no longer holds on this model"


def _producers(model: Model) -> dict[str, gs.Node]:
    return {output.name: node for node in model.graph.nodes for output in node.outputs if output.name}
