"""Holds seats, confirms them, asks for more than there are, and cancels.

The client is generated from the service's OpenAPI document; the type checker rejects what the
document does not allow.
"""

import os
import sys
from typing import TypeVar

from ticketboss_client import AuthenticatedClient
from ticketboss_client.api.events import make_event, read_event
from ticketboss_client.api.reservations import (
    cancel_reservation_of_event,
    confirm_reservation_of_event,
    make_reservation_of_event,
)
from ticketboss_client.models import EventRequest, Problem, Reservation, ReservationRequest

T = TypeVar("T")


def must(answer: T | Problem | None) -> T:
    """Returns the result of a call, or raises an error that says why the service refused."""
    if isinstance(answer, Problem):
        raise RuntimeError(f"{answer.code}: {answer.detail}")
    if answer is None:
        raise RuntimeError("the document does not describe this answer")
    return answer


base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:5000"
# A service without access control ignores the key.
key = os.environ.get("TICKETBOSS_KEY", "none")
with AuthenticatedClient(base_url=base_url, token=key) as client:
    # Create an event of our own.
    event = must(
        make_event.sync(client=client, body=EventRequest(name="Python Meet-up", total_seats=10))
    )

    # Hold three seats. The key makes the request safe to repeat; here it is sent twice.
    def hold() -> Reservation:
        return must(
            make_reservation_of_event.sync(
                event.event_id,
                client=client,
                idempotency_key="order-4711",
                body=ReservationRequest(
                    partner_id="abc-corp", seats=3, hold_seconds=300, reference="order 4711"
                ),
            )
        )

    held = hold()
    again = hold()
    print(f"held {held.seats} seats until {held.hold_expires_at}")
    print(f"sent again: the same reservation? {again.reservation_id == held.reservation_id}")

    # The customer has paid.
    confirmed = must(
        confirm_reservation_of_event.sync(event.event_id, held.reservation_id, client=client)
    )
    print(f"status: {confirmed.status}")

    # Book more seats than are left: the refusal says how many there are.
    short = make_reservation_of_event.sync(
        event.event_id,
        client=client,
        body=ReservationRequest(partner_id="abc-corp", seats=8),
    )
    assert isinstance(short, Problem)
    print(f"refused: {short.code}, {short.available_seats} left")

    # The customer has changed their mind.
    cancelled = cancel_reservation_of_event.sync_detailed(
        event.event_id, held.reservation_id, client=client
    )
    print(f"cancelled: {cancelled.status_code.value}")

    left = must(read_event.sync(event.event_id, client=client))
    print(f"available: {left.available_seats} of {left.total_seats}")
