// Dialogs that change something.

import { Problem, eventPath, read, send } from "./api.js";
import { STATUS_WORDS, announce, clock, element, number, problemBox, uuid } from "./dom.js";

/**
 * Opens a dialog with a form. `submit` gets the values that were given. What it returns is said once
 * the dialog is closed; it stays open if that is nothing, and shows the problem if one is thrown.
 */
export function ask({ title, fields, button, keep = "Cancel", submit, closed = () => {} }) {
  const opener = document.activeElement;
  const message = element("div", {});
  const go = element("button", { class: "main" }, button);
  const heading = element("h2", { id: "dialog-title" }, title);
  const cancel = element("button", { type: "button", onclick: () => dialog.close() }, keep);
  const form = element(
    "form",
    { novalidate: true },
    fields.map(({ name, label, hint, options, ...attributes }) =>
      element(
        "label",
        {},
        label,
        options
          ? element("select", { name, ...attributes }, options)
          : element("input", { name, autocomplete: "off", ...attributes }),
        hint && element("small", {}, hint),
      ),
    ),
    message,
    element("div", { class: "buttons" }, cancel, go),
  );
  const dialog = element("dialog", { "aria-labelledby": "dialog-title" }, heading, form);
  dialog.addEventListener("close", () => {
    dialog.remove();
    const back = opener?.isConnected ? opener : document.getElementById("main");
    back.focus();
    closed();
  });
  // What was sent is waited for, so that its end is seen.
  dialog.addEventListener("cancel", (cancelled) => go.disabled && cancelled.preventDefault());
  form.addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    if (go.disabled) return;
    const half = form.querySelector(":invalid[type=datetime-local]");
    if (half?.validity.badInput) {
      message.replaceChildren(problemBox({ title: "A date is not complete", detail: "Complete it, or empty it." }));
      half.focus();
      return;
    }
    go.disabled = cancel.disabled = true;
    const given = Object.fromEntries(Array.from(new FormData(form)).filter(([, value]) => value !== ""));
    try {
      const said = await submit(given, { message, form });
      if (said === undefined) return;
      dialog.close();
      announce(said);
    } catch (failure) {
      if (!(failure instanceof Problem)) throw failure;
      message.replaceChildren(problemBox(failure.body));
    } finally {
      go.disabled = cancel.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** What is no number is sent as it was typed, so that the service says what is wrong with it. */
const numeric = (text) => (/^\d+$/.test(text) ? Number(text) : text);
/** A moment as the field for it has it, in local time. */
const localTime = (time) => {
  if (!time) return "";
  const date = new Date(time);
  return new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
};
const moment = (text) => (text ? new Date(text).toISOString() : null);
const ZONE = `In your time zone, ${Intl.DateTimeFormat().resolvedOptions().timeZone}`;

export function makeEvent() {
  // Sent again after an answer that was lost, it is still one event.
  const madeUp = uuid();
  ask({
    title: "New event",
    button: "Make it",
    fields: [
      { name: "name", label: "Name", required: true },
      { name: "totalSeats", label: "Seats", inputmode: "numeric", required: true },
      { name: "eventId", label: "Id", hint: "Stands in addresses. Made up if it is left empty." },
      { name: "maxSeatsPerReservation", label: "Seats for one reservation, at most", inputmode: "numeric", value: "10" },
      { name: "maxSeatsPerPartner", label: "Seats for one partner, at most", inputmode: "numeric", hint: "As many as there are if it is left empty. Counts where callers need a key." },
      { name: "salesOpenAt", label: "Sales begin", type: "datetime-local", hint: `${ZONE}. At once if it is left empty.` },
      { name: "salesCloseAt", label: "Sales end", type: "datetime-local", hint: ZONE },
    ],
    submit: async (given) => {
      const body = { eventId: madeUp, ...given };
      for (const name of ["totalSeats", "maxSeatsPerReservation", "maxSeatsPerPartner"]) if (given[name]) body[name] = numeric(given[name]);
      for (const name of ["salesOpenAt", "salesCloseAt"]) if (given[name]) body[name] = moment(given[name]);
      const response = await send("POST", "/events", { body });
      const made = await response.json();
      location.hash = `#/events/${made.eventId}`;
      return `${made.name} was made`;
    },
  });
}

/** `seen` is the event as it was when the dialog was opened: the change is meant for that. */
export function changeEvent(seen, done) {
  let anyVersion = false;
  ask({
    title: "Change the event",
    button: "Change it",
    fields: [
      { name: "name", label: "Name", value: seen.name },
      { name: "totalSeats", label: "Seats", inputmode: "numeric", value: seen.totalSeats },
      { name: "salesOpenAt", label: "Sales begin", type: "datetime-local", value: localTime(seen.salesOpenAt), hint: ZONE },
      { name: "salesCloseAt", label: "Sales end", type: "datetime-local", value: localTime(seen.salesCloseAt), hint: ZONE },
    ],
    submit: async (given, { message, form }) => {
      const body = {};
      if (given.name !== seen.name) body.name = given.name ?? "";
      const totalSeats = numeric(given.totalSeats ?? "");
      if (totalSeats !== seen.totalSeats) body.totalSeats = totalSeats;
      for (const name of ["salesOpenAt", "salesCloseAt"]) {
        if ((given[name] ?? "") !== localTime(seen[name])) body[name] = moment(given[name]);
      }
      if (!Object.keys(body).length) return "Nothing was changed";
      const headers = { "If-Match": anyVersion ? "*" : `"${seen.version}"` };
      try {
        done(await (await send("PATCH", eventPath(seen.eventId), { body, headers })).json());
        return "The event was changed";
      } catch (failure) {
        if (failure.body?.code !== "precondition_failed") throw failure;
        const now = await read(eventPath(seen.eventId));
        // With what the form says then.
        const anyway = () => {
          anyVersion = true;
          form.requestSubmit();
        };
        message.replaceChildren(conflict(seen, now, anyway));
        message.querySelector("button").focus();
      }
    },
  });
}

/** What moved while somebody was typing. */
function conflict(seen, now, anyway) {
  const shown = {
    name: "Name",
    totalSeats: "Seats in total",
    availableSeats: "Seats free",
    heldSeats: "Seats held",
    status: "Status",
    salesOpenAt: "Sales begin",
    salesCloseAt: "Sales end",
  };
  const words = (field, value) => {
    if (value === undefined) return "none";
    if (field === "status") return STATUS_WORDS[value];
    if (field.startsWith("sales")) return clock(value);
    return typeof value === "number" ? number(value) : value;
  };
  const moved = Object.keys(shown).filter((field) => seen[field] !== now[field]);
  const lines = moved.map((field) => `${shown[field]}: ${words(field, seen[field])} → ${words(field, now[field])}`);
  if (!lines.length) lines.push("Reservations came and went; all else is as it was.");
  return element(
    "div",
    { class: "notice", role: "alert", id: "conflict" },
    element("strong", {}, "The event has changed meanwhile"),
    element("p", {}, `You saw version ${seen.version}; it is at version ${now.version} now. Nothing was done.`),
    element("ul", {}, lines.map((line) => element("li", {}, line))),
    element("p", { class: "buttons" }, element("button", { type: "button", onclick: anyway }, "Change it all the same")),
  );
}

export function makeReservation(id, done) {
  // Sent again after an answer that was lost, it is still one reservation. Another request has
  // another key.
  let sent = {};
  ask({
    title: "Test reservation",
    button: "Reserve",
    fields: [
      { name: "partnerId", label: "Partner", value: "console", required: true },
      { name: "seats", label: "Seats", inputmode: "numeric", value: "1", required: true },
      { name: "holdSeconds", label: "Hold for seconds", inputmode: "numeric", hint: "Booked at once if it is left empty." },
      { name: "reference", label: "Reference" },
    ],
    submit: async (given) => {
      const body = { ...given };
      for (const name of ["seats", "holdSeconds"]) if (given[name]) body[name] = numeric(given[name]);
      const request = JSON.stringify(body);
      if (sent.request !== request) sent = { request, key: uuid() };
      const headers = { "Idempotency-Key": sent.key };
      const response = await send("POST", `${eventPath(id)}/reservations`, { body, headers });
      const made = await response.json();
      done();
      return `${made.seats} seats were ${made.status === "held" ? "held" : "booked"}`;
    },
  });
}

/** Asks before something that cannot be taken back. */
export function confirmAction({ title, text, button, keep, act }) {
  ask({
    title,
    button,
    keep,
    fields: [],
    submit: async () => {
      await act();
      return text;
    },
  });
}
