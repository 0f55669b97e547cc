"""What commands answer, as facts for machines and as lines and tables for people."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.table import Table

from obliviate.cli.exports import exports_table, still_held
from obliviate.cli.output import DONE, FAILED, Answer
from obliviate.ledger.facts import OUTSIDE
from obliviate.text import counted, decimal, duration, measured, moment, percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from _typeshed import DataclassInstance

    from obliviate.chain.verification import Verification
    from obliviate.desk import Queue
    from obliviate.erasure.plan import Plan
    from obliviate.erasure.results import Erasure, Extension, Failure, Status, Work
    from obliviate.evidence import Evidence
    from obliviate.lab import Retraining
    from obliviate.ledger import RequestFacts
    from obliviate.ledger.outcome import Ending

_MOST_LISTED = 12


def facts_of(result: DataclassInstance) -> dict[str, Any]:
    """What a result holds, by name."""
    return {each.name: getattr(result, each.name) for each in fields(result)}


def facts_table(rows: Iterable[tuple[str, object]]) -> Table:
    """Names and values, a line each."""
    table = Table.grid(padding=(0, 3))
    for name, value in rows:
        table.add_row(name, str(value))
    return table


def listed(items: Sequence[object]) -> str:
    """Items in a row, the first few of many."""
    shown = ", ".join(map(str, items[:_MOST_LISTED]))
    return f"{shown}, ... ({len(items)} in all)" if len(items) > _MOST_LISTED else shown or "none"


def ranges(segments: Iterable[tuple[int, int]]) -> str:
    """Segments in words."""
    return listed([str(a) if a == b else f"{a}-{b}" for a, b in segments])


def of_plan(plan: Plan) -> Answer:
    """The answer to `preview`."""
    facts = facts_of(plan)
    rows = [
        ("method", plan.method),
        ("records to erase", f"{len(plan.records)}: {listed(plan.records)}"),
        ("erased before", len(plan.ignored)),
        ("blocks that hold them", listed(plan.unreached + plan.affected)),
        ("blocks to replay", f"{plan.blocks_replayed} of {plan.blocks}: {ranges(plan.segments)}"),
        ("expected to take", duration(plan.seconds)),
        ("exactly, it would take", duration(plan.seconds_exact)),
    ]
    return Answer(
        facts=facts | {"blocks_replayed": plan.blocks_replayed},
        shown=[facts_table(rows), "nothing was changed"],
    )


def of_erasure(erasure: Erasure, picture: Path | None) -> Answer:
    """The answer to `forget` and `settle`."""
    facts = erasure.facts()
    if erasure.number is None:
        line = f"there was nothing to do; the model is {erasure.guarantee}"
        return Answer(facts=facts | {"picture": None}, shown=[line])
    tail = erasure.predicted_tail
    rows: list[tuple[str, object]] = [
        ("erasure", erasure.number),
        ("method", erasure.method),
        ("records erased", erasure.records),
        ("blocks replayed", _replayed(erasure)),
        ("stopped because", erasure.stop_reason),
        ("seconds", f"{erasure.seconds:.2f} (a full retrain: {erasure.speedup:.1f} times that)"),
        *([("predicted rest", f"{tail:.3f} (an estimate, no bound)")] if tail is not None else []),
        *[("begun again", each) for each in erasure.too_shallow],
        *_function_rows(erasure),
        *(_ending_rows(erasure.ending) if erasure.ending else []),
        ("guarantee", erasure.guarantee),
        ("digest", erasure.digest),
        *([("picture", picture)] if picture else []),
    ]
    shown: list[Any] = [facts_table(rows), *_condemned(erasure.condemned)]
    return Answer(facts=facts | {"picture": picture}, shown=shown)


def _condemned(count: int) -> list[str]:
    """What there is to say of objects that could not be destroyed altogether yet."""
    if not count:
        return []
    return [
        f"of {counted(count, 'destroyed object')} keys and hashes are still in the ledger's file: "
        "another process keeps reading from before; the next call that writes tries again"
    ]


def _function_rows(erasure: Erasure) -> list[tuple[str, object]]:
    """What was measured of the trace as a function, where it was."""
    rows: list[tuple[str, object]] = []
    for name, memory in (
        ("functional memory", erasure.functional_memory),
        ("the same, controls", erasure.control_memory),
    ):
        if memory:
            rows.append((name, listed([decimal(value) for value in memory])))
    for stitch in erasure.stitches:
        rows.append((f"stitched {stitch.after + 1}-{stitch.until}", f"ρ = {stitch.rho:.3f}"))
        if stitch.predicted is not None:
            rows.append(
                (
                    "predicted residue",
                    f"{stitch.predicted:.3f} ({decimal(stitch.low)} to {decimal(stitch.high)}); "
                    f"reached {decimal(stitch.reached)}",
                )
            )
        if erasure.ending is None or stitch.verdict != erasure.ending.verdict:
            rows.append(("check", stitch.verdict))
    return rows


def _ending_rows(ending: Ending) -> list[tuple[str, object]]:
    """Where the erased records ended, and at what cost."""
    was, now = ending.reference
    elsewhere = f"mean score {was:.3f} before, {now:.3f} after"
    if ending.accuracy is not None:
        was, now = ending.accuracy
        elsewhere += f"; accuracy {percent(was)} before, {percent(now)} after"
    return [
        (
            "target",
            f"{decimal(ending.target)} ({decimal(ending.low)} to {decimal(ending.high)}, an "
            f"interval of {ending.level:.0%}), read off {counted(ending.references, 'reference')}",
        ),
        (
            "erased records",
            f"mean score {decimal(ending.before)} before, {decimal(ending.reached)} after; "
            f"{percent(ending.inside)} of them in an interval of their own",
        ),
        ("with a wrong target", f"{percent(ending.wrong)} of them, as far as can be told"),
        ("references", elsewhere),
        ("check", ending.verdict),
    ]


def _replayed(erasure: Erasure) -> str:
    return f"{erasure.blocks_replayed} of {erasure.blocks_total}: {ranges(erasure.segments)}"


def of_request(request: RequestFacts) -> Answer:
    """The answer to `request` and `refuse`."""
    rows = [
        ("request", request.id),
        ("state", request.state),
        ("records named", request.records),
        ("received", moment(request.received)),
        ("due", moment(request.due)),
        ("method", request.method["name"]),
        *([("reason", request.reason)] if request.reason else []),
    ]
    facts = facts_of(request)
    return Answer(facts=facts, shown=[facts_table(rows)])


def of_queue(queue: Queue) -> Answer:
    """The answer to `queue`."""
    facts = facts_of(queue)
    table = Table("no.", "state", "due", "method", "records", "blocks", "alone it takes")
    for each in queue.waiting:
        request = each.request
        cells = (request.id, request.state, moment(request.due), request.method["name"])
        plan = (len(each.plan.records), ranges(each.plan.segments), duration(each.plan.seconds))
        table.add_row(*map(str, (*cells, *plan)))
    for request in queue.unsettled:
        cells = (request.id, request.state, moment(request.due), request.method["name"])
        table.add_row(*map(str, (*cells, request.records, "-", "-")))
    exports = still_held(queue.exports)
    if not table.row_count:
        return Answer(facts=facts, shown=["no request waits", *exports])
    rows = [
        ("one after the other", duration(queue.seconds_alone)),
        ("together", duration(queue.seconds_together)),
        ("one exact replay for all", duration(queue.seconds_exact)),
        ("it has to begin by", moment(queue.settle_by) if queue.settle_by else "-"),
    ]
    now = [
        f"`work` would now carry out {listed(step.requests)} by {step.method['name']}: "
        f"{step.reason}"
        if step.requests
        else f"`work` would now settle: {step.reason}"
        for step in queue.steps
    ]
    return Answer(
        facts=facts | {"seconds_saved": queue.seconds_saved},
        shown=[table, facts_table(rows), *(now or ["`work` would now do nothing"]), *exports],
    )


def of_work(work: Work, requests: Sequence[RequestFacts]) -> Answer:
    """The answer to `work`; requests that could not be carried out make it a failure."""
    facts = {
        "erasures": [one.facts() for one in work],
        "failed": [_failure(each) for each in work.failed],
        "requests": list(requests),
    }
    failures = [_failed(each) for each in work.failed]
    code = FAILED if failures else DONE
    if not work:
        return Answer(facts=facts, shown=failures or ["there was nothing to do now"], code=code)
    table = Table("erasure", "method", "records", "blocks replayed", "guarantee", "requests")
    for one in work:
        its = [each.id for each in requests if each.erasure == one.number]
        cells = (one.number, one.method, one.records, _replayed(one), one.guarantee, listed(its))
        table.add_row(*map(str, cells))
    return Answer(facts=facts, shown=[table, *failures], code=code)


def _failure(failure: Failure) -> dict[str, Any]:
    error = failure.error
    return {
        "requests": failure.requests,
        "error": getattr(error, "message", f"{type(error).__name__}: {error}"),
        "hint": getattr(error, "hint", ""),
    }


def _failed(failure: Failure) -> str:
    reason = _failure(failure)
    who = (
        f"request {listed(failure.requests)} could not be carried out and goes on waiting"
        if failure.requests
        else "what was to be done was not done to its end"
    )
    return f"{who}: {reason['error']}" + (f" ({reason['hint']})" if reason["hint"] else "")


def of_status(status: Status) -> Answer:
    """The answer to `status`."""
    facts = facts_of(status)
    rows: list[tuple[str, object]] = [
        ("records", f"{status.records}, of which erased or left out: {status.erased}"),
        *_of_training(status),
        ("guarantee", status.guarantee or "none: the training is not finished"),
        ("digest", status.digest or "-"),
        ("journal head", status.journal_head),
    ]
    if status.base:
        rows.insert(-1, ("digest of its frozen base", status.base))
    if status.caveat:
        rows.append(("what that is", status.caveat))
    if status.returned:
        again = "the run is an older copy, and the next call that writes leaves them out again"
        rows.append(("erased before", f"{counted(status.returned, 'record')}: {again}"))
    if status.first_approximate is not None:
        rows.append(("first approximate block", status.first_approximate))
        rows.append(("settling would take", duration(status.seconds_to_settle)))
    shown: list[Any] = [facts_table(rows)]
    if status.erasures:
        table = Table("no.", "kind", "state", "method", "records", "received", title_justify="left")
        for each in status.erasures:
            method = str(each.method["name"])
            cells = (each.id, each.kind, each.state, method, each.records, moment(each.started))
            table.add_row(*map(str, cells))
        shown.append(table)
    outside = [each for each in status.exports if each.state in OUTSIDE]
    if outside:
        shown.append(exports_table(outside))
    shown += [*still_held(status.exports), *_condemned(status.condemned)]
    if any(each.state == "running" for each in status.erasures):
        shown.append("an erasure is not finished: call the same command again to finish it")
    return Answer(facts=facts, shown=shown)


def _of_training(status: Status) -> Iterator[tuple[str, object]]:
    yield "blocks trained on", f"{status.blocks_done} of {status.blocks}"
    if status.given_up:
        yield "ended early", f"by {counted(status.given_up, 'epoch')}"
    if status.evaluations:
        block, values = max(status.evaluations.items())
        yield f"measured after block {block}", measured(values)


def of_extension(extension: Extension, status: Status) -> Answer:
    """The answer to `extend`: how the run stands, and which new records were left out."""
    standing = of_status(status)
    facts = facts_of(extension)
    rows = [
        ("left out as asked", extension.excluded),
        ("left out, for they were erased before", extension.reingested),
        ("left out, for their people wait to be forgotten", extension.requested),
    ]
    lines = [f"{name}: records {listed(ids)}" for name, ids in rows if ids]
    return Answer(facts={**standing.facts, "extension": facts}, shown=[*standing.shown, *lines])


def of_verification(check: Verification) -> Answer:
    """The answer to `verify`."""
    facts = facts_of(check)
    shown = [f"{counted(len(check.reproduced), 'block')} reproduced, bit for bit"]
    if check.rebuilt:
        shown.insert(0, f"lost objects made again: blocks {listed(check.rebuilt)}")
    if check.skipped:
        shown.append(
            f"{counted(len(check.skipped), 'block')} skipped, which replaying cannot reproduce: "
            f"{listed(list(check.skipped))}"
        )
    shown += [f"block {block} failed: {reason}" for block, reason in check.failed.items()]
    shown += [f"block {block}, data: {reason}" for block, reason in check.changed.items()]
    shown += [f"the ledger was changed from outside: {fault}" for fault in check.journal]
    return Answer(
        facts=facts | {"passed": check.passed},
        shown=shown,
        code=DONE if check.passed else FAILED,
    )


def of_retraining(audit: Retraining) -> Answer:
    """The answer to `audit`."""
    facts = facts_of(audit)
    table = Table("", "this run", "trained without the erased records")
    table.add_row("digest", audit.digest[:12], audit.digest_retrained[:12])
    table.add_row("test accuracy", percent(audit.accuracy), percent(audit.accuracy_retrained))
    verdicts = {
        "passed": "passed: bit for bit the same model",
        "failed": "FAILED: the run claims to be exact, but training without the erased records "
        "gave another model",
        "compared": "approximate: compared, not proved",
    }
    shown: list[Any] = [
        f"trained again without {counted(audit.left_out, 'record')}, in {duration(audit.seconds)}",
        table,
        f"distance of the parameters: {audit.distance:.6f} (L1, relative to the retrained model's)",
    ]
    shown += [
        f"the environment changed since the run was made: {name} was {then}, is {now}; "
        "that alone can change digests"
        for name, (then, now) in audit.changed_environment.items()
    ]
    return Answer(
        facts=facts | {"passed": None if audit.verdict == "compared" else audit.passed},
        shown=[*shown, verdicts[audit.verdict]],
        code=DONE if audit.passed else FAILED,
    )


def of_evidence(evidence: Evidence, page: Path) -> Answer:
    """The answer to `report`."""
    facts = facts_of(evidence)
    return Answer(facts=facts | {"page": page}, shown=[f"the report is in {page}"])
