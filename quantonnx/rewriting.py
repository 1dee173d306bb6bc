"""Apply a plan: conversions until nothing changes, then fusions once, the longest first.

Both are linear in the graph: conversions run over a work list that holds only what an edit touched, fusions claim
nodes greedily, and every step is found by the name of the value that it gives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from quantonnx.bodies import open_bodies, put_back
from quantonnx.collecting import uncollected
from quantonnx.editing import Rewriter
from quantonnx.errors import PatternError, PlanError
from quantonnx.fusions import find_fusions, overlap, step_of
from quantonnx.matching import Matcher
from quantonnx.model import Model
from quantonnx.pattern import Pattern
from quantonnx.pattern_index import PatternIndex
from quantonnx.plan import Plan, Step
from quantonnx.target import Patterns, Target, get_target, load_patterns, named_target

Source = str | Path | bytes | onnx.ModelProto | Model


@dataclass
class Matches(Sequence[Step]):
    """The fusions found in a model, each of which can be switched off: `matches[3].apply = False`.

    `bodies` are those in the bodies of control flow, by the body's name (`Loop_12/body`); `elsewhere` are the names of
    what other graphs of the file hold, which rules of a configuration may mean.
    """

    steps: list[Step]
    target: Target
    bodies: dict[str, Matches] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()

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
    inner = _transform_bodies(model, chosen, plan)
    plan = replace(plan, bodies={name: done.plan for name, done in inner.items()})
    steps = plan.conversions + plan.fusions + [step for done in inner.values() for step in done.plan.every_step()]
    applied = [step for step in steps if step.apply]
    counts: dict[str, int] = {}
    for step in applied:
        counts[step.pattern] = counts.get(step.pattern, 0) + 1
    report = Report(applied, [step for step in steps if not step.apply], counts)
    matches = Matches(plan.fusions, chosen, {name: done.matches for name, done in inner.items()})
    return Transformed(model, matches, report, plan)


def _transform_bodies(model: Model, target: Target, plan: Plan) -> dict[str, Transformed]:
    """Transforms the bodies of control flow in their places; one that the plan does not know is planned now."""
    done: dict[str, Transformed] = {}
    for body in list(open_bodies(model)):
        if body.model is not None:
            done[body.name] = transform(body.model, target=target, plan=plan.bodies.get(body.name))
    put_back(model, ((name, each.model) for name, each in done.items()))
    return done


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
    bodies = {body.name: _plan(body.model, target, body.name) for body in open_bodies(model) if body.model is not None}
    return Plan(name, target.name, conversions, find_fusions(model, target), bodies=bodies)


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
        done.append(step_of(found))
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
            step.apply, step.reason = False, overlap(winner)
            continue
        owner.update((id(part), step) for part in found.nodes)
        found.rewrite(editor)
        if found.result.inputs:
            producers[step.output] = found.result.inputs[0]
    model.sort()


def _why_not(matcher: Matcher, pattern: type[Pattern] | None, node: gs.Node | None, step: Step) -> str:
    if pattern is None:
        return f"the target has no pattern {step.pattern}"
    if node is None:
        return f"the model has no value {step.output!r}"
    return matcher.why_not(pattern, node) or "it no longer holds on this model"


def _producers(model: Model) -> dict[str, gs.Node]:
    return {output.name: node for node in model.graph.nodes for output in node.outputs if output.name}
