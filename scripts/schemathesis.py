"""Tells schemathesis what a JSON schema cannot say about the contract."""

import schemathesis

# The limit of an event that sets no other.
SEATS_PER_RESERVATION = 10
NUMBERS = (
    "seats",
    "holdSeconds",
    "totalSeats",
    "maxSeatsPerReservation",
    "maxSeatsPerPartner",
)


def says_what_the_schema_cannot(item):
    # To a JSON schema, 8.0 is an integer. The contract refuses it: a number of seats has no decimal
    # point.
    if any(isinstance(item.get(name), float) for name in NUMBERS):
        return True
    # The schema does not know how many seats an event allows per reservation.
    seats = item.get("seats")
    return isinstance(seats, int) and seats > SEATS_PER_RESERVATION


@schemathesis.hook
def filter_body(context, body):
    if not isinstance(body, dict):
        return True
    operation = context.operation
    if operation.path == "/keys":
        # The scope `partner`, and no other, has a partner, and a key expires in the future.
        of_partner = body.get("scope") == "partner"
        return ("partnerId" in body) == of_partner and not isinstance(body.get("expiresAt"), str)
    if operation.method.upper() == "PATCH" and "reservationId" in operation.path:
        # A reservation can only be shrunk, and its number of seats is not known.
        seats = body.get("seats")
        return not isinstance(seats, (int, float)) or (isinstance(seats, int) and seats <= 1)
    if operation.path.endswith(("/reservations", "/batch")) and "partnerId" not in body:
        # The partner may be left out only with a partner's own key.
        return False
    items = body.get("items")
    items = [body, *(items if isinstance(items, list) else [])]
    if any(says_what_the_schema_cannot(item) for item in items if isinstance(item, dict)):
        return False
    # Sales end after they begin, and both times are within a few centuries.
    return not any(isinstance(body.get(name), str) for name in ("salesOpenAt", "salesCloseAt"))


@schemathesis.hook
def filter_query(context, query):
    # A version that the event has not reached is refused, and its current version is not known.
    return not isinstance(query, dict) or query.get("after") in (None, 0, "0")
