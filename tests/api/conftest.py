"""For the tests of the front end: whatever a test does, it leaves this thread's recording state clean."""

import pytest

from tapejit.record import open_records, state


@pytest.fixture(autouse=True)
def clean_thread():
    yield
    left = (list(state.records), list(state.tapes), state.base, int(open_records[0]))
    state.records.clear()  # one failure should not fail all tests after it
    state.tapes.clear()
    state.base, open_records[0] = None, 0
    assert left == ([], [], None, 0)
