// Calls the service, over the same API that partners use.

import { anotherKey, currentKey, withKey } from "./key.js";

/** The problem that the service answered with, or the reason why there is no answer. */
export class Problem extends Error {
  constructor(body) {
    super(body.detail);
    Object.assign(this, { body });
  }
}

const AWAY = { title: "The server cannot be reached", detail: "It may be restarting.", code: "away" };

/** An answer that is cut off in the middle counts as none. */
export async function orAway(answer) {
  try {
    return await answer;
  } catch (failure) {
    throw failure.name === "AbortError" ? failure : new Problem(AWAY);
  }
}

/** Sends a request; throws a `Problem` unless it is granted. */
export async function send(method, path, { body, headers = {}, signal } = {}) {
  const request = { method, signal, headers: { ...headers } };
  if (body !== undefined) {
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  for (;;) {
    const key = currentKey();
    const response = await orAway(fetch(path, withKey(request, key)));
    if (response.ok) return response;
    const problem = await response.json().catch(() => null);
    if (response.status === 401 && (await anotherKey(key))) continue;
    throw new Problem(problem ?? { title: `Status ${response.status}`, detail: "No reason was given." });
  }
}

export async function read(path, signal) {
  const response = await send("GET", path, { signal });
  return orAway(response.json());
}

export const eventPath = (id) => `/events/${encodeURIComponent(id)}`;

/** All events, read page by page until there are `most`. */
export async function allEvents(most, signal) {
  const events = [];
  let cursor = "";
  do {
    const page = await read(`/events?limit=200${cursor}`, signal);
    events.push(...page.items);
    if (page.nextCursor === null) return { events, more: false };
    cursor = `&cursor=${encodeURIComponent(page.nextCursor)}`;
  } while (events.length < most);
  return { events, more: true };
}

/** Saves all reservations as a file. They are held in memory until then. */
export async function saveCsv(id, signal) {
  const headers = { Accept: "text/csv" };
  const response = await send("GET", `${eventPath(id)}/reservations`, { headers, signal });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await orAway(response.blob()));
  link.download = `${id}-reservations.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
