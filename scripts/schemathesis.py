"""What schemathesis is told about the contract that a JSON schema cannot say."""

import schemathesis

# Of an event that says nothing else.
SEATS_PER_RESERVATION = 10
NUMBERS = (
    "seats",
    "holdSeconds",
    "totalSeats",
    "maxSeatsPerReservation",
    "maxSeatsPerPartner",
)


def says_what_the_schema_cannot(item):
    # To a JSON schema 8.0 is an integer. The contract refuses it: what is written with a decimal
    # point is not a number of seats.
    if any(isinstance(item.get(name), float) for name in NUMBERS):
        return True
    # How many seats an event allows is not known to the schema.
    seats = item.get("seats")
    return isinstance(seats, int) and seats > SEATS_PER_RESERVATION


@schemathesis.hook
def filter_body(context, body):
    if not isinstance(body, dict):
        return True
    operation = context.operation
    if operation.path == "/keys":
        # A partner belongs to its scope and to no other, and the end of a key is still to come.
        of_partner = body.get("scope") == "partner"
        return ("partnerId" in body) == of_partner and not isinstance(body.get("expiresAt"), str)
    if operation.method.upper() == "PATCH" and "reservationId" in operation.path:
        # It only gets smaller, and how many it has is not known.
        seats = body.get("seats")
        return not isinstance(seats, (int, float)) or (isinstance(seats, int) and seats <= 1)
    if operation.path.endswith(("/reservations", "/batch")) and "partnerId" not in body:
        # Only a partner's own key says who books.
        return False
    items = body.get("items")
    items = [body, *(items if isinstance(items, list) else [])]
    if any(says_what_the_schema_cannot(item) for item in items if isinstance(item, dict)):
        return False
    # The end of the sales is after their beginning, and both are within some centuries.
    return not any(isinstance(body.get(name), str) for name in ("salesOpenAt", "salesCloseAt"))


@schemathesis.hook
def filter_query(context, query):
    # A version that the event has not had is refused, and at which it is, is not known.
    return not isinstance(query, dict) or query.get("after") in (None, 0, "0")
