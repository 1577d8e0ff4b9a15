// Holds seats, confirms them, asks for more than there are, and cancels. The client is generated
// from the service's OpenAPI document; the compiler rejects what the document does not allow.

import { randomUUID } from "node:crypto";

import createClient from "openapi-fetch";

import type { components, paths } from "./schema.js";

const baseUrl = process.argv[2] ?? "http://127.0.0.1:5000";
// A service without access control ignores the key.
const key = process.env.TICKETBOSS_KEY ?? "none";
const api = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${key}` } });

/** Returns the result of a call, or throws an error that says why the service refused. */
function must<T>(answer: { data?: T; error?: components["schemas"]["Problem"] }): T {
  if (answer.data === undefined) {
    throw new Error(`${answer.error?.code}: ${answer.error?.detail}`);
  }
  return answer.data;
}

// Create an event of our own.
const event = must(
  await api.POST("/events", { body: { name: "TypeScript Meet-up", totalSeats: 10 } }),
);
const path = { eventId: event.eventId };

// Hold three seats. The key makes the request safe to repeat; here it is sent twice.
const hold = () =>
  api.POST("/events/{eventId}/reservations", {
    params: { path, header: { "Idempotency-Key": "order-4711" } },
    body: { partnerId: "abc-corp", seats: 3, holdSeconds: 300, reference: "order 4711" },
  });
const held = must(await hold());
const again = must(await hold());
console.log(`held ${held.seats} seats until ${held.holdExpiresAt}`);
console.log(`sent again: the same reservation? ${again.reservationId === held.reservationId}`);

// The customer has paid.
const confirmed = must(
  await api.POST("/events/{eventId}/reservations/{reservationId}/confirm", {
    params: { path: { ...path, reservationId: held.reservationId } },
  }),
);
console.log(`status: ${confirmed.status}`);

// Book more seats than are left: the refusal says how many there are.
const short = await api.POST("/events/{eventId}/reservations", {
  params: { path, header: { "Idempotency-Key": randomUUID() } },
  body: { partnerId: "abc-corp", seats: 8 },
});
console.log(`refused: ${short.error?.code}, ${short.error?.availableSeats} left`);

// The customer has changed their mind.
const cancelled = await api.DELETE("/events/{eventId}/reservations/{reservationId}", {
  params: { path: { ...path, reservationId: held.reservationId } },
});
console.log(`cancelled: ${cancelled.response.status}`);

const left = must(await api.GET("/events/{eventId}", { params: { path } }));
console.log(`available: ${left.availableSeats} of ${left.totalSeats}`);
