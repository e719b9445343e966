"""Any interleaving of writes, drains and crashes against a model: a row for each intent, and the same totals."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.usage.cast import PRICE, STARTED, make_final, make_intent, settled_cost
from tests.usage.test_drain import list_outcomes, make_drainer
from tests.usage.test_journal import open_journal
from tokenhub.core.money import price_usage
from tokenhub.core.usage import Usage
from usage._journal_files import list_segments
from usage._journal_format import encode_final, encode_mark
from usage.appendonly import open_ledger_door
from usage.drain import Drainer
from usage.journal import Journal
from usage.models import JournalFile, UsageRecord
from usage.totals import get_total

pytestmark = pytest.mark.usefixtures("ledger")

STEPS = st.lists(
    st.one_of(
        st.just(("intent", 0)),
        st.just(("intent", 0)),
        st.tuples(st.just("final"), st.integers(0, 5)),
        st.tuples(st.just("final"), st.integers(0, 5)),
        st.tuples(st.just("final_again"), st.integers(0, 5)),
        st.just(("drain", 0)),
        st.just(("drain_and_die_before_deletion", 0)),
        st.just(("drainer_dies", 0)),
        st.just(("offsets_are_lost", 0)),
        st.tuples(st.just("writer_dies"), st.integers(0, 60)),
    ),
    max_size=40,
)


@dataclass
class Play:
    """The real parts and the model beside them: what was written, and what must come of it."""

    directory: Path
    journal: Journal = field(init=False)
    drainer: Drainer = field(init=False)
    started: int = 0
    open: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    torn: int = 0
    quarantined: int = 0

    def __post_init__(self) -> None:
        self.start_writer()
        self.drainer = make_drainer(self.directory, batch=3)

    def start_writer(self) -> None:
        self.journal = open_journal(self.directory, segment_bytes=3000)

    def intent(self, _: int) -> None:
        self.journal.intent(make_intent(self.started))
        self.expected[f"att-{self.started}"] = "unsettled"
        self.open.append(self.started)
        self.started += 1

    def final(self, place: int) -> None:
        if self.open:
            number = self.open.pop(place % len(self.open))
            self.journal.final(make_final(number))
            self.expected[f"att-{number}"] = "completed"
            self.finished.append(number)

    def final_again(self, place: int) -> None:
        if self.finished:
            self.journal.final(make_final(self.finished[place % len(self.finished)]))

    def drain(self, _: int) -> None:
        self.quarantined += self.drainer.drain_once().quarantined

    def drain_and_die_before_deletion(self, _: int) -> None:
        def die(path: Path) -> None:
            raise OSError("dies here")

        self.drainer.close()
        dying = make_drainer(self.directory, batch=2, remove=die)
        self.quarantined += dying.drain_once().quarantined
        dying.close()
        self.drainer = make_drainer(self.directory, batch=3)

    def drainer_dies(self, _: int) -> None:
        self.drainer.close()
        self.drainer = make_drainer(self.directory, batch=3)

    def offsets_are_lost(self, _: int) -> None:
        JournalFile.objects.all().delete()

    def writer_dies(self, torn: int) -> None:
        """A killed process writes no end mark; perhaps it leaves the beginning of a line."""
        self.journal.close()
        own = [name for name in list_segments(self.directory) if f"-{self.journal._epoch}-" in name.file_name]
        path = self.directory / own[-1].file_name
        os.truncate(path, path.stat().st_size - len(encode_mark(b"E")))
        if torn:
            with path.open("ab") as stream:
                stream.write(encode_final(make_final(0))[:torn])
            self.torn += 1
        self.open.clear()
        self.start_writer()

    def finish(self) -> None:
        self.journal.close()
        empty = self.drainer.drain_until_empty(60)
        self.quarantined += self.drainer.totals.quarantined
        self.drainer.close()
        assert empty


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_rows_and_totals_equal_the_model_whatever_happens(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        play = Play(Path(folder))
        try:
            for name, argument in steps:
                getattr(play, name)(argument)
        finally:
            play.finish()
        assert list_outcomes() == play.expected
        assert list(Path(folder).glob("*.journal")) == []
        kept = [line for path in Path(folder).glob("*.quarantine") for line in path.read_text().splitlines()]
        assert len(kept) == play.torn
    total = get_total(
        datetime.fromtimestamp(STARTED, UTC), datetime.fromtimestamp(STARTED, UTC) + timedelta(days=1)
    )
    done = [number for number in range(play.started) if play.expected[f"att-{number}"] == "completed"]
    lost = [number for number in range(play.started) if play.expected[f"att-{number}"] == "unsettled"]
    estimates = [price_usage(Usage(input=100 + number), PRICE) or 0 for number in lost]
    assert total.cost_nanos == sum(map(settled_cost, done)) + sum(estimates)
    assert total.usage["input"] == sum(1000 + number for number in done) + sum(
        100 + number for number in lost
    )
    assert (total.attempts, total.completed, total.estimated) == (play.started, len(done), len(lost))
    with open_ledger_door("the next example begins with an empty ledger"):
        UsageRecord.objects.all()._raw_delete("default")
