"""The tables of transaction.py against RFC 3261 figures 5 to 8 with RFC 6026, read both ways."""

import pytest

from imsalg.sip.transaction import (
    CLIENT_INVITE,
    CLIENT_NON_INVITE,
    MACHINES,
    SERVER_INVITE,
    SERVER_NON_INVITE,
    T2,
    T4,
    Machine,
    State,
    Timer,
    delay,
    signal_of,
)

# The arrows of the figures, drawn once more: state, event, actions, next state; "+" marks those beyond them.
FIGURES = {
    CLIENT_INVITE.name: """
        Calling    | Timer A        | send              | Calling
        Calling    | Timer B        | inform TU         | Terminated
        Calling    | Transport Err. | inform TU         | Terminated
        Calling    | 1xx            | to TU             | Proceeding
        Calling    | 2xx            | to TU             | Accepted
        Calling    | 300-699        | send ACK, to TU   | Completed
        Proceeding | 1xx            | to TU             | Proceeding
        Proceeding | 2xx            | to TU             | Accepted
        Proceeding | 300-699        | send ACK, to TU   | Completed
        Proceeding | Timer CANCEL   | inform TU         | Terminated  +
        Calling    | Flow gone      | inform TU         | Terminated  +
        Proceeding | Flow gone      | inform TU         | Terminated  +
        Completed  | 300-699        | send ACK          | Completed
        Completed  | Transport Err. | inform TU         | Terminated
        Completed  | Timer D        | -                 | Terminated
        Accepted   | 2xx            | to TU             | Accepted
        Accepted   | Timer M        | -                 | Terminated
    """,
    CLIENT_NON_INVITE.name: """
        Trying     | Timer E        | send              | Trying
        Trying     | Timer F        | inform TU         | Terminated
        Trying     | Transport Err. | inform TU         | Terminated
        Trying     | Flow gone      | inform TU         | Terminated  +
        Trying     | 1xx            | to TU             | Proceeding
        Trying     | 2xx            | to TU             | Completed
        Trying     | 300-699        | to TU             | Completed
        Proceeding | Timer E        | send              | Proceeding
        Proceeding | Timer F        | inform TU         | Terminated
        Proceeding | Transport Err. | inform TU         | Terminated
        Proceeding | Flow gone      | inform TU         | Terminated  +
        Proceeding | 1xx            | to TU             | Proceeding
        Proceeding | 2xx            | to TU             | Completed
        Proceeding | 300-699        | to TU             | Completed
        Completed  | Timer K        | -                 | Terminated
    """,
    SERVER_INVITE.name: """
        Trying     | Timer 100      | send 100          | Proceeding
        Trying     | 1xx            | send              | Proceeding
        Trying     | 2xx            | send              | Accepted
        Trying     | 300-699        | send              | Completed
        Trying     | Transport Err. | inform TU         | Trying
        Proceeding | request        | send              | Proceeding
        Proceeding | 1xx            | send              | Proceeding
        Proceeding | 2xx            | send              | Accepted
        Proceeding | 300-699        | send              | Completed
        Proceeding | Transport Err. | inform TU         | Proceeding
        Trying     | Flow gone      | inform TU         | Trying      +
        Proceeding | Flow gone      | inform TU         | Proceeding  +
        Completed  | request        | send              | Completed
        Completed  | Timer G        | send              | Completed
        Completed  | Transport Err. | inform TU         | Completed
        Completed  | ACK            | -                 | Confirmed
        Completed  | Timer H        | inform TU         | Terminated
        Confirmed  | Timer I        | -                 | Terminated
        Accepted   | ACK            | to TU             | Accepted
        Accepted   | 2xx            | send              | Accepted
        Accepted   | Transport Err. | inform TU         | Accepted
        Accepted   | Timer L        | -                 | Terminated
    """,
    SERVER_NON_INVITE.name: """
        Trying     | 1xx            | send              | Proceeding
        Trying     | 2xx            | send              | Completed
        Trying     | 300-699        | send              | Completed
        Trying     | Timer F        | -                 | Terminated  +
        Proceeding | request        | send              | Proceeding
        Proceeding | 1xx            | send              | Proceeding
        Proceeding | 2xx            | send              | Completed
        Proceeding | 300-699        | send              | Completed
        Proceeding | Transport Err. | inform TU         | Terminated
        Proceeding | Timer F        | -                 | Terminated  +
        Completed  | request        | send              | Completed
        Completed  | Transport Err. | inform TU         | Terminated
        Completed  | Timer J        | -                 | Terminated
    """,
}

each_machine = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)


def drawn(machine: Machine) -> dict[tuple[str, str], tuple[str, str]]:
    rows = {}
    for line in FIGURES[machine.name].strip().splitlines():
        state, event, actions, after = (cell.strip() for cell in line.removesuffix("+").split("|"))
        assert (state, event) not in rows, "an arrow drawn twice"
        rows[state, event] = actions, after
    return rows


def coded(machine: Machine) -> dict[tuple[str, str], tuple[str, str]]:
    return {
        (str(state), str(event)): (", ".join(actions) or "-", str(after))
        for (state, event), (actions, after) in machine.table.items()
    }


@each_machine
def test_every_arrow_of_the_figure_is_in_the_table(machine: Machine) -> None:
    table = coded(machine)
    for arrow, row in drawn(machine).items():
        assert table.get(arrow) == row, arrow


@each_machine
def test_every_row_of_the_table_is_an_arrow_of_the_figure(machine: Machine) -> None:
    figure = drawn(machine)
    for arrow, row in coded(machine).items():
        assert figure.get(arrow) == row, arrow


@each_machine
def test_every_state_but_terminated_can_be_reached_and_left(machine: Machine) -> None:
    reached = {machine.initial}
    while more := {after for (state, _), (_, after) in machine.table.items() if state in reached} - reached:
        reached |= more
    assert reached == {*machine.timers, State.TERMINATED}
    for state in machine.timers:
        assert any(after is not state for (before, _), (_, after) in machine.table.items() if before is state)
    assert not any(state is State.TERMINATED for state, _ in machine.table)


@each_machine
def test_a_timer_runs_exactly_in_the_states_that_have_an_arrow_for_it(machine: Machine) -> None:
    arrows = {(state, event) for state, event in machine.table if isinstance(event, Timer)}
    running = {(state, timer) for state, timers in machine.timers.items() for timer in timers}
    assert arrows - running <= {(State.PROCEEDING, Timer.CANCEL)}  # started by the endpoint
    assert running <= arrows


@pytest.mark.parametrize("reliable", [False, True])
@each_machine
def test_no_state_waits_for_ever_but_for_the_tu_or_a_final_response(machine: Machine, reliable: bool) -> None:
    for state, timers in machine.timers.items():
        ends = [
            timer
            for timer in timers
            if machine.table[state, timer][1] is not state
            and delay(timer, state, 0, reliable=reliable, t1=0.5) is not None
        ]
        if not ends:
            assert state is State.PROCEEDING
            assert "invite" in machine.name
            assert "non" not in machine.name


# RFC 3261 table 4: timer, UDP, TCP; RFC 6026 for L and M.
TABLE_4 = [
    (Timer.A, 0.5, None),
    (Timer.B, 32.0, 32.0),
    (Timer.D, 32.0, 0.0),
    (Timer.E, 0.5, None),
    (Timer.F, 32.0, 32.0),
    (Timer.G, 0.5, None),
    (Timer.H, 32.0, 32.0),
    (Timer.I, T4, 0.0),
    (Timer.J, 32.0, 0.0),
    (Timer.K, T4, 0.0),
    (Timer.L, 32.0, 32.0),
    (Timer.M, 32.0, 32.0),
    (Timer.TRYING, 0.2, 0.2),
    (Timer.CANCEL, 32.0, 32.0),
]


@pytest.mark.parametrize(("timer", "udp", "tcp"), TABLE_4)
def test_timers_last_as_long_as_table_4_says(timer: Timer, udp: float, tcp: float | None) -> None:
    assert delay(timer, State.TRYING, 0, reliable=False, t1=0.5) == udp
    assert delay(timer, State.TRYING, 0, reliable=True, t1=0.5) == tcp


def test_table_4_is_complete() -> None:
    assert {timer for timer, _, _ in TABLE_4} == set(Timer)


@pytest.mark.parametrize(
    ("timer", "state", "intervals"),
    [
        (Timer.A, State.CALLING, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]),
        (Timer.E, State.TRYING, [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]),
        (Timer.E, State.PROCEEDING, [T2] * 6),
        (Timer.G, State.COMPLETED, [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]),
    ],
)
def test_retransmissions_back_off(timer: Timer, state: State, intervals: list[float]) -> None:
    assert [delay(timer, state, n, reliable=False, t1=0.5) for n in range(6)] == intervals


def test_status_codes_fall_into_the_columns_of_the_figures() -> None:
    assert [str(signal_of(status)) for status in (100, 199, 200, 299, 300, 699)] == [
        "1xx", "1xx", "2xx", "2xx", "300-699", "300-699",
    ]  # fmt: skip
