// All events.

import { allEvents } from "./api.js";
import { makeEvent } from "./forms.js";
import { STATUS_WORDS, element, number, problemBox, seatBar, showConnection, statusPill } from "./dom.js";

/** To see more events than this, use the API. */
const EVENTS_MAX = 2_000;
const REFRESH_MS = 3_000;

export function showEvents(main) {
  document.title = "Events - TicketBoss";
  const stop = new AbortController();
  let loaded = null;
  let drawn = null;

  const search = element("input", { type: "search", id: "search", autocomplete: "off", oninput: draw });
  const status = element(
    "select",
    { id: "status", onchange: draw },
    element("option", { value: "" }, "Any"),
    Object.entries(STATUS_WORDS).map(([value, words]) => element("option", { value }, words)),
  );
  const problem = element("div", {});
  const list = element("div", { id: "events" }, element("p", { class: "empty" }, "Loading events..."));
  main.append(
    element(
      "div",
      { class: "spread" },
      element("h1", {}, "Events"),
      element("button", { class: "main", type: "button", onclick: () => makeEvent() }, "New event"),
    ),
    element(
      "div",
      { class: "filters" },
      element("label", { for: "search" }, "Search", search),
      element("label", { for: "status" }, "Status", status),
      element("p", { id: "count", class: "quiet small", role: "status" }),
    ),
    problem,
    list,
  );

  function draw() {
    if (!loaded) return;
    const words = search.value.trim().toLowerCase();
    const wanted = loaded.events.filter(
      (event) =>
        (!status.value || event.status === status.value) &&
        (event.eventId.includes(words) || event.name.toLowerCase().includes(words)),
    );
    const count = `${number(wanted.length)} of ${loaded.more ? "the first " : ""}${number(loaded.events.length)}`;
    const counted = document.getElementById("count");
    if (counted.textContent !== count) counted.textContent = count;
    // An unchanged list is left alone, since people may be reading it, or about to touch it.
    const now = JSON.stringify(wanted);
    if (now === drawn) return;
    drawn = now;
    const none = loaded.more ? `No matching events among the first ${number(loaded.events.length)}.` : "No matching events.";
    const active = document.activeElement?.getAttribute("href");
    list.replaceChildren(
      wanted.length
        ? element("ul", { class: "events" }, wanted.map(row))
        : element("p", { class: "empty" }, loaded.events.length ? none : "There are no events yet."),
    );
    if (active?.startsWith("#/events/")) list.querySelector(`[href="${active}"]`)?.focus();
  }

  async function refresh() {
    while (!stop.signal.aborted) {
      try {
        if (!document.hidden || !loaded) loaded = await allEvents(EVENTS_MAX, stop.signal);
        if (stop.signal.aborted) return;
        showConnection("live", "Up to date");
        problem.replaceChildren();
        draw();
      } catch (failure) {
        if (stop.signal.aborted) return;
        showConnection("away", "Disconnected");
        // Shown, and read out, only once.
        if (!problem.textContent.includes(failure.body.detail)) problem.replaceChildren(problemBox(failure.body));
        if (!loaded) list.replaceChildren();
      }
      await new Promise((resume) => setTimeout(resume, REFRESH_MS));
    }
  }
  refresh();
  return () => stop.abort();
}

function row(event) {
  return element(
    "li",
    { class: "card" },
    element(
      "a",
      { href: `#/events/${event.eventId}` },
      element("span", {}, element("strong", {}, event.name), element("span", { class: "id quiet small" }, event.eventId)),
      element(
        "span",
        { class: "seats" },
        seatBar(event),
        element("span", { class: "quiet small number" }, `${number(event.availableSeats)} of ${number(event.totalSeats)} free`),
      ),
      statusPill(event.status),
    ),
  );
}
